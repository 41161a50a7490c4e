package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

func testRoundTrip(t *testing.T, log Log) {
	f := open(t, log)
	c := eventstore.Command{
		Key:  "0190b5c0-0000-7000-8000-000000000001",
		Hash: eventstore.Hash{255, 0, 1},
		At:   epoch.Add(789), // nanoseconds are dropped
		Meta: eventstore.Meta{
			Client: `o'"hara\ 日本`, Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			Depth: 7, Wake: eventstore.Wake{Known: true, Micros: 1_700_000_000_000_001, Revision: 3},
		},
		Events: []eventstore.Event{
			{Type: "opened", Data: json.RawMessage(`{"item":"a \"lamp\" \\ \u00e9 😀 \ud83d\ude00","n":[1,-2.5e10,true,null,{}],"o":{"}":"]"}}`)},
			{Type: "closed", Form: 3, Data: json.RawMessage(`null`)},
			{Type: "odd name \"<&>\\ é", Form: 1, Data: json.RawMessage(`12345678901234567890.123`)},
		},
	}
	id := eventstore.StreamID{Type: "auction", ID: `it's "42" \ é%_`}
	equal(t, "places", f.append(unit(id, 0, c)), []eventstore.Place{{Version: 3, Position: 3}})

	want := []eventstore.Commit{{
		Position: 3, Stream: id, Version: 3, Key: c.Key, At: epoch, Meta: c.Meta,
		Events: []eventstore.Event{c.Events[0], c.Events[1], c.Events[2]},
	}}
	want[0].Events[0].Form = 1
	for name, read := range map[string]func() ([]eventstore.Commit, error){
		"Read":       func() ([]eventstore.Commit, error) { return f.Read(t.Context(), 0, 10) },
		"ReadStream": func() ([]eventstore.Commit, error) { return f.ReadStream(t.Context(), id, 0, 10) },
		"ReadType": func() ([]eventstore.Commit, error) {
			list, _, err := f.ReadType(t.Context(), "auction", 0, 10, 10)
			return list, err
		},
	} {
		got, err := read()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, name, got, want)
		if len(got) == 1 && (!got[0].At.Equal(epoch) || got[0].At.Location() != time.UTC) {
			t.Errorf("%s: the time is %v, want %v", name, got[0].At, epoch)
		}
	}

	// The same id of another type is another stream.
	other := eventstore.StreamID{Type: "counter", ID: id.ID}
	equal(t, "places", f.append(unit(other, 0, command("k", 1))), []eventstore.Place{{Version: 1, Position: 4}})
}

func testConflictInBatch(t *testing.T, log Log) {
	units := []eventstore.Unit{
		unit(stream(1), 0, command("a", 2)),
		unit(stream(2), 7, command("b", 1)), // the stream is at 0
		unit(stream(3), 0, command("c", 1)),
	}
	f, appended, errs := inOneBatch(t, log, units...)
	var conflict *eventstore.ConflictError
	if !errors.As(errs[1], &conflict) || !errors.Is(errs[1], eventstore.ErrConflict) {
		t.Fatalf("the conflicting unit got %v, want a conflict", errs[1])
	}
	equal(t, "conflict", conflict, &eventstore.ConflictError{Stream: stream(2), Expected: 7, Actual: 0})
	if errs[0] != nil || errs[2] != nil {
		t.Fatalf("the other units got %v and %v", errs[0], errs[2])
	}
	equal(t, "places", []eventstore.Place{appended[0].Commands[0], appended[2].Commands[0]},
		[]eventstore.Place{{Version: 2, Position: 3}, {Version: 1, Position: 4}})
	f.wantKeys("gate", "a", "c")
}

func testUnitWhole(t *testing.T, log Log) {
	f := open(t, log)
	equal(t, "places", f.append(unit(stream(1), 0, command("a", 1), command("none", 0), command("b", 2))),
		[]eventstore.Place{{Version: 1, Position: 1}, {Version: 1, Position: 1}, {Version: 3, Position: 3}})
	equal(t, "places", f.append(unit(stream(2), 0, command("none", 0), command("c", 1))),
		[]eventstore.Place{{Version: 0, Position: 0}, {Version: 1, Position: 4}})

	// The third command's key is known: nothing of the unit is stored, and the
	// next unit gets the next position.
	_, err := f.Append(t.Context(), unit(stream(1), 3, command("d", 1), command("e", 1), command("b", 1)))
	var known *eventstore.KnownKeysError
	if !errors.As(err, &known) || !errors.Is(err, eventstore.ErrKnownKeys) {
		t.Fatalf("got %v, want known keys", err)
	}
	equal(t, "known", known.Known, []eventstore.First{{Index: 2, Place: eventstore.Place{Version: 3, Position: 3}}})
	equal(t, "places", f.append(unit(stream(1), 3, command("d", 1), command("e", 1))),
		[]eventstore.Place{{Version: 4, Position: 5}, {Version: 5, Position: 6}})
	f.wantKeys("a", "b", "c", "d", "e")

	// Two commands of one unit must not share a key: the host that decides them
	// sees both.
	if _, err := f.Append(t.Context(), unit(stream(1), 5, command("x", 1), command("x", 1))); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("a key twice in a unit: got %v, want invalid data", err)
	}
	if _, err := f.Append(t.Context(), unit(stream(1), 5)); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("an empty unit: got %v, want invalid data", err)
	}
}

func testStreamOrder(t *testing.T, log Log) {
	// A batch has one unit of the stream. The others wait in the order of their
	// arrival, and all succeed.
	var units []eventstore.Unit
	for i := range 5 {
		units = append(units, unit(stream(1), eventstore.Version(i), command(fmt.Sprint("k", i), 1)))
	}
	f, _, errs := inOneBatch(t, log, units...)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	f.wantKeys("gate", "k0", "k1", "k2", "k3", "k4")
}

func testHoleRefused(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	for _, expected := range []eventstore.Version{0, 2, 3, math.MaxInt64, math.MaxUint64} {
		_, err := f.Append(t.Context(), unit(stream(1), expected, command("b", 1)))
		if !errors.Is(err, eventstore.ErrConflict) && !(expected > 1<<62 && errors.Is(err, eventstore.ErrInvalid)) {
			t.Errorf("expected version %d: got %v, want a conflict", expected, err)
		}
	}
	f.wantKeys("a")
}

func testPoison(t *testing.T, log Log) {
	ok := func(i int) eventstore.Unit { return unit(stream(i), 0, command("k", 1)) }
	with := func(change func(*eventstore.Unit)) eventstore.Unit {
		u := ok(0)
		change(&u)
		return u
	}
	data := func(s string) eventstore.Unit {
		return with(func(u *eventstore.Unit) { u.Commands[0].Events[0].Data = json.RawMessage(s) })
	}
	f := open(t, log)
	for name, u := range map[string]eventstore.Unit{
		"NUL in the key":              with(func(u *eventstore.Unit) { u.Commands[0].Key = "a\x00b" }),
		"NUL in the id":               with(func(u *eventstore.Unit) { u.Stream.ID = "a\x00b" }),
		"NUL in an event's name":      with(func(u *eventstore.Unit) { u.Commands[0].Events[0].Type = "a\x00b" }),
		"NUL in the client":           with(func(u *eventstore.Unit) { u.Commands[0].Meta.Client = "a\x00b" }),
		"invalid UTF-8 in the key":    with(func(u *eventstore.Unit) { u.Commands[0].Key = "\xff" }),
		"invalid UTF-8 in the client": with(func(u *eventstore.Unit) { u.Commands[0].Meta.Client = "\xff" }),
		"no key":                      with(func(u *eventstore.Unit) { u.Commands[0].Key = "" }),
		"a key of 5,000 bytes":        with(func(u *eventstore.Unit) { u.Commands[0].Key = strings.Repeat("k", 5000) }),
		"an event without a name":     with(func(u *eventstore.Unit) { u.Commands[0].Events[0].Type = "" }),
		"a form below 0":              with(func(u *eventstore.Unit) { u.Commands[0].Events[0].Form = -1 }),
		"a time beyond the calendar":  with(func(u *eventstore.Unit) { u.Commands[0].At = time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"an answer that is not JSON": with(func(u *eventstore.Unit) {
			u.Commands[0] = eventstore.Command{Key: "k", At: epoch, Keep: true, Answer: json.RawMessage(`{`)}
		}),
		"data with U+0000":             data(`{"a":"\u0000"}`),
		"data with half a character":   data(`{"a":"\ud800"}`),
		"data with the wrong half":     data(`{"a":"\udc00\ud800"}`),
		"data that is not UTF-8":       data("{\"a\":\"\xff\"}"),
		"data that is not JSON":        data(`{"a":`),
		"data that closes its own row": data(`1}]`),
		"no data":                      data(``),
	} {
		_, err := f.Append(t.Context(), u)
		var invalid *eventstore.InvalidError
		if !errors.As(err, &invalid) || !errors.Is(err, eventstore.ErrInvalid) || invalid.Reason == "" {
			t.Errorf("%s: got %v, want invalid data", name, err)
		}
	}
	if _, err := f.Append(t.Context(), data(`{"a":"\\u0000","b":"\ud83d\ude00"}`)); err != nil {
		t.Errorf("valid data with similar escapes: %v", err)
	}
}

func testDatabaseRefuses(t *testing.T, log Log) {
	opened := open(t, log) // makes the tables
	log.Poison(t)
	_ = opened
	var units []eventstore.Unit
	for i := range 20 {
		units = append(units, unit(stream(i), 0, command("k", 1)))
	}
	for _, i := range []int{3, 11} {
		units[i].Stream.ID = "poison"
		units[i].Stream.Type = fmt.Sprint("t", i)
	}
	f, _, errs := inOneBatch(t, log, units...)
	for i, err := range errs {
		switch poisoned := i == 3 || i == 11; {
		case poisoned && !errors.Is(err, eventstore.ErrInvalid):
			t.Errorf("the refused unit got %v, want invalid data", err)
		case !poisoned && err != nil:
			t.Errorf("another unit got %v", err)
		}
	}
	if n := len(f.all()); n != 19 {
		t.Errorf("the log holds %d commits, want 19", n)
	}
}

func testDeepJSON(t *testing.T, log Log) {
	const most = 500
	nested := func(levels int) json.RawMessage {
		return json.RawMessage(strings.Repeat(`[`, levels) + `"[{"` + strings.Repeat(`]`, levels))
	}
	f := open(t, log)
	deep := func(key string, levels int) eventstore.Unit {
		u := unit(stream(1), 0, command(key, 1))
		u.Commands[0].Events[0].Data = nested(levels)
		return u
	}
	if _, err := f.Append(t.Context(), deep("deeper", most+1)); !errors.Is(err, eventstore.ErrInvalid) || !strings.Contains(err.Error(), "500 levels") {
		t.Errorf("data of %d levels: got %v, want it refused", most+1, err)
	}
	f.append(deep("deep", most))
	events := 0
	err := f.Audit(t.Context(), `select data from event`, func(scan func(...any) error) error {
		events++
		return nil
	})
	if err != nil || events != 1 {
		t.Errorf("the view of events shows %d, %v; want 1", events, err)
	}
	snapshot := eventstore.Snapshot{Stream: stream(1), Version: 1, Position: 1, At: epoch, Fingerprint: "f", State: nested(most + 1)}
	if err := f.SaveSnapshot(t.Context(), snapshot); !errors.Is(err, eventstore.ErrInvalid) {
		t.Errorf("a snapshot of %d levels: got %v, want it refused", most+1, err)
	}
}

func testCommitted(t *testing.T, log Log) {
	var announced []eventstore.Commit // used by the callback until the results arrive
	logs := make(map[string]bool)
	g := newGate(t)
	var first sync.Once
	f := openWith(t, log, func(id string, batch []eventstore.Commit) {
		logs[id] = true
		announced = append(announced, batch...)
		first.Do(g.pass)
	})
	result := make(chan error, 1)
	go func() {
		_, err := f.Append(t.Context(), unit(stream(1), 0, command("a", 2), command("none", 0), command("b", 1)))
		result <- err
	}()
	select {
	case <-g.entered:
	case err := <-result:
		t.Fatalf("result before the batch was announced: %v", err)
	case <-time.After(patience):
		t.Fatalf("no batch was announced in %v", patience)
	}
	if head, err := open(t, log).Head(t.Context()); err != nil || head != 3 {
		t.Errorf("the batch was announced at head %d, %v; want it stored", head, err)
	}
	select {
	case err := <-result:
		t.Fatalf("result while the batch was being announced: %v", err)
	default:
	}
	close(g.release)
	if err := receive(t, "the result", result); err != nil {
		t.Fatal(err)
	}
	if !logs[f.LogID()] || len(logs) != 1 {
		t.Errorf("batches were announced for the logs %v, want %s", logs, f.LogID())
	}
	for i := range 20 {
		f.append(unit(stream(2+i%3), eventstore.Version(i/3), command(fmt.Sprint("k", i), 1)))
	}
	if _, err := f.Append(t.Context(), unit(stream(1), 9, command("refused", 1))); !errors.Is(err, eventstore.ErrConflict) {
		t.Fatalf("got %v, want a conflict", err)
	}
	equal(t, "announced commits", announced, f.all())
}

func testContext(t *testing.T, log Log) {
	g := newGate(t)
	f := openWith(t, log, g.once())
	first := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := f.Append(ctx, unit(stream(1), 0, command("in flight", 1)))
		first <- err
	}()
	receive(t, "the first batch", g.entered)
	second := make(chan error, 1)
	go func() {
		_, err := f.Append(ctx, unit(stream(2), 0, command("waiting", 1)))
		second <- err
	}()
	waiting(t, f.Store, 1)
	cancel()
	if err := receive(t, "the result of the waiting unit", second); !errors.Is(err, context.Canceled) {
		t.Errorf("the waiting unit got %v, want its context's error", err)
	}
	close(g.release)
	if err := receive(t, "the result of the unit in flight", first); err != nil {
		t.Errorf("the unit in flight got %v, want its result", err)
	}
	if _, err := f.Append(ctx, unit(stream(2), 0, command("late", 1))); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: got %v", err)
	}
	f.wantKeys("in flight")
}

func testClose(t *testing.T, log Log) {
	g := newGate(t)
	f := openWith(t, log, g.once())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := f.Append(t.Context(), unit(stream(1), 0, command("in flight", 1)))
		first <- err
	}()
	receive(t, "the first batch", g.entered)
	go func() {
		_, err := f.Append(t.Context(), unit(stream(2), 0, command("waiting", 1)))
		second <- err
	}()
	waiting(t, f.Store, 1)
	closed := make(chan error, 1)
	go func() { closed <- f.Close() }()
	close(g.release)
	if err := receive(t, "the result of the unit in flight", first); err != nil {
		t.Errorf("the unit in flight got %v, want its result", err)
	}
	// Close and the next batch race. The result is true in both cases.
	err := receive(t, "the result of the waiting unit", second)
	if err != nil && !errors.Is(err, eventstore.ErrClosed) {
		t.Errorf("the waiting unit got %v", err)
	}
	if err := receive(t, "the store to close", closed); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
	if _, err := f.Append(t.Context(), unit(stream(3), 0, command("late", 1))); !errors.Is(err, eventstore.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, err := f.Read(t.Context(), 0, 1); !errors.Is(err, eventstore.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := f.Load(t.Context(), eventstore.LoadRequest{Stream: stream(1), Limit: 1}); !errors.Is(err, eventstore.ErrClosed) {
		t.Errorf("load after close: %v", err)
	}
	again := open(t, log)
	if got := len(again.all()); (err == nil) != (got == 2) {
		t.Errorf("the waiting unit got %v, and the log holds %d commits", err, got)
	}
}
