package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

// fill appends 30 commits of 1, 2, 3, 1, 2, 3, … events to the streams c0, c1, c2 in
// turn. Every fourth one has the type "other".
func (f fixture) fill() []eventstore.Commit {
	f.t.Helper()
	at := make(map[eventstore.StreamID]eventstore.Version)
	for i := range 30 {
		s := stream(i % 3)
		if i%4 == 3 {
			s.Type = "other"
		}
		f.append(unit(s, at[s], command(fmt.Sprint("k", i), i%3+1)))
		at[s] += eventstore.Version(i%3 + 1)
	}
	return f.all()
}

func testReads(t *testing.T, log Log) {
	f := open(t, log)
	if head, err := f.Head(t.Context()); err != nil || head != 0 {
		t.Errorf("an empty log's head is %d, %v", head, err)
	}
	if page, err := f.Read(t.Context(), 0, 10); err != nil || len(page) != 0 {
		t.Errorf("an empty log reads %v, %v", page, err)
	}
	all := f.fill()
	if len(all) != 30 || all[29].Position != 60 {
		t.Fatalf("%d commits up to %d, want 30 up to 60", len(all), all[len(all)-1].Position)
	}
	if head, err := f.Head(t.Context()); err != nil || head != 60 {
		t.Errorf("the head is %d, %v; want 60", head, err)
	}
	// After positions between commits, within commits, and past the head.
	for _, after := range []eventstore.Position{0, 1, 2, 3, 4, 5, 6, 58, 59, 60, 61, math.MaxUint64} {
		for _, limit := range []int{1, 2, 1000} {
			page, err := f.Read(t.Context(), after, limit)
			if err != nil {
				t.Fatalf("read after %d: %v", after, err)
			}
			equal(t, fmt.Sprintf("read %d after %d", limit, after), keysOf(page),
				keysOf(matching(all, limit, func(c eventstore.Commit) bool { return c.Position > after })))
		}
	}
	s := stream(2)
	mine := matching(all, 1000, func(c eventstore.Commit) bool { return c.Stream == s })
	for after := range eventstore.Version(25) {
		page, err := f.ReadStream(t.Context(), s, after, 3)
		if err != nil {
			t.Fatalf("read stream after %d: %v", after, err)
		}
		equal(t, fmt.Sprintf("read stream after %d", after), keysOf(page),
			keysOf(matching(mine, 3, func(c eventstore.Commit) bool { return c.Version > after })))
	}
	last := mine[len(mine)-1]
	head, err := f.StreamHead(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "stream head", head, eventstore.Head{Version: last.Version, Position: last.Position})
	head, err = f.StreamHead(t.Context(), stream(99))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "head of an unused stream", head, eventstore.Head{})
	if page, err := f.ReadStream(t.Context(), stream(99), 0, 5); err != nil || len(page) != 0 {
		t.Errorf("an unused stream reads %v, %v", page, err)
	}
}

func matching(list []eventstore.Commit, limit int, want func(eventstore.Commit) bool) []eventstore.Commit {
	var out []eventstore.Commit
	for _, c := range list {
		if len(out) < limit && want(c) {
			out = append(out, c)
		}
	}
	return out
}

func keysOf(list []eventstore.Commit) []string {
	keys := []string{}
	for _, c := range list {
		keys = append(keys, c.Key)
	}
	return keys
}

func testReadType(t *testing.T, log Log) {
	f := open(t, log)
	if page, upTo, err := f.ReadType(t.Context(), "other", 0, 10, 10); err != nil || len(page) != 0 || upTo != 0 {
		t.Errorf("an empty log reads %v up to %d, %v", page, upTo, err)
	}
	all := f.fill()
	want := keysOf(matching(all, 1000, func(c eventstore.Commit) bool { return c.Stream.Type == "other" }))
	for _, limit := range []int{1, 2, 1000} {
		for _, scan := range []int{1, 2, 7, 60, 1000} {
			var (
				got   []string
				after eventstore.Position
				calls int
			)
			for after < 60 {
				page, upTo, err := f.ReadType(t.Context(), "other", after, limit, scan)
				if err != nil {
					t.Fatalf("limit %d, scan %d: after %d: %v", limit, scan, after, err)
				}
				if upTo <= after || len(page) > limit {
					t.Fatalf("limit %d, scan %d: after %d: %d commits up to %d", limit, scan, after, len(page), upTo)
				}
				// A commit is never cut, so up to 2 positions more than scan are
				// examined.
				if upTo > after+eventstore.Position(scan)+2 {
					t.Fatalf("limit %d, scan %d: after %d: examined up to %d", limit, scan, after, upTo)
				}
				got = append(got, keysOf(page)...)
				after = upTo
				calls++
			}
			if !slices.Equal(got, want) {
				t.Errorf("limit %d, scan %d: got %q, want %q", limit, scan, got, want)
			}
			if scan == 1 && calls < 29 {
				t.Errorf("scan 1 read the log in %d calls", calls)
			}
		}
	}
	if page, upTo, err := f.ReadType(t.Context(), "other", 60, 10, 10); err != nil || len(page) != 0 || upTo != 60 {
		t.Errorf("at the head: %v up to %d, %v; want nothing up to 60", page, upTo, err)
	}
}

func testSnapshots(t *testing.T, log Log) {
	f := open(t, log)
	s := stream(1)
	f.append(unit(s, 0, command("a", 2)))
	f.append(unit(s, 2, command("b", 1)))
	load := func(s eventstore.StreamID, limit int, after eventstore.Version, commits int) *eventstore.Snapshot {
		t.Helper()
		got, err := f.Load(t.Context(), eventstore.LoadRequest{Stream: s, Fingerprint: "f1", Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		want, err := f.ReadStream(t.Context(), s, after, limit)
		if err != nil || len(want) != commits {
			t.Fatalf("after version %d: %d commits, %v; want %d", after, len(want), err, commits)
		}
		equal(t, fmt.Sprint("commits after version ", after), got.Commits, want)
		if got.More != (commits == limit) {
			t.Errorf("%d commits at limit %d: More is %v", commits, limit, got.More)
		}
		return got.Snapshot
	}
	if snap := load(s, 10, 0, 2); snap != nil {
		t.Fatalf("no snapshot: got %v", snap)
	}
	load(s, 1, 0, 1)
	load(stream(3), 10, 0, 0)
	want := eventstore.Snapshot{Stream: s, Version: 3, Position: 3, At: epoch, Fingerprint: "f1", State: json.RawMessage(`{"value": 3}`)}
	older := want
	older.Version, older.Position, older.State = 2, 2, json.RawMessage(`{"value": 2}`)
	for i, step := range []struct {
		save, want eventstore.Snapshot
		commits    int // after it
	}{
		{older, older, 1}, {want, want, 0}, {older, want, 0},
	} {
		if err := f.SaveSnapshot(t.Context(), step.save); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		got := load(s, 10, step.want.Version, step.commits)
		if got == nil {
			t.Fatalf("step %d: no snapshot", i)
		}
		equal(t, fmt.Sprint("snapshot after step ", i), *got, step.want)
	}
	bad := want
	bad.State = json.RawMessage(`{`)
	if err := f.SaveSnapshot(t.Context(), bad); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("a state that is not JSON: got %v", err)
	}
	// A snapshot whose commit is missing belongs to a lost history.
	lost := want
	lost.Stream, lost.Version, lost.Position = stream(2), 9, 99
	if err := f.SaveSnapshot(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	if got := load(stream(2), 10, 0, 0); got != nil {
		t.Errorf("a snapshot without its commit: got %v", got)
	}
}

// testSnapshotsOfVersions saves snapshots of several program versions. The store
// keeps two of a stream: the last one, and the last one of the other versions.
func testSnapshotsOfVersions(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	f.append(unit(stream(1), 1, command("b", 1)))
	f.append(unit(stream(2), 0, command("a", 1)))
	save := func(s, version int, fingerprint string) {
		t.Helper()
		position := eventstore.Position(version)
		if s == 2 {
			position = 3
		}
		snap := eventstore.Snapshot{
			Stream: stream(s), Version: eventstore.Version(version), Position: position, At: epoch,
			Fingerprint: fingerprint, State: json.RawMessage(`{}`),
		}
		if err := f.SaveSnapshot(t.Context(), snap); err != nil {
			t.Fatal(err)
		}
	}
	want := func(s int, versions map[string]eventstore.Version) {
		t.Helper()
		for _, fingerprint := range []string{"old", "new", "newest", ""} {
			got, err := f.Load(t.Context(), eventstore.LoadRequest{Stream: stream(s), Fingerprint: fingerprint, Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			var version eventstore.Version
			if got.Snapshot != nil {
				version = got.Snapshot.Version
			}
			if version != versions[fingerprint] || len(got.Commits) != 3-s-int(version) {
				t.Errorf("%s of stream %d: a snapshot of version %d and %d commits, want version %d",
					fingerprint, s, version, len(got.Commits), versions[fingerprint])
			}
		}
	}
	save(2, 1, "old")
	save(1, 2, "old")
	save(1, 1, "new") // by a program that has not yet read the whole stream
	want(1, map[string]eventstore.Version{"old": 2, "new": 1})
	save(1, 2, "old")
	save(1, 2, "new")
	want(1, map[string]eventstore.Version{"old": 2, "new": 2})
	save(1, 1, "newest")
	want(1, map[string]eventstore.Version{"new": 2, "newest": 1})
	want(2, map[string]eventstore.Version{"old": 1})
}

// testLoadPages loads a stream of large commits, page by page.
func testLoadPages(t *testing.T, log Log) {
	f := open(t, log)
	const commits, size = 40, 100 << 10
	random := rand.New(rand.NewPCG(1, 2)) // incompressible text
	text := make([]byte, size)
	for i := range eventstore.Version(commits) {
		c := command(fmt.Sprint("k", i), 1)
		for j := range text {
			text[j] = 'a' + byte(random.IntN(26))
			if i >= commits/2 {
				text[j] = 'x'
			}
		}
		c.Events[0].Data = fmt.Appendf(nil, `{"text":"%s"}`, text)
		f.append(unit(stream(1), i, c))
	}
	r := eventstore.LoadRequest{Stream: stream(1), Limit: commits + 1}
	pages := 0
	for more := true; more; pages++ {
		page, err := f.Load(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for i, c := range page.Commits {
			if bytes >= eventstore.LoadBytes {
				t.Fatalf("page %d has %d bytes before its last commit", pages, bytes)
			}
			if c.Version != r.After+eventstore.Version(i)+1 {
				t.Fatalf("version %d follows %d", c.Version, r.After+eventstore.Version(i))
			}
			bytes += len(c.Events[0].Data)
		}
		if len(page.Commits) == 0 {
			t.Fatal("an empty page in the middle of a stream")
		}
		r.After, more = page.Commits[len(page.Commits)-1].Version, page.More
	}
	if r.After != commits || pages != 4 {
		t.Errorf("%d pages up to version %d, want 4 up to %d", pages, r.After, commits)
	}
}

// testLoads loads many streams concurrently: some are unused, one has a snapshot,
// one is damaged, and the caller of one gives up.
func testLoads(t *testing.T, log Log) {
	const streams, damaged, snapped, abandoned = 100, 17, 23, 31
	f := open(t, log)
	var at eventstore.Position
	for i := range streams {
		if i%5 == 4 {
			continue
		}
		f.append(unit(stream(i), 0, command("a", 1), command("b", 2)))
		switch at += 3; i {
		case damaged:
			log.Exec(t, fmt.Sprintf(`update "commit" set events = '[{"t":"x"}]' where pos = %d`, at-2))
		case snapped:
			snap := eventstore.Snapshot{Stream: stream(i), Version: 1, Position: at - 2, At: epoch, Fingerprint: "f", State: []byte(`1`)}
			if err := f.SaveSnapshot(t.Context(), snap); err != nil {
				t.Fatal(err)
			}
		}
	}
	var all sync.WaitGroup
	defer all.Wait()
	for i := range streams {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i == abandoned {
				cancel()
			}
			got, err := f.Load(ctx, eventstore.LoadRequest{Stream: stream(i), Fingerprint: "f", Limit: 10})
			snap, commits := got.Snapshot, got.Commits
			switch {
			case i == abandoned && (err == nil || errors.Is(err, context.Canceled)): // the load may have finished before the cancellation
			case i == damaged && errors.Is(err, eventstore.ErrDamaged):
			case i == damaged || err != nil:
				t.Errorf("stream %d: %v", i, err)
			case i == snapped && (snap == nil || len(commits) != 1 || commits[0].Version != 3),
				i != snapped && snap != nil,
				i != snapped && i%5 != 4 && (len(commits) != 2 || commits[1].Stream != stream(i)),
				i%5 == 4 && len(commits) != 0:
				t.Errorf("stream %d has the snapshot %v and %v", i, snap, commits)
			}
		})
	}
}

func testHole(t *testing.T, log Log) {
	f := open(t, log)
	all := f.fill()
	missing := all[10]
	log.Exec(t, fmt.Sprintf(`delete from "commit" where pos = %d`, missing.Position))
	var damaged *eventstore.DamagedError
	isDamaged := func(what string, at eventstore.Position, err error) {
		t.Helper()
		if !errors.As(err, &damaged) || !errors.Is(err, eventstore.ErrDamaged) {
			t.Errorf("%s: got %v, want a damaged log", what, err)
		} else if damaged.Position != at {
			t.Errorf("%s: the damage is at %d, want %d", what, damaged.Position, at)
		}
	}
	_, err := f.Read(t.Context(), 0, 100)
	isDamaged("Read", missing.First(), err)
	_, err = f.Read(t.Context(), missing.First()-1, 100)
	isDamaged("Read from the hole", missing.First(), err)
	_, _, err = f.ReadType(t.Context(), "other", 0, 100, 100)
	isDamaged("ReadType", 1, err)
	_, err = f.ReadStream(t.Context(), missing.Stream, 0, 100)
	if !errors.As(err, &damaged) {
		t.Errorf("ReadStream: got %v, want a damaged log", err)
	}
	if _, err := f.Read(t.Context(), missing.Position, 100); err != nil {
		t.Errorf("Read after the hole: %v", err)
	}
	// Damage that is not a hole.
	log.Exec(t, fmt.Sprintf(`update "commit" set events = '[{"t":"x"}]' where pos = %d`, all[0].Position))
	_, err = f.Read(t.Context(), 0, 1)
	isDamaged("an event without data", 1, err)
}
