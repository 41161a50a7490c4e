package groupstest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
)

func testAck(w *world) {
	w.group(2)
	for range 5 {
		w.append("a", 1)
	}
	g := w.assign(groups.Change{Segment: "0", To: holder("a")}, groups.Change{Segment: "1", To: holder("b")})
	epoch := g.Segments[0].Epoch
	w.no(w.ack("0", epoch, 3))
	w.no(w.ack("0", epoch, 2)) // an older one
	w.no(w.ack("0", epoch, 3)) // again
	w.is("an acknowledgement beyond the end of the log", w.ack("0", epoch, 6), groups.ErrAhead)
	w.is("of an epoch that never was", w.ack("0", epoch+7, 4), groups.ErrRevoked)
	w.is("of a segment that is not there", w.ack("2", epoch, 4), groups.ErrRevoked)
	next := w.assign(groups.Change{Segment: "0", To: holder("b")})
	w.is("of an old epoch", w.ack("0", epoch, 4), groups.ErrRevoked)
	w.is("of an old epoch, at an old position", w.ack("0", epoch, 1), groups.ErrRevoked)
	s := w.read().Segments
	w.equal("the positions", []any{s[0].Position, s[1].Position}, []any{eventstore.Position(3), eventstore.Position(0)})
	w.no(w.ack("0", next.Segments[0].Epoch, 5))
	w.equal("the position", w.read().Segments[0].Position, eventstore.Position(5))
	w.equal("the generation", w.read().Generation, next.Generation)
	errs, err := w.store.Ack(w.Context(), []groups.Ack{{Group: "none", Segment: "0", Epoch: 1, Position: 1}})
	w.no(err)
	w.is("an acknowledgement in no group", errs[0], groups.ErrRevoked)
}

func testAckKey(w *world) {
	g := w.group(1)
	w.append("a", 1) // key-1
	w.append("b", 3) // key-2
	for p, want := range []string{1: "key-1", 2: "key-2", 3: "key-2", 4: "key-2"} {
		if p == 0 {
			continue
		}
		w.no(w.ack("0", g.Segments[0].Epoch, eventstore.Position(p)))
		w.equal(fmt.Sprint("the key at ", p), w.read().Segments[0].Key, want)
	}
}

func of(group, segment string, epoch uint64, p eventstore.Position) groups.Ack {
	return groups.Ack{Group: group, Segment: segment, Epoch: epoch, Position: p}
}

func testAcks(w *world) {
	g := w.group(3)
	_, err := w.store.Ensure(w.Context(), "h", 1)
	w.no(err)
	w.append("a", 9)
	epoch := g.Segments[0].Epoch
	errs, err := w.store.Ack(w.Context(), []groups.Ack{
		of("g", "2", epoch, 4), of("g", "0", epoch, 9), of("g", "1", epoch+1, 9), of("g", "1", epoch, 10), of("h", "0", 1, 2), of("g", "7", epoch, 1),
	})
	w.no(err)
	w.equal("the outcomes", errs, []error{nil, nil, groups.ErrRevoked, groups.ErrAhead, nil, groups.ErrRevoked})
	var at []eventstore.Position
	for _, s := range w.read().Segments {
		at = append(at, s.Position)
	}
	w.equal("the positions", at, []eventstore.Position{9, 0, 4})
	if errs, err := w.store.Ack(w.Context(), nil); err != nil || len(errs) != 0 {
		w.Errorf("no acknowledgements: %v, %v", errs, err)
	}
}

// testAckRivals moves a segment between two members that acknowledge all the time. The
// new holder's position must include everything that the older one has acknowledged,
// and nothing may be acknowledged under the older epoch from then on.
func testAckRivals(w *world) {
	const events, rounds = 400, 25
	w.append("a", events)
	w.group(2)
	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	var next atomic.Int64 // the position to acknowledge next
	var all sync.WaitGroup
	acknowledge := func(epoch uint64, over <-chan struct{}) <-chan eventstore.Position {
		most := make(chan eventstore.Position, 1)
		all.Go(func() {
			last := eventstore.Position(0)
			defer func() { most <- last }()
			for {
				late := false
				select {
				case <-over:
					late = true
				default:
				}
				p := eventstore.Position(min(next.Add(1), events))
				errs, err := w.store.Ack(w.Context(), []groups.Ack{of("g", "1", epoch, 1), of("g", "0", epoch, p)})
				if err != nil {
					w.Error(err)
					return
				}
				if errors.Is(errs[1], groups.ErrRevoked) {
					return
				}
				if late {
					w.Errorf("an acknowledgement under the epoch %d, which was over, was accepted", epoch)
					return
				}
				last = max(last, p)
			}
		})
		return most
	}
	var before <-chan eventstore.Position
	over := make(chan struct{})
	for round := range rounds {
		g := w.assign(groups.Change{Segment: "1", To: holder(fmt.Sprint(round))}, groups.Change{Segment: "0", To: holder(fmt.Sprint(round))})
		if before != nil {
			close(over)
			over = make(chan struct{})
			if most := <-before; most > g.Segments[0].Position {
				w.Errorf("round %d: the older holder acknowledged %d, and the new one begins at %d", round, most, g.Segments[0].Position)
			}
		}
		before = acknowledge(g.Segments[0].Epoch, over)
	}
	w.assign(groups.Change{Segment: "0"})
	close(over)
	all.Wait()
}

func (w *world) segment() groups.Segment { return w.read().Segments[0] }

// fail takes segment 0 from a member with the events from suspect to last pending.
func (w *world) fail(suspect, last eventstore.Position) groups.Segment {
	w.Helper()
	return w.assign(groups.Change{Segment: "0", To: holder("x"), Failed: true, Suspect: suspect, Last: last}).Segments[0]
}

func testTries(w *world) {
	w.group(1)
	w.append("a", 9)
	w.equal("tries", w.fail(1, 5).Tries, 1)
	w.equal("tries", w.fail(2, 5).Tries, 2) // its first event is acknowledged on the way
	s := w.segment()
	w.equal("the suspect", []any{s.Suspect, s.CarefulUntil}, []any{eventstore.Position(2), eventstore.Position(0)})
	w.equal("tries of a holder that left", w.assign(groups.Change{Segment: "0", To: holder("y")}).Segments[0].Tries, 2)
	epoch := w.segment().Epoch
	w.no(w.ack("0", epoch, 4))
	s = w.segment()
	w.equal("after an acknowledgement", []any{s.Tries, s.Suspect}, []any{0, eventstore.Position(0)})
	w.equal("tries for an event that was acknowledged", w.fail(4, 6).Tries, 0)
	w.equal("tries", w.fail(5, 6).Tries, 1)
}

func testCareful(w *world) {
	w.group(1)
	w.append("a", 9)
	w.fail(1, 5)
	w.fail(1, 7)
	s := w.fail(1, 6)
	w.equal("tries and the careful part", []any{s.Tries, s.CarefulUntil}, []any{groups.Careful, eventstore.Position(6)})
	w.no(w.ack("0", s.Epoch, 3))
	w.equal("tries within the careful part", w.segment().Tries, groups.Careful)
	s = w.fail(4, 4)
	w.equal("tries at the next event", []any{s.Tries, s.CarefulUntil}, []any{groups.Careful + 1, eventstore.Position(6)})
	w.no(w.ack("0", s.Epoch, 4))
	w.equal("tries within the careful part", w.segment().Tries, groups.Careful)
	w.no(w.ack("0", s.Epoch, 6))
	w.equal("tries behind the careful part", w.segment().Tries, 0)
}

func testServerPark(w *world) {
	w.group(1)
	w.append("a", 9)
	park := &groups.Park{Sequence: "box/a", Position: 2, Reason: "why"}
	change := groups.Change{Segment: "0", To: holder("x"), Failed: true, Suspect: 2, Last: 2, Park: park}
	for n := 1; n < groups.ParkAfter; n++ {
		w.equal("tries", w.assign(change).Segments[0].Tries, n)
		w.equal("parked", len(w.parked()), 0)
	}
	s := w.assign(change).Segments[0]
	w.equal("after the last try", []any{s.Tries, s.Suspect, s.Holder}, []any{groups.Careful, eventstore.Position(0), holder("x")})
	w.equal("parked", w.parked(), []groups.Parked{{Park: *park}})
	w.no(w.ack("0", s.Epoch, 9))
	w.equal("tries", w.segment().Tries, 0)

	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	for n := 1; n < groups.ParkAfter; n++ {
		change.Suspect = 1
		w.assign(change)
	}
	w.no(w.ack("0", w.segment().Epoch, 2))
	w.assign(change)
	w.equal("parked, although the event was acknowledged", len(w.parked()), 0)
}
