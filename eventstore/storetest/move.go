package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

// records returns the history of several streams, as of another log.
func records(commits int) []eventstore.Record {
	var (
		list     []eventstore.Record
		position eventstore.Position
		versions = map[eventstore.StreamID]eventstore.Version{}
	)
	for i := range commits {
		s := stream(i % 3)
		n := i%2 + 1
		position += eventstore.Position(n)
		versions[s] += eventstore.Version(n)
		c := command(fmt.Sprint("k", i), n)
		list = append(list, eventstore.Record{
			Commit: eventstore.Commit{
				Position: position, Stream: s, Version: versions[s], Key: c.Key,
				At: epoch.Add(time.Duration(i) * time.Microsecond), Meta: c.Meta, Events: c.Events,
			},
			Hash: eventstore.Hash{byte(i), 1, 2, 15: 255},
		})
	}
	return list
}

func (f fixture) records() []eventstore.Record {
	f.t.Helper()
	var list []eventstore.Record
	for {
		var after eventstore.Position
		if len(list) > 0 {
			after = list[len(list)-1].Position
		}
		page, err := f.Records(f.t.Context(), after, 7)
		if err != nil {
			f.t.Fatalf("records: %v", err)
		}
		if len(page) == 0 {
			return list
		}
		list = append(list, page...)
	}
}

func testRestore(t *testing.T, log Log) {
	f := open(t, log)
	other := open(t, log) // a reader of the log
	want := records(30)
	odd := &want[29]
	odd.Key, odd.Meta = `~o'"hara\ 日本`, eventstore.Meta{Client: "~<ada>", Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Depth: 100, Wake: eventstore.Wake{Known: true}}
	odd.Events[0] = eventstore.Event{Type: "odd <name>", Form: 3, Data: json.RawMessage(`{"a": "\u00e9 <&> \\ 😀", "n":12345678901234567890.5}`)}
	for _, part := range [][]eventstore.Record{want[:1], want[1:12], nil, want[12:]} {
		if err := f.Restore(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "records", other.records(), want)
	var commits []eventstore.Commit
	for _, r := range want {
		commits = append(commits, r.Commit)
	}
	equal(t, "commits", other.all(), commits)
	report, err := verify.Log(t.Context(), f)
	if err != nil || len(report.Faults) > 0 || report.Commits != 30 {
		t.Errorf("verify: %+v, %v", report, err)
	}

	// The log continues, and knows its keys.
	last := want[27] // of stream 0
	_, err = f.Append(t.Context(), unit(last.Stream, last.Version, eventstore.Command{Key: last.Key, Hash: last.Hash, At: epoch, Events: last.Events}))
	var known *eventstore.KnownKeysError
	if !errors.As(err, &known) || known.Known[0].Reused || known.Known[0].Place.Position != last.Position {
		t.Errorf("a restored key: got %v", err)
	}
	equal(t, "places", other.append(unit(last.Stream, last.Version, command("new", 1))),
		[]eventstore.Place{{Version: last.Version + 1, Position: odd.Position + 1}})
}

func testRestoreRefuses(t *testing.T, log Log) {
	f := open(t, log)
	all := records(20)
	if err := f.Restore(t.Context(), all[:10]); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func([]eventstore.Record) []eventstore.Record
		says   string
	}{
		"a hole before it": {func(l []eventstore.Record) []eventstore.Record { return l[1:] }, "the log ends at 15"},
		"a known commit":   {func(l []eventstore.Record) []eventstore.Record { return append(slices.Clone(all[9:10]), l...) }, "the log ends at 15"},
		"a hole within":    {func(l []eventstore.Record) []eventstore.Record { return slices.Delete(l, 3, 4) }, "follows"},
		"no events":        {func(l []eventstore.Record) []eventstore.Record { l[4].Events = nil; return l }, "0 events"},
		"a missing version": {func(l []eventstore.Record) []eventstore.Record {
			l[0].Version += 5
			l[3].Version, l[6].Version, l[9].Version = l[3].Version+5, l[6].Version+5, l[9].Version+5
			return l
		}, "which is at version"},
		"a missing version within": {func(l []eventstore.Record) []eventstore.Record { l[9].Version++; return l }, "follows version"},
		"a key of its stream":      {func(l []eventstore.Record) []eventstore.Record { l[2].Key = all[3*2+streamOffset(l)].Key; return l }, "key"},
		"a key twice":              {func(l []eventstore.Record) []eventstore.Record { l[5].Key = l[2].Key; return l }, "key"},
		"no key":                   {func(l []eventstore.Record) []eventstore.Record { l[5].Key = ""; return l }, "empty"},
		"invalid JSON":             {func(l []eventstore.Record) []eventstore.Record { l[5].Events[0].Data = []byte("{"); return l }, "JSON"},
		"an invalid stream":        {func(l []eventstore.Record) []eventstore.Record { l[5].Stream.Type = "No"; return l }, "character"},
	} {
		err := f.Restore(t.Context(), c.change(records(20)[10:]))
		var refused *eventstore.RestoreError
		if !errors.As(err, &refused) || !strings.Contains(refused.Reason, c.says) {
			t.Errorf("%s: got %v, want a refusal with %q", name, err, c.says)
		}
		equal(t, name, f.records(), all[:10])
	}
	if err := f.Restore(t.Context(), all[10:]); err != nil {
		t.Errorf("the commits that continue the log: %v", err)
	}
}

// streamOffset returns the offset from record 6 of a record on the stream of l[2].
func streamOffset(l []eventstore.Record) int {
	for i, r := range records(9)[6:] {
		if r.Stream == l[2].Stream {
			return i
		}
	}
	return 0
}

func testRestoreOverOutcomes(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, eventstore.Command{Key: "k1", At: epoch, Keep: true, Answer: json.RawMessage(`{}`)}))
	if err := f.Restore(t.Context(), records(5)); err != nil {
		t.Fatal(err)
	}
	report, err := verify.Log(t.Context(), f)
	if err != nil || len(report.Faults) > 0 {
		t.Errorf("verify: %+v, %v", report, err)
	}
	log.SetBack(t, 1)
	if err := f.Restore(t.Context(), records(9)[5:]); err == nil {
		t.Error("a log that went back accepts commits")
	}
}

func testAdopt(t *testing.T, log Log) {
	f := open(t, log)
	other := open(t, log)
	own := f.LogID()
	const id = "0190b5c0-aaaa-7000-8000-000000000001"
	var refused *eventstore.RestoreError
	for _, wrong := range []string{"", "x", strings.ToUpper(id), id + "0", "'; drop table log; --"} {
		if err := f.Adopt(t.Context(), wrong); !errors.As(err, &refused) {
			t.Errorf("the id %q: got %v", wrong, err)
		}
	}
	if err := f.Adopt(t.Context(), id); err != nil || f.LogID() != id {
		t.Fatalf("an empty log: %v, its id is %s", err, f.LogID())
	}
	// Another open store detects the change, and accepts it in Resume.
	if err := other.Check(t.Context()); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("another store: the first check returns %v", err)
	}
	if _, err := other.Resume(t.Context()); err != nil || other.LogID() != id {
		t.Errorf("another store: %v, its id is %s", err, other.LogID())
	}
	if err := f.Restore(t.Context(), records(3)); err != nil {
		t.Fatal(err)
	}
	if err := f.Adopt(t.Context(), id); err != nil {
		t.Errorf("its own id: %v", err)
	}
	if err := f.Adopt(t.Context(), own); !errors.As(err, &refused) || f.LogID() != id {
		t.Errorf("a log with events: got %v, its id is %s", err, f.LogID())
	}
}
