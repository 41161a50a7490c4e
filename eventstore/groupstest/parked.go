package groupstest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
)

func (w *world) park(segment string, epoch uint64, sequence string, p eventstore.Position) error {
	w.Helper()
	return w.store.Park(w.Context(), "g", segment, epoch, groups.Park{Sequence: sequence, Position: p, Reason: "boom"})
}

func parkedAt(sequence string, p eventstore.Position, retried bool) groups.Parked {
	return groups.Parked{Park: groups.Park{Sequence: sequence, Position: p, Reason: "boom"}, Retried: retried}
}

// names returns the names of the segments with their positions.
func (w *world) names() (list []string) {
	w.Helper()
	for _, s := range w.read().Segments {
		list = append(list, fmt.Sprintf("%s@%d", s.Name, s.Position))
	}
	return list
}

func testPark(w *world) {
	w.group(1)
	w.append("a", 9)
	epoch := w.fail(3, 9).Epoch
	w.no(w.park("0", epoch, "box/b", 5))
	w.no(w.park("0", epoch, "box/a", 3))
	w.no(w.park("0", epoch, "box/a", 4)) // after a redelivery of the segment
	w.no(w.park("0", epoch, "box/a", 2))
	w.is("a park under another epoch", w.park("0", epoch-1, "box/c", 3), groups.ErrRevoked)
	w.is("a park of no segment", w.park("1", epoch, "box/c", 3), groups.ErrRevoked)
	w.equal("parked", w.parked(), []groups.Parked{parkedAt("box/a", 2, false), parkedAt("box/b", 5, false)})
	w.equal("the number", w.read().Parked, 2)
	first, err := w.store.Parked(w.Context(), "g", 1)
	if err != nil || len(first) != 1 || first[0].Sequence != "box/a" {
		w.Errorf("the first parked sequence is %v, %v; want box/a", first, err)
	}
	w.equal("tries", []any{w.segment().Tries, w.segment().Suspect}, []any{0, eventstore.Position(0)})
}

func testParkedFull(w *world) {
	w.group(1)
	w.append("a", 9)
	epoch := w.segment().Epoch
	for i := range groups.MaxParked {
		w.no(w.park("0", epoch, fmt.Sprint("box/", i), 5))
	}
	w.is("one more", w.park("0", epoch, "box/a", 5), groups.ErrParkedFull)
	w.no(w.park("0", epoch, "box/7", 4)) // one of them
	change := groups.Change{Segment: "0", To: holder("x"), Failed: true, Suspect: 2, Last: 2, Park: &groups.Park{Sequence: "box/a", Position: 2}}
	for range groups.ParkAfter {
		w.assign(change)
	}
	s := w.segment()
	w.equal("the event that should be parked", []any{s.Tries, s.Suspect}, []any{groups.ParkAfter, eventstore.Position(2)})
	w.no(w.store.Retry(w.Context(), "g", "box/7"))
	w.no(w.store.Rejoin(w.Context(), "g", "~box/7", w.read().Segments[1].Epoch))
	change.Failed = false
	w.equal("tries once there is room", w.assign(change).Segments[0].Tries, groups.Careful)
	w.equal("the number", w.read().Parked, groups.MaxParked)
}

func testParkedTogether(w *world) {
	const segments, each = 8, groups.MaxParked/8 + 5
	g := w.group(segments)
	w.append("a", 9)
	var parked atomic.Int64
	var all sync.WaitGroup
	for _, s := range g.Segments {
		all.Go(func() {
			for i := range each {
				err := w.store.Park(w.Context(), "g", s.Name, s.Epoch, groups.Park{Sequence: fmt.Sprintf("box/%s-%d", s.Name, i), Position: 5})
				switch {
				case err == nil:
					parked.Add(1)
				case !errors.Is(err, groups.ErrParkedFull):
					w.Error(err)
				}
			}
		})
	}
	all.Wait()
	w.equal("the parks that succeeded", parked.Load(), int64(groups.MaxParked))
	w.equal("the number", w.read().Parked, groups.MaxParked)
	const room = 3
	for _, p := range w.parked()[:room] {
		w.no(w.store.Retry(w.Context(), "g", p.Sequence))
		list := w.read().Segments
		w.no(w.store.Rejoin(w.Context(), "g", groups.RetrySegment(p.Sequence), list[len(list)-1].Epoch))
	}
	var changes []groups.Change
	for n := range segments {
		changes = append(changes, groups.Change{
			Segment: groups.SegmentName(n), To: holder("x"), Failed: true, Suspect: 2, Last: 2,
			Park: &groups.Park{Sequence: fmt.Sprint("crate/", n), Position: 2},
		})
	}
	for range groups.ParkAfter {
		w.assign(changes...)
	}
	w.equal("the number after parks by the server", w.read().Parked, groups.MaxParked)
	waiting := 0
	for _, s := range w.read().Segments {
		if s.Tries >= groups.ParkAfter && s.Suspect == 2 {
			waiting++
		}
	}
	w.equal("the segments whose event should be parked", waiting, segments-room)
}

func testRetry(w *world) {
	w.append("a", 9)
	g := w.group(2)
	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	epoch := w.segment().Epoch
	w.no(w.park("0", epoch, "box/a", 4))
	w.is("a retry of what is not parked", w.store.Retry(w.Context(), "g", "box/b"), groups.ErrNotParked)
	for range 2 {
		w.no(w.store.Retry(w.Context(), "g", "box/a"))
	}
	w.equal("the segments", w.names(), []string{"0@0", "1@0", "~box/a@3"})
	w.equal("parked", w.parked(), []groups.Parked{parkedAt("box/a", 4, true)})
	retry := w.assign(groups.Change{Segment: "~box/a", To: holder("a")}).Segments[2]
	if retry.Key == "" || retry.Epoch <= g.Generation || retry.Holder != holder("a") {
		w.Errorf("the segment is %+v", retry)
	}
	w.no(w.ack("~box/a", retry.Epoch, 6))
	w.is("a rejoin under another epoch", w.store.Rejoin(w.Context(), "g", "~box/a", retry.Epoch-1), groups.ErrRevoked)
	for range 2 { // the second as after an unknown outcome
		w.no(w.store.Rejoin(w.Context(), "g", "~box/a", retry.Epoch))
	}
	w.equal("the segments", w.names(), []string{"0@0", "1@0"})
	w.equal("parked", len(w.parked()), 0)
	w.is("an acknowledgement of a retry that ended", w.ack("~box/a", retry.Epoch, 7), groups.ErrRevoked)
}

func testRetryFails(w *world) {
	w.append("a", 9)
	w.group(1)
	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	w.no(w.park("0", w.segment().Epoch, "box/a", 4))
	w.no(w.store.Retry(w.Context(), "g", "box/a"))
	epoch := w.read().Segments[1].Epoch
	w.no(w.ack("~box/a", epoch, 5))
	w.no(w.park("~box/a", epoch, "box/a", 6))
	w.equal("the segments", w.names(), []string{"0@0"})
	w.equal("parked", w.parked(), []groups.Parked{parkedAt("box/a", 6, false)})
	w.is("a rejoin of a retry that ended", w.store.Rejoin(w.Context(), "g", "~box/a", epoch), groups.ErrRevoked)

	w.no(w.store.Retry(w.Context(), "g", "box/a"))
	change := groups.Change{
		Segment: "~box/a", To: holder("x"), Failed: true, Suspect: 7, Last: 7,
		Park: &groups.Park{Sequence: "box/a", Position: 7, Reason: "boom"},
	}
	for range groups.ParkAfter {
		w.assign(change)
	}
	w.equal("the segments, parked by the server", w.names(), []string{"0@0"})
	w.equal("parked by the server", w.parked(), []groups.Parked{parkedAt("box/a", 7, false)})
}

func testSkip(w *world) {
	w.append("a", 9)
	w.group(1)
	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	w.no(w.park("0", w.segment().Epoch, "box/a", 4))
	w.is("a skip at another position", w.store.Skip(w.Context(), "g", "box/a", 5), groups.ErrNotParked)
	w.is("a skip of another sequence", w.store.Skip(w.Context(), "g", "box/b", 4), groups.ErrNotParked)
	w.no(w.store.Skip(w.Context(), "g", "box/a", 4))
	w.equal("the segments", w.names(), []string{"0@0", "~box/a@4"})
	w.is("a skip during the retry", w.store.Skip(w.Context(), "g", "box/a", 5), groups.ErrNotParked)
	w.equal("parked", w.parked(), []groups.Parked{parkedAt("box/a", 5, true)})
}

func testReset(w *world) {
	w.append("a", 9)
	w.group(2)
	held := w.assign(groups.Change{Segment: "0", To: holder("a")}, groups.Change{Segment: "1", To: holder("b")})
	epoch := held.Segments[0].Epoch
	w.no(w.ack("0", epoch, 9))
	for sequence, p := range map[string]eventstore.Position{"box/a": 2, "box/b": 6, "box/c": 4} {
		w.no(w.park("0", epoch, sequence, p))
	}
	w.no(w.store.Retry(w.Context(), "g", "box/a"))
	w.no(w.ack("~box/a", w.read().Segments[2].Epoch, 4))
	w.is("a reset beyond the end of the log", w.store.Reset(w.Context(), "g", groups.Place{Position: 10}), groups.ErrAhead)
	w.equal("the segments after it", w.names(), []string{"0@9", "1@9", "~box/a@4"})
	w.no(w.store.Reset(w.Context(), "g", groups.Place{Position: 5}))
	w.equal("the segments", w.names(), []string{"0@5", "1@5"})
	w.equal("parked", w.parked(), []groups.Parked{parkedAt("box/c", 4, false), parkedAt("box/a", 5, false)})
	g := w.read()
	for i, session := range []string{"a", "b"} {
		s := g.Segments[i]
		w.equal("the holder and epoch of "+s.Name, []any{s.Holder, s.Epoch, s.Key}, []any{holder(session), g.Generation, "key-1"})
	}
	w.is("an acknowledgement from before", w.ack("0", epoch, 7), groups.ErrRevoked)
	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	w.equal("the segments", w.names(), []string{"0@0", "1@0"})
	w.equal("parked", len(w.parked()), 0)
}

func testKeep(w *world) {
	w.append("a", 9)
	g := w.group(2)
	w.append("b", 1)
	epoch := g.Segments[0].Epoch
	w.no(w.ack("0", epoch, 10))
	w.no(w.park("0", epoch, "box/a", 2))
	w.no(w.store.Reset(w.Context(), "g", groups.Place{Keep: true}))
	w.equal("the segments", w.names(), []string{"0@10", "1@9"})
	w.equal("parked", len(w.parked()), 1)
	w.equal("the epoch", w.segment().Epoch, w.read().Generation)
}

func testResize(w *world) {
	w.append("a", 9)
	w.group(3)
	w.no(w.store.Reset(w.Context(), "g", groups.Place{}))
	g := w.assign(groups.Change{Segment: "0", To: holder("a")}, groups.Change{Segment: "1", To: holder("b")}, groups.Change{Segment: "2", To: holder("b")})
	epoch := g.Segments[0].Epoch
	for i, p := range []eventstore.Position{5, 3, 9} {
		w.no(w.ack(groups.SegmentName(i), epoch, p))
	}
	w.no(w.park("0", epoch, "box/a", 2))
	w.no(w.park("0", epoch, "box/b", 4))
	w.no(w.store.Retry(w.Context(), "g", "box/b"))
	w.no(w.store.Resize(w.Context(), "g", 2))
	w.equal("the segments", w.names(), []string{"0@3", "1@3"})
	w.equal("parked", w.parked(), []groups.Parked{parkedAt("box/a", 2, false)})
	g = w.read()
	w.equal("the group", []any{g.Count, g.Segments[0].Epoch, g.Segments[0].Holder, g.Segments[1].Key}, []any{2, g.Generation, groups.Holder{}, "key-1"})
	w.is("an acknowledgement from before", w.ack("0", epoch, 7), groups.ErrRevoked)
}
