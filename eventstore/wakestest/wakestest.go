// Package wakestest is the conformance suite of wakes.Store.
package wakestest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// A Log is a store with both tables.
type Log interface {
	eventstore.Store
	Rows() rows.Store
	Wakes() wakes.Store
}

// Run runs the suite. open returns an empty log, which it closes when the test ends.
func Run(t *testing.T, open func(t *testing.T) Log) {
	for name, test := range map[string]func(*world){
		"Write": testWrite, "Fence": testFence, "Versions": testVersions, "Due": testDue, "Change": testChange, "Refused": testRefused,
		"Reset": testReset, "Segments": testSegments, "Rivals": testRivals, "Pause": testPause, "Fingerprints": testFingerprints,
		"Standings": testStandings,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(&world{T: t, log: open(t)})
		})
	}
}

type world struct {
	*testing.T
	log Log
}

const types = "auction"

var past = time.Date(2020, 1, 1, 12, 0, 0, 123_000, time.UTC)

func stream(id string) eventstore.StreamID { return eventstore.StreamID{Type: types, ID: id} }

// begin returns the checkpoint of segment 0.
func (w *world) begin() wakes.Checkpoint {
	w.Helper()
	c, err := w.log.Wakes().Begin(w.Context(), "f", 0)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// write moves the checkpoint of segment 0 on by one position.
func (w *world) write(asks ...wakes.Ask) {
	w.Helper()
	from := w.begin().Position
	if err := w.log.Wakes().Write(w.Context(), wakes.Batch{Fingerprint: "f", From: from, To: from + 1, Key: fmt.Sprint("k", from+1), Asks: asks}); err != nil {
		w.Fatal(err)
	}
}

func (w *world) change(list ...wakes.Change) {
	w.Helper()
	if err := w.log.Wakes().Change(w.Context(), list); err != nil {
		w.Fatal(err)
	}
}

func (w *world) due() wakes.Due {
	w.Helper()
	d, err := w.log.Wakes().Due(w.Context(), 0, []string{"other", types}, 100)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

// shows compares the rows with texts such as "a@3 due", "a@3 later" or "a@3 refused".
func (w *world) shows(want ...string) {
	w.Helper()
	list, _, err := w.log.Wakes().List(w.Context(), nil, 100)
	if err != nil {
		w.Fatal(err)
	}
	now := w.due().Now
	var got []string
	for _, r := range list {
		state := "later"
		switch {
		case r.Refused != "" != r.Due.IsZero():
			w.Errorf("row %+v is both refused and due", r)
		case r.Refused != "":
			state = "refused"
		case !r.Due.After(now):
			state = "due"
		}
		got = append(got, fmt.Sprintf("%s@%d %s", r.Stream.ID, r.Version, state))
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		w.Errorf("the rows are %q, want %q", got, want)
	}
}

func testWrite(w *world) {
	if c := w.begin(); c != (wakes.Checkpoint{LogID: w.log.LogID()}) {
		w.Errorf("a new segment has the checkpoint %+v", c)
	}
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past}, wakes.Ask{Stream: stream("b"), Version: 7})
	if c := w.begin(); c.Position != 1 || c.Key != "k1" {
		w.Errorf("the checkpoint is %+v, want position 1 at k1", c)
	}
	d := w.due()
	if len(d.Rows) != 1 || d.N != 1 || d.Rows[0] != (wakes.Row{Stream: stream("a"), Version: 1, Due: past}) {
		w.Errorf("due is %+v, want a at %s", d, past)
	}
	w.write(wakes.Ask{Stream: stream("a"), Version: 2})
	w.shows()
}

func testFence(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past})
	err := w.log.Wakes().Write(w.Context(), wakes.Batch{Fingerprint: "f", From: 0, To: 9, Key: "late", Asks: []wakes.Ask{{Stream: stream("a"), Version: 9}}})
	if !errors.Is(err, wakes.ErrFenced) {
		w.Errorf("a late writer gets %v, want ErrFenced", err)
	}
	w.shows("a@1 due")
	if c := w.begin(); c.Position != 1 {
		w.Errorf("the checkpoint is at %d", c.Position)
	}
}

// Rows come in any order when several programs write them.
func testVersions(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 5, At: past.AddDate(1000, 0, 0)})
	w.write(wakes.Ask{Stream: stream("a"), Version: 4, At: past})
	w.write(wakes.Ask{Stream: stream("a"), Version: 3})
	w.write(wakes.Ask{Stream: stream("a"), Version: 4, Now: true})
	w.write(wakes.Ask{Stream: stream("a"), Version: 5, At: past})
	w.shows("a@5 later")
	w.write(wakes.Ask{Stream: stream("a"), Version: 5, Now: true}) // another revision
	w.shows("a@5 due")
	w.change(wakes.Change{Stream: stream("a"), Version: 5, Refused: "no"})
	w.write(wakes.Ask{Stream: stream("a"), Version: 5, At: past})
	w.shows("a@5 refused")
	w.write(wakes.Ask{Stream: stream("a"), Version: 5, Now: true})
	w.shows("a@5 due")
}

func testDue(w *world) {
	asks := []wakes.Ask{{Stream: stream("later"), Version: 1, At: time.Now().Add(time.Hour)}, {Stream: eventstore.StreamID{Type: "foreign", ID: "x"}, Version: 1, At: past}}
	for i := range 5 {
		asks = append(asks, wakes.Ask{Stream: stream(fmt.Sprint(i)), Version: 1, At: past.Add(time.Duration(4-i) * time.Second)})
	}
	w.write(asks...)
	d := w.due()
	if len(d.Rows) != 6 || d.N != 5 || d.Rows[0].Stream.ID != "4" || d.Rows[5].Stream.ID != "later" {
		w.Errorf("due is %+v, want 4 … 0 and what is later, of one type", d)
	}
	first, err := w.log.Wakes().Due(w.Context(), 0, []string{types}, 2)
	if err != nil || len(first.Rows) != 2 || first.N != 2 || first.Rows[1].Stream.ID != "3" {
		w.Errorf("the first two are %+v, %v", first, err)
	}
	n, err := w.log.Wakes().Count(w.Context(), 0, []string{types})
	if err != nil || n.Due != 5 || n.Late < time.Hour || n.Refused != 0 || n.Paused {
		w.Errorf("the counts are %+v, %v", n, err)
	}
	if d, err := w.log.Wakes().Due(w.Context(), 1, []string{types}, 2); err != nil || len(d.Rows) > 0 || d.Now.IsZero() {
		w.Errorf("an empty segment has %+v, %v; want the time alone", d, err)
	}
}

func testChange(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past}, wakes.Ask{Stream: stream("b"), Version: 1, At: past}, wakes.Ask{Stream: stream("c"), Version: 5, At: past})
	w.change(
		wakes.Change{Stream: stream("a"), Version: 2, At: past, Pause: time.Hour},
		wakes.Change{Stream: stream("b"), Version: 1},
		wakes.Change{Stream: stream("c"), Version: 4}, // the row knows better
		wakes.Change{Stream: stream("none"), Version: 4, At: past},
	)
	w.shows("c@5 due", "a@2 later")
	w.write(wakes.Ask{Stream: stream("a"), Version: 2, At: past}) // the pause holds
	w.shows("c@5 due", "a@2 later")
	w.change(wakes.Change{Stream: stream("a"), Version: 2, At: past})
	if d := w.due(); d.N != 2 || d.Rows[1].Due.Before(past.AddDate(1, 0, 0)) {
		w.Errorf("due is %+v, want a from now on", d)
	}
	w.change()
}

func testRefused(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past}, wakes.Ask{Stream: stream("b"), Version: 1, At: past}, wakes.Ask{Stream: stream("c"), Version: 1, At: past})
	w.change(wakes.Change{Stream: stream("a"), Version: 1, Refused: "no\x00\xff" + strings.Repeat("o", 5000)}, wakes.Change{Stream: stream("b"), Version: 1, Refused: "no"})
	w.shows("a@1 refused", "b@1 refused", "c@1 due")
	if n, err := w.log.Wakes().Count(w.Context(), 0, []string{types}); err != nil || n.Refused != 2 || n.Due != 1 {
		w.Errorf("the counts are %+v, %v", n, err)
	}
	w.write(wakes.Ask{Stream: stream("a"), Version: 2, At: past})
	w.shows("b@1 refused", "a@2 due", "c@1 due")
	only := stream("c")
	if n, err := w.log.Wakes().Retry(w.Context(), &only); err != nil || n != 0 {
		w.Errorf("retry of c, which was not refused: %d, %v", n, err)
	}
	if n, err := w.log.Wakes().Retry(w.Context(), nil); err != nil || n != 1 {
		w.Errorf("retry of all: %d, %v; want 1", n, err)
	}
	w.shows("a@2 due", "c@1 due", "b@1 due")
	list, _, err := w.log.Wakes().List(w.Context(), &only, 100)
	if err != nil || len(list) != 1 || list[0].Stream != only {
		w.Errorf("the rows of c are %+v, %v", list, err)
	}
}

func testReset(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 9, At: past})
	if err := w.log.Wakes().Write(w.Context(), wakes.Batch{Fingerprint: "f", Segment: 1, To: 1, Key: "k"}); !errors.Is(err, wakes.ErrFenced) {
		w.Errorf("a segment that has not begun: %v, want ErrFenced", err)
	}
	other, err := w.log.Wakes().Begin(w.Context(), "other", 0)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.log.Wakes().Reset(w.Context(), "f", 0, wakes.Checkpoint{Position: 8, Key: "k8", LogID: w.log.LogID()}); err != nil {
		w.Fatal(err)
	}
	w.shows("a@9 due") // the checkpoint was another one
	if err := w.log.Wakes().Write(w.Context(), wakes.Batch{Fingerprint: "other", From: other.Position, To: 3, Key: "k3"}); err != nil {
		w.Fatal(err)
	}
	if err := w.log.Wakes().Reset(w.Context(), "f", 0, w.begin()); err != nil {
		w.Fatal(err)
	}
	w.shows()
	if other, err = w.log.Wakes().Begin(w.Context(), "other", 0); err != nil || other.Position != 0 || w.begin().Position != 0 {
		w.Errorf("the checkpoints are %+v, %+v, %v; want both at 0", other, w.begin(), err)
	}
	w.write(wakes.Ask{Stream: stream("a"), Version: 2, At: past}) // a lower version
	w.shows("a@2 due")
}

func testSegments(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past})
	if _, err := w.log.Wakes().Begin(w.Context(), "f", 1); err != nil {
		w.Fatal(err)
	}
	// A program with other segments takes the stream over.
	if err := w.log.Wakes().Write(w.Context(), wakes.Batch{Fingerprint: "f", Segment: 1, To: 4, Key: "k4", Asks: []wakes.Ask{{Stream: stream("a"), Version: 2, At: past}}}); err != nil {
		w.Fatal(err)
	}
	if d := w.due(); len(d.Rows) != 0 {
		w.Errorf("segment 0 still has %+v", d.Rows)
	}
	if d, err := w.log.Wakes().Due(w.Context(), 1, []string{types}, 9); err != nil || d.N != 1 {
		w.Errorf("segment 1 has %+v, %v", d, err)
	}
}

// Two writers of one segment: each batch is written by one of them, and no row is lost.
func testRivals(w *world) {
	const batches, streams = 40, 7
	w.begin()
	var writers sync.WaitGroup
	for range 2 {
		writers.Go(func() {
			for {
				c, err := w.log.Wakes().Begin(context.WithoutCancel(w.Context()), "f", 0)
				if err != nil {
					w.Error(err)
					return
				}
				if c.Position == batches {
					return
				}
				var asks []wakes.Ask
				for s := range streams {
					asks = append(asks, wakes.Ask{Stream: stream(fmt.Sprint(s)), Version: eventstore.Version(c.Position + 1), At: past})
				}
				err = w.log.Wakes().Write(context.WithoutCancel(w.Context()), wakes.Batch{Fingerprint: "f", From: c.Position, To: c.Position + 1, Key: "k", Asks: asks})
				if err != nil && !errors.Is(err, wakes.ErrFenced) {
					w.Error(err)
					return
				}
				// What a waker does meanwhile.
				if err := w.log.Wakes().Change(context.WithoutCancel(w.Context()), []wakes.Change{{Stream: stream("3"), Version: 1, At: past}, {Stream: stream("1"), Version: 1, At: past}}); err != nil {
					w.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	d := w.due()
	if len(d.Rows) != streams {
		w.Fatalf("%d rows, want %d", len(d.Rows), streams)
	}
	for _, r := range d.Rows {
		if r.Version != batches {
			w.Errorf("%s is at version %d, want %d", r.Stream, r.Version, batches)
		}
	}
}

func testPause(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past})
	if err := w.log.Rows().Pause(w.Context(), wakes.PauseName, true); err != nil {
		w.Fatal(err)
	}
	if d := w.due(); !d.Paused || len(d.Rows) > 0 {
		w.Errorf("paused, due is %+v", d)
	}
	if n, err := w.log.Wakes().Count(w.Context(), 0, []string{types}); err != nil || !n.Paused || n.Due != 1 {
		w.Errorf("paused, the counts are %+v, %v", n, err)
	}
	if list, paused, err := w.log.Wakes().List(w.Context(), nil, 9); err != nil || !paused || len(list) != 1 {
		w.Errorf("paused, the rows are %+v, %t, %v", list, paused, err)
	}
	w.write(wakes.Ask{Stream: stream("b"), Version: 1, At: past}) // the fold continues
	if err := w.log.Rows().Pause(w.Context(), wakes.PauseName, false); err != nil {
		w.Fatal(err)
	}
	if d := w.due(); d.Paused || d.N != 2 {
		w.Errorf("resumed, due is %+v", d)
	}
}

func testFingerprints(w *world) {
	w.write(wakes.Ask{Stream: stream("a"), Version: 1, At: past})
	c, err := w.log.Wakes().Begin(w.Context(), "newer", 0)
	if err != nil || c.Position != 0 {
		w.Fatalf("another fingerprint begins at %+v, %v", c, err)
	}
	if c := w.begin(); c.Position != 1 {
		w.Errorf("the first one is at %d", c.Position)
	}
}

func testStandings(w *world) {
	standings := func(fingerprint string) []wakes.Standing {
		w.Helper()
		list, err := w.log.Wakes().Standings(w.Context(), fingerprint, []string{"other", types})
		if err != nil {
			w.Fatal(err)
		}
		return list
	}
	if list := standings("f"); len(list) > 0 {
		w.Errorf("segments that no program has begun: %+v", list)
	}
	w.write(
		wakes.Ask{Stream: stream("later"), Version: 1, At: time.Now().Add(time.Hour)},
		wakes.Ask{Stream: eventstore.StreamID{Type: "foreign", ID: "x"}, Version: 1, At: past},
	)
	if _, err := w.log.Wakes().Begin(w.Context(), "f", 2); err != nil {
		w.Fatal(err)
	}
	if list := standings("f"); len(list) != 2 || list[0] != (wakes.Standing{Position: 1}) || list[1] != (wakes.Standing{Segment: 2}) {
		w.Errorf("nothing is due: %+v; want segment 0 at 1 and segment 2 at 0", list)
	}
	w.write(wakes.Ask{Stream: stream("b"), Version: 7, At: past.Add(time.Hour)}, wakes.Ask{Stream: stream("a"), Version: 3, At: past})
	list := standings("f")
	if len(list) != 2 || list[0].Position != 2 || list[0].First != (wakes.Row{Stream: stream("a"), Version: 3, Due: past}) || list[0].Late < time.Hour || list[1].First.Version != 0 {
		w.Errorf("a is due: %+v", list)
	}
	if list := standings("newer"); len(list) > 0 {
		w.Errorf("segments of another fingerprint: %+v", list)
	}
	if err := w.log.Rows().Pause(w.Context(), wakes.PauseName, true); err != nil {
		w.Fatal(err)
	}
	if list := standings("f"); len(list) != 2 || list[0] != (wakes.Standing{Position: 2}) {
		w.Errorf("paused: %+v; want the position alone", list)
	}
}
