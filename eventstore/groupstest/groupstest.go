// Package groupstest is the suite that every implementation of groups.Store passes.
package groupstest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Log is an empty log with the groups beside it.
type Log interface {
	eventstore.Store
	Groups() groups.Store
	Rows() rows.Store
}

// Run runs the suite. newLog returns an empty log.
func Run(t *testing.T, newLog func(t *testing.T) Log) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*world)
	}{
		{"a group is made once and begins at the head", testEnsure},
		{"of two coordinators at one generation one wins", testRivals},
		{"a coordinator that was replaced is fenced", testTake},
		{"an acknowledgement moves its segment under its epoch alone", testAck},
		{"an acknowledgement names the commit at its position", testAckKey},
		{"many acknowledgements have an outcome each", testAcks},
		{"no acknowledgement of an old epoch moves a segment", testAckRivals},
		{"takeovers count while the event is unacknowledged", testTries},
		{"a narrowed window stays until the whole of it is acknowledged", testCareful},
		{"an event that fails each member is parked by the server", testServerPark},
		{"a member parks a sequence under its epoch alone", testPark},
		{"a full group parks nothing more", testParkedFull},
		{"segments that park together do not exceed the bound", testParkedTogether},
		{"a parked sequence is retried and rejoins", testRetry},
		{"a retry that fails is parked where it failed", testRetryFails},
		{"a skipped event is left out", testSkip},
		{"a reset moves the segments of running members", testReset},
		{"a reset keeps what the log still has", testKeep},
		{"a resize begins at the lowest position", testResize},
		{"operators fence a running coordinator", testOperators},
		{"a paused group says so", testPause},
		{"groups of a copied log are made paused", testCopy},
		{"a dropped group is gone", testDrop},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			log := newLog(t)
			test.run(&world{T: t, log: log, store: log.Groups(), versions: map[string]eventstore.Version{}})
		})
	}
}

// A world is a log with a group "g".
type world struct {
	*testing.T
	log      Log
	store    groups.Store
	versions map[string]eventstore.Version
	keys     int
}

// append appends a commit of n events to the stream box/id, and returns its position.
func (w *world) append(id string, n int) eventstore.Position {
	w.Helper()
	w.keys++
	c := eventstore.Command{Key: fmt.Sprint("key-", w.keys), At: time.Now()}
	for range n {
		c.Events = append(c.Events, eventstore.Event{Type: "put", Data: []byte("{}")})
	}
	a, err := w.log.Append(w.Context(), eventstore.Unit{Stream: eventstore.StreamID{Type: "box", ID: id}, Expected: w.versions[id], Commands: []eventstore.Command{c}})
	if err != nil {
		w.Fatal(err)
	}
	w.versions[id] += eventstore.Version(n)
	return a.Commands[0].Position
}

// group makes the group with a number of segments, and node n1 its coordinator.
func (w *world) group(segments int) groups.Group {
	w.Helper()
	if _, err := w.store.Ensure(w.Context(), "g", segments); err != nil {
		w.Fatal(err)
	}
	return must(w, w.store.Take, "n1")
}

func must(w *world, take func(context.Context, string, string) (groups.Group, error), node string) groups.Group {
	w.Helper()
	g, err := take(w.Context(), "g", node)
	if err != nil {
		w.Fatal(err)
	}
	return g
}

// read reads the group.
func (w *world) read() groups.Group {
	w.Helper()
	list, err := w.store.Groups(w.Context(), "g")
	if err != nil || len(list) != 1 {
		w.Fatalf("groups: %v, %v", list, err)
	}
	return list[0]
}

// assign makes changes as the coordinator n1, and returns the group.
func (w *world) assign(changes ...groups.Change) groups.Group {
	w.Helper()
	g, err := w.store.Assign(w.Context(), "g", w.read().Generation, "n1", changes)
	if err != nil {
		w.Fatal(err)
	}
	return g
}

func holder(session string) groups.Holder {
	return groups.Holder{Client: "bob", Member: "m-" + session, Session: session, Gateway: "g1"}
}

func (w *world) ack(segment string, epoch uint64, p eventstore.Position) error {
	w.Helper()
	errs, err := w.store.Ack(w.Context(), []groups.Ack{{Group: "g", Segment: segment, Epoch: epoch, Position: p}})
	if err != nil {
		w.Fatal(err)
	}
	return errs[0]
}

func (w *world) parked() (list []groups.Parked) {
	w.Helper()
	list, err := w.store.Parked(w.Context(), "g", groups.MaxParked)
	if err != nil {
		w.Fatal(err)
	}
	for i := range list {
		if list[i].At.IsZero() {
			w.Errorf("%+v has no time", list[i])
		}
		list[i].At = time.Time{}
	}
	return list
}

func (w *world) no(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) is(what string, err, want error) {
	w.Helper()
	if !errors.Is(err, want) {
		w.Errorf("%s: %v, want %v", what, err, want)
	}
}

func (w *world) equal(what string, got, want any) {
	w.Helper()
	if !reflect.DeepEqual(got, want) {
		w.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

func testEnsure(w *world) {
	w.append("a", 1)
	head := w.append("b", 2)
	var all sync.WaitGroup
	made := make([]groups.Group, 8)
	for i := range made { // together, as nodes that start
		all.Go(func() {
			g, err := w.store.Ensure(w.Context(), "g", 12)
			if err != nil {
				w.Error(err)
			}
			made[i] = g
		})
	}
	all.Wait()
	for _, g := range made {
		w.equal("the group", g, made[0])
	}
	g := made[0]
	if g.Name != "g" || g.Generation != 1 || g.Coordinator != "" || g.LogID != w.log.LogID() || g.Paused || g.Count != 12 || len(g.Segments) != 12 || g.Parked != 0 {
		w.Fatalf("a new group is %+v", g)
	}
	for i, s := range g.Segments {
		if s.Name != groups.SegmentName(i) || s.Position != head || s.Key != "key-2" || s.Epoch != 1 || s.Holder != (groups.Holder{}) || s.At.IsZero() {
			w.Errorf("segment %d is %+v", i, s)
		}
	}
	again, err := w.store.Ensure(w.Context(), "g", 3)
	w.no(err)
	w.equal("the group, made again with other segments", again, g)
	_, err = w.store.Ensure(w.Context(), "a", 1)
	w.no(err)
	list, err := w.store.Groups(w.Context())
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Name != "g" {
		w.Errorf("all groups: %v, %v", list, err)
	}
	if list, err := w.store.Groups(w.Context(), "none", "g"); err != nil || len(list) != 1 {
		w.Errorf("groups by name: %v, %v", list, err)
	}
}

func testRivals(w *world) {
	g := w.group(4)
	const rivals = 4
	won := make(chan string, rivals)
	var all sync.WaitGroup
	for i := range rivals { // one coordinator whose calls overlap
		all.Go(func() {
			session := fmt.Sprint("s", i)
			_, err := w.store.Assign(w.Context(), "g", g.Generation, "n1", []groups.Change{{Segment: "0", To: holder(session)}, {Segment: "3", To: holder(session)}})
			switch {
			case err == nil:
				won <- session
			case !errors.Is(err, groups.ErrFenced):
				w.Error(err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		w.Fatalf("%d of %d assignments at one generation were made", len(won), rivals)
	}
	after, session := w.read(), <-won
	w.equal("the generation", after.Generation, g.Generation+1)
	for i, want := range []groups.Holder{holder(session), {}, {}, holder(session)} {
		s := after.Segments[i]
		w.equal("the holder of "+s.Name, s.Holder, want)
		if want.Session != "" {
			w.equal("the epoch of "+s.Name, s.Epoch, after.Generation)
		} else {
			w.equal("the epoch of "+s.Name, s.Epoch, uint64(1))
		}
	}
	_, err := w.store.Assign(w.Context(), "none", 1, "n1", nil)
	w.is("assigning in no group", err, groups.ErrNoGroup)
}

func testTake(w *world) {
	w.group(1)
	held := w.assign(groups.Change{Segment: "0", To: holder("a")})
	taken := must(w, w.store.Take, "n2")
	w.equal("the coordinator", taken.Coordinator, "n2")
	w.equal("the segments", taken.Segments, held.Segments)
	w.equal("the generation", taken.Generation, held.Generation+1)
	for _, generation := range []uint64{held.Generation, taken.Generation} {
		_, err := w.store.Assign(w.Context(), "g", generation, "n1", []groups.Change{{Segment: "0"}})
		w.is("the coordinator that was replaced", err, groups.ErrFenced)
	}
	_, err := w.store.Assign(w.Context(), "g", held.Generation, "n2", []groups.Change{{Segment: "0"}})
	w.is("an old generation", err, groups.ErrFenced)
	w.equal("the segments", w.read().Segments, held.Segments)
	_, err = w.store.Take(w.Context(), "none", "n1")
	w.is("taking no group", err, groups.ErrNoGroup)
}

func testOperators(w *world) {
	w.append("a", 3)
	w.group(2)
	g := w.assign(groups.Change{Segment: "0", To: holder("a")})
	for what, change := range map[string]func() error{
		"reset":  func() error { return w.store.Reset(w.Context(), "g", groups.Place{Position: 1}) },
		"resize": func() error { return w.store.Resize(w.Context(), "g", 3) },
		"pause":  func() error { return w.store.Pause(w.Context(), "g", true) },
	} {
		before := w.read().Generation
		w.no(change())
		w.equal("the generation after "+what, w.read().Generation, before+1)
		_, err := w.store.Assign(w.Context(), "g", before, "n1", []groups.Change{{Segment: "1", To: holder("b")}})
		w.is("an assignment that has not seen the "+what, err, groups.ErrFenced)
	}
	w.is("an acknowledgement from before", w.ack("0", g.Segments[0].Epoch, 3), groups.ErrRevoked)
	for what, err := range map[string]error{
		"reset":  w.store.Reset(w.Context(), "none", groups.Place{}),
		"resize": w.store.Resize(w.Context(), "none", 1),
		"pause":  w.store.Pause(w.Context(), "none", true),
		"retry":  w.store.Retry(w.Context(), "none", "box/a"),
		"skip":   w.store.Skip(w.Context(), "none", "box/a", 1),
	} {
		w.is(what+" of no group", err, groups.ErrNoGroup)
	}
}

func testPause(w *world) {
	w.group(1)
	for _, paused := range []bool{true, true, false} {
		w.no(w.store.Pause(w.Context(), "g", paused))
		w.equal("paused", w.read().Paused, paused)
	}
}

func testCopy(w *world) {
	made := func(name string) groups.Group {
		w.Helper()
		g, err := w.store.Ensure(w.Context(), name, 1)
		w.no(err)
		return g
	}
	w.no(w.log.Rows().Pause(w.Context(), groups.PauseName, true))
	if !made("g").Paused || !made("h").Paused {
		w.Error("a group of a copied log is not paused")
	}
	w.no(w.store.Pause(w.Context(), "g", false))
	if w.read().Paused || !made("h").Paused || made("i").Paused {
		w.Error("after one group was resumed, the others that exist are paused, and new ones are not")
	}
}

func testDrop(w *world) {
	w.append("a", 1)
	g := w.group(1)
	w.no(w.store.Park(w.Context(), "g", "0", g.Segments[0].Epoch, groups.Park{Sequence: "box/a", Position: 1}))
	w.assign(groups.Change{Segment: "0", To: holder("a")})
	w.is("a drop while a member holds a segment", w.store.Drop(w.Context(), "g", false), groups.ErrHeld)
	w.equal("parked", len(w.parked()), 1)
	w.assign(groups.Change{Segment: "0"})
	w.no(w.store.Drop(w.Context(), "g", false))
	w.is("a drop of no group", w.store.Drop(w.Context(), "g", false), groups.ErrNoGroup)
	w.group(1)
	w.assign(groups.Change{Segment: "0", To: holder("a")})
	w.no(w.store.Drop(w.Context(), "g", true))
	if list, err := w.store.Groups(w.Context()); err != nil || len(list) != 0 {
		w.Errorf("groups: %v, %v", list, err)
	}
	if list := w.parked(); len(list) != 0 {
		w.Errorf("parked: %v", list)
	}
	if g := w.group(2); len(g.Segments) != 2 {
		w.Errorf("made again: %+v", g)
	}
}
