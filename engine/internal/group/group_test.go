package group_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/engine/internal/group"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	protogroup "github.com/ganglion-es/ganglion/proto/group"
	routergroups "github.com/ganglion-es/ganglion/router/groups"
)

// A world is a cluster of nodes on one embedded log, in a bubble of synctest: its
// clock stands still while the database works.
type world struct {
	*testing.T
	ctx   context.Context
	log   *sqlite.Store
	nodes map[string]*node
	all   sync.WaitGroup
	keys  int
}

// A node is a coordinator and a gateway.
type node struct {
	w           *world
	name        string
	coordinator *group.Coordinator
	members     *routergroups.Members
	cut         atomic.Bool            // neither reports nor answers arrive at or from other nodes
	part        atomic.Int64           // of the cluster; other parts are cut off
	frozen      atomic.Bool            // the coordinator does not reach the database
	assigning   atomic.Int64           // how long an assignment takes before and after it is stored, in ns
	lag         atomic.Int64           // the longest time of a step to a coordinator or in the database, in ns
	owner       atomic.Pointer[string] // the coordinator by this node's ring
}

// Exchange carries a report to the owner by the ring.
func (n *node) Exchange(ctx context.Context, r protogroup.Report) (protogroup.Answer, error) {
	to := n.w.nodes[*n.owner.Load()]
	n.step()
	if !n.reaches(to) {
		return protogroup.Answer{}, errors.New("the link is broken")
	}
	a, err := to.coordinator.Exchange(ctx, r)
	n.step()
	if !n.reaches(to) {
		return protogroup.Answer{}, errors.New("the link broke")
	}
	return a, err
}

// alone reports whether the node reaches no other one.
func (n *node) alone() bool {
	for _, to := range n.w.nodes {
		if to != n && n.reaches(to) {
			return false
		}
	}
	return true
}

func (n *node) reaches(to *node) bool {
	return n == to || !n.cut.Load() && !to.cut.Load() && n.part.Load() == to.part.Load()
}

// step lets some time pass.
func (n *node) step() {
	if lag := n.lag.Load(); lag > 0 {
		time.Sleep(time.Duration(rand.Int64N(lag)))
	}
}

// storeOf is a store that a frozen node does not reach. A node that is frozen while the
// store works gets no answer.
type storeOf struct {
	groups.Store
	n *node
}

func (s storeOf) Take(ctx context.Context, name, coordinator string) (groups.Group, error) {
	return call(s.n, func() (groups.Group, error) { return s.Store.Take(ctx, name, coordinator) })
}

func (s storeOf) Groups(ctx context.Context, names ...string) ([]groups.Group, error) {
	return call(s.n, func() ([]groups.Group, error) { return s.Store.Groups(ctx, names...) })
}

func (s storeOf) Assign(ctx context.Context, name string, generation uint64, coordinator string, changes []groups.Change) (groups.Group, error) {
	return call(s.n, func() (groups.Group, error) {
		time.Sleep(time.Duration(s.n.assigning.Load()))
		defer func() { time.Sleep(time.Duration(s.n.assigning.Load())) }()
		return s.Store.Assign(ctx, name, generation, coordinator, changes)
	})
}

func call[T any](n *node, do func() (T, error)) (result T, err error) {
	n.step()
	if n.frozen.Load() {
		return result, eventstore.ErrUnavailable
	}
	done, err := do()
	n.step()
	if err != nil || n.frozen.Load() {
		return result, cmp.Or(err, eventstore.ErrUnavailable)
	}
	return done, nil
}

// run runs a test in a cluster of nodes n1, n2, …; n1 owns the group.
func run(t *testing.T, nodes, segments int, test func(w *world)) {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		log, err := sqlite.Open(ctx, sqlite.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		w := &world{T: t, ctx: ctx, log: log, nodes: map[string]*node{}}
		if _, err := log.Groups().Ensure(ctx, "g", segments); err != nil {
			t.Fatal(err)
		}
		for i := range nodes {
			w.add(fmt.Sprint("n", i+1))
		}
		for _, n := range w.nodes { // once the map has all
			w.all.Go(func() { _ = n.coordinator.Run(w.ctx) })
			w.all.Go(func() { _ = n.members.Run(w.ctx) })
		}
		defer w.all.Wait()
		defer stop()
		test(w)
	})
}

// own makes a node the coordinator by the ring of all nodes.
func (w *world) own(name string) {
	for _, n := range w.nodes {
		n.owner.Store(&name)
	}
}

func (w *world) add(name string) {
	w.Helper()
	n := &node{w: w, name: name}
	first := "n1"
	n.owner.Store(&first)
	n.coordinator = group.New(group.Config{
		Group: "g", Self: name, Store: storeOf{w.log.Groups(), n}, Read: w.log.Read, LogID: w.log.LogID,
		Owns: func() bool { return *n.owner.Load() == name }, Alone: n.alone, Logger: slog.New(slog.DiscardHandler),
	})
	var err error
	n.members, err = routergroups.NewMembers(routergroups.Config{
		Self: name, Store: w.log.Groups(), Coordinator: n, Logger: slog.New(slog.DiscardHandler),
		Groups: []protogroup.Group{{Name: "g", AckWithin: 30 * time.Second, Allows: func(string, map[string]any) bool { return true }}},
	})
	if err != nil {
		w.Fatal(err)
	}
	w.nodes[name] = n
}

// append appends an event to box/id.
func (w *world) append(id string) eventstore.Position {
	w.Helper()
	head, err := w.log.StreamHead(w.ctx, eventstore.StreamID{Type: "box", ID: id})
	if err != nil {
		w.Fatal(err)
	}
	w.keys++
	a, err := w.log.Append(w.ctx, eventstore.Unit{Stream: eventstore.StreamID{Type: "box", ID: id}, Expected: head.Version, Commands: []eventstore.Command{{
		Key: fmt.Sprint("key", w.keys), At: time.Now(), Events: []eventstore.Event{{Type: "put", Data: []byte("{}")}},
	}}})
	if err != nil {
		w.Fatal(err)
	}
	return a.Commands[0].Position
}

func (w *world) group() groups.Group {
	w.Helper()
	list, err := w.log.Groups().Groups(w.ctx, "g")
	if err != nil {
		w.Fatal(err)
	}
	return list[0]
}

func (n *node) join(name string) protogroup.Membership {
	n.w.Helper()
	m, f := n.members.Join(n.w.ctx, protogroup.Member{Group: "g", Client: "bob", Name: name}, func() {})
	if f != nil {
		n.w.Fatal(f)
	}
	return m
}

// may returns the segments of which a member may be sent events now.
func may(m protogroup.Membership) (list []string) {
	h := m.Holdings()
	if h.Silent || h.Replaced {
		return nil
	}
	for _, one := range h.List {
		if !one.Revoking && one.Halt == "" {
			list = append(list, one.Segment)
		}
	}
	return list
}

// wait lets time pass.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (w *world) count(what string, want int, members ...protogroup.Membership) {
	w.Helper()
	for i, m := range members {
		if got := may(m); len(got) != want {
			w.Errorf("%s: member %d may get events of the segments %q, want %d", what, i+1, got, want)
		}
	}
}

// epoch returns the epoch of a segment that a member holds.
func epoch(m protogroup.Membership, segment string) uint64 {
	for _, h := range m.Holdings().List {
		if h.Segment == segment {
			return h.Epoch
		}
	}
	return 0
}

// releaseAll releases what is revoked.
func releaseAll(m protogroup.Membership) {
	for _, h := range m.Holdings().List {
		if h.Revoking {
			m.Release(h.Segment, h.Epoch)
		}
	}
}

func TestJoinsAreGatheredAndSharedOnce(t *testing.T) {
	run(t, 3, 16, func(w *world) {
		wait(time.Second)
		before := w.group().Generation
		a, b, c := w.nodes["n1"].join("a"), w.nodes["n2"].join("b"), w.nodes["n3"].join("c")
		wait(900 * time.Millisecond)
		w.count("before 1 s has passed", 0, a, b, c)
		wait(400 * time.Millisecond)
		all := slices.Concat(may(a), may(b), may(c))
		slices.Sort(all)
		if len(slices.Compact(all)) != 16 || len(may(a)) < 5 || len(may(b)) < 5 || len(may(c)) < 5 {
			t.Errorf("the members hold %q, %q and %q", may(a), may(b), may(c))
		}
		if got := w.group().Generation; got != before+1 {
			t.Errorf("%d assignments, want 1", got-before)
		}
	})
}

func TestOnlySurplusMovesToNewMember(t *testing.T) {
	run(t, 2, 16, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(2 * time.Second)
		before := [][]string{may(a), may(b)}
		c := w.nodes["n2"].join("c")
		wait(1500 * time.Millisecond)
		w.count("while the older members have the segments", 0, c)
		if len(may(a))+len(may(b)) != 11 {
			t.Errorf("%q and %q may be sent, while 5 segments are revoked", may(a), may(b))
		}
		wait(2 * time.Second)
		if len(may(a))+len(may(b)) != 11 || len(may(c)) != 0 {
			t.Error("a segment moved before it was released")
		}
		releaseAll(a)
		releaseAll(b)
		wait(400 * time.Millisecond)
		w.count("after the release", 5, c)
		for i, m := range []protogroup.Membership{a, b} {
			for _, s := range may(m) {
				if !slices.Contains(before[i], s) {
					t.Errorf("segment %s moved, although its holder had no surplus", s)
				}
			}
		}
	})
}

func TestRevokedSegmentMovesAfterFiveSecondsWithoutRelease(t *testing.T) {
	run(t, 1, 4, func(w *world) {
		a := w.nodes["n1"].join("a")
		wait(2 * time.Second)
		b := w.nodes["n1"].join("b")
		wait(5500 * time.Millisecond)
		w.count("before 5 s have passed", 0, b)
		wait(time.Second)
		w.count("after 5 s", 2, a, b)
	})
}

func TestSegmentsOfClosedSessionMoveAtOnce(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(2 * time.Second)
		old := epoch(b, may(b)[0])
		segment := may(b)[0]
		b.Close()
		wait(50 * time.Millisecond)
		w.count("after the other member left", 4, a)
		if err := b.Ack(w.ctx, segment, old, 0); !errors.Is(err, protogroup.ErrRevoked) {
			t.Errorf("an acknowledgement of an old epoch: %v", err)
		}
		a.Close()
		wait(500 * time.Millisecond)
		for _, s := range w.group().Segments {
			if s.Holder.Session != "" {
				t.Errorf("segment %s has the holder %+v, who is gone", s.Name, s.Holder)
			}
		}
	})
}

func TestSilentGatewaysSegmentsMoveAfterItStoppedSending(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(2 * time.Second)
		w.nodes["n2"].cut.Store(true)
		for range 40 {
			wait(100 * time.Millisecond)
			if len(may(a)) > 2 && len(may(b)) > 0 {
				t.Fatalf("both members may be sent: %q and %q", may(a), may(b))
			}
		}
		w.count("after the link broke", 4, a)
		if !b.Holdings().Silent {
			t.Error("the cut gateway is not silent")
		}
		w.nodes["n2"].cut.Store(false)
		wait(1500 * time.Millisecond)
		releaseAll(a)
		wait(500 * time.Millisecond)
		w.count("after the link was mended", 2, a, b)
	})
}

func TestNewerSessionTakesThePlaceOfTheOlder(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		older, other := w.nodes["n1"].join("a"), w.nodes["n1"].join("b")
		wait(2 * time.Second)
		segments, before := may(older), epoch(older, may(older)[0])
		newer := w.nodes["n2"].join("a")
		wait(50 * time.Millisecond)
		if h := older.Holdings(); !h.Replaced {
			t.Errorf("the older session has %+v", h)
		}
		if got := may(newer); !slices.Equal(got, segments) || epoch(newer, got[0]) <= before {
			t.Errorf("the newer session has %q, epoch %d; want %q and an epoch after %d", got, epoch(newer, got[0]), segments, before)
		}
		w.count("the other member", 2, other)
		w.nodes["n1"].cut.Store(true) // the older session's gateway returns later
		w.own("n2")
		wait(3 * time.Second)
		w.nodes["n1"].cut.Store(false)
		wait(3 * time.Second)
		if newer.Holdings().Replaced || !older.Holdings().Replaced {
			t.Errorf("after a break the older session took the place back")
		}
	})
}

func TestNewCoordinatorChangesNothingForTwoSeconds(t *testing.T) {
	run(t, 3, 6, func(w *world) {
		a, b, c := w.nodes["n1"].join("a"), w.nodes["n2"].join("b"), w.nodes["n3"].join("c")
		wait(2 * time.Second)
		before := w.group()
		w.own("n2")
		wait(1900 * time.Millisecond)
		after := w.group()
		if after.Coordinator != "n2" || after.Generation != before.Generation+1 {
			t.Errorf("the group is %+v", after)
		}
		wait(3 * time.Second)
		after = w.group()
		if after.Generation != before.Generation+1 {
			t.Error("the new coordinator moved segments of members that it had heard")
		}
		w.count("all", 2, a, b, c)
		c.Close()
		wait(50 * time.Millisecond)
		w.count("after a member left", 3, a, b)
	})
}

// A coordinator that does not reach the database answers for a while, and its gateways
// must not believe it any more when another one acts.
func TestFrozenCoordinatorsGatewaysFallSilentBeforeAnotherActs(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		n1, n2 := w.nodes["n1"], w.nodes["n2"]
		a, b := n1.join("a"), n2.join("b")
		wait(2 * time.Second)
		n1.frozen.Store(true)
		second := "n2"
		n2.owner.Store(&second) // n1 and its gateway do not know
		for range 400 {
			wait(10 * time.Millisecond)
			if len(may(a)) > 0 && len(may(b)) > 2 {
				t.Fatalf("both members may be sent: %q and %q", may(a), may(b))
			}
		}
		w.count("member of the new coordinator", 4, b)
		w.own("n2")
		n1.frozen.Store(false)
		wait(1500 * time.Millisecond)
		releaseAll(b)
		wait(500 * time.Millisecond)
		w.count("after the rings agree", 2, a, b)
	})
}

func TestSegmentsStayWhereTheyAreWhileTheDatabaseIsAway(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(2 * time.Second)
		before := [][]protogroup.Holding{a.Holdings().List, b.Holdings().List}
		for _, n := range w.nodes {
			n.frozen.Store(true)
		}
		wait(3 * time.Second)
		w.count("while the database is away", 0, a, b)
		wait(17 * time.Second)
		if h := a.Holdings(); !h.Silent || len(h.List) != 2 {
			t.Errorf("after 20 s without the database: %+v", h)
		}
		for _, n := range w.nodes {
			n.frozen.Store(false)
		}
		wait(time.Second)
		w.count("when it is back", 2, a, b)
		if !slices.Equal(a.Holdings().List, before[0]) || !slices.Equal(b.Holdings().List, before[1]) {
			t.Errorf("the holdings were %+v, and are %+v and %+v", before, a.Holdings().List, b.Holdings().List)
		}
	})
}

func TestCoordinatorThatAnotherReplacesWaitsLongerEachTime(t *testing.T) {
	run(t, 1, 1, func(w *world) {
		n := w.nodes["n1"]
		wait(time.Second)
		for i, pause := range []time.Duration{2 * time.Second, 4 * time.Second} {
			if _, err := w.log.Groups().Take(w.ctx, "g", "n2"); err != nil {
				t.Fatal(err)
			}
			wait(pause)
			if s := n.coordinator.Stats(); s.Leads || s.Lost != uint64(i+1) {
				t.Errorf("before %v have passed: %+v", pause, s)
			}
			wait(time.Second)
			if s := n.coordinator.Stats(); !s.Leads {
				t.Errorf("after %v: %+v", pause, s)
			}
		}
	})
}

func TestEventThatEndsItsConsumersIsParked(t *testing.T) {
	run(t, 1, 1, func(w *world) {
		poison := w.append("a")
		last := w.append("b")
		n := w.nodes["n1"]
		var m protogroup.Membership
		for try := range groups.ParkAfter {
			m = n.join(fmt.Sprint("m", try))
			wait(1500 * time.Millisecond)
			h := m.Holdings().List
			want := 0
			if try >= groups.Careful {
				want = 1
			}
			if len(h) != 1 || h[0].Window != want {
				t.Fatalf("member %d holds %+v, want a window of %d", try+1, h, want)
			}
			if want == 1 {
				last = poison
			}
			m.Pending("0", h[0].Epoch, poison, last)
			m.Close()
			wait(time.Second)
		}
		parked, err := w.log.Groups().Parked(w.ctx, "g", groups.MaxParked)
		if err != nil || len(parked) != 1 || parked[0].Sequence != "box/a" || parked[0].Position != poison || parked[0].Reason == "" {
			t.Fatalf("parked: %+v, %v", parked, err)
		}
		m = n.join("last")
		wait(1500 * time.Millisecond)
		list, err := m.Parked(w.ctx, "0", epoch(m, "0"))
		if err != nil || len(list) != 1 || list[0].Sequence != "box/a" || list[0].Position != poison {
			t.Errorf("the next member leaves out %+v, %v", list, err)
		}
		if s := n.coordinator.Stats(); s.Failed != groups.ParkAfter || s.Parked != 1 {
			t.Errorf("figures: %+v", s)
		}
	})
}

func TestMembersThatLeaveWithNothingPendingAreNoTries(t *testing.T) {
	run(t, 1, 2, func(w *world) {
		w.append("a")
		for i := range 2 * groups.ParkAfter {
			m := w.nodes["n1"].join(fmt.Sprint("m", i))
			wait(1500 * time.Millisecond)
			m.Pending("0", epoch(m, "0"), 1, 1)
			m.Pending("0", epoch(m, "0"), 0, 0)
			m.Close()
			wait(500 * time.Millisecond)
		}
		for _, s := range w.group().Segments {
			if s.Tries != 0 {
				t.Errorf("segment %s has %d tries", s.Name, s.Tries)
			}
		}
	})
}

func TestRetriedSequenceFollowsItsSegment(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		p := w.append("a")
		w.append("a")
		a := w.nodes["n1"].join("a")
		wait(1500 * time.Millisecond)
		main := groups.SegmentName(protogroup.SegmentOf(eventstore.StreamID{Type: "box", ID: "a"}, 4))
		if err := a.Park(w.ctx, main, epoch(a, main), p, "box/a", strings.Repeat("ä", protogroup.MaxReason)+"\x00"); err != nil {
			t.Fatal(err)
		}
		if err := w.log.Groups().Retry(w.ctx, "g", "box/a"); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		if got := may(a); !slices.Equal(got, []string{"0", "1", "2", "3", "~box/a"}) {
			t.Fatalf("the member holds %q", got)
		}
		b := w.nodes["n2"].join("b") // two segments move; whichever, the sequence follows
		wait(1500 * time.Millisecond)
		releaseAll(a)
		wait(500 * time.Millisecond)
		holder := a
		if slices.Contains(may(b), main) {
			holder = b
		}
		if !slices.Contains(may(holder), "~box/a") || len(may(a))+len(may(b)) != 5 {
			t.Fatalf("the members hold %q and %q", may(a), may(b))
		}
		if err := holder.Ack(w.ctx, "~box/a", epoch(holder, "~box/a"), p+1); err != nil {
			t.Error(err)
		}
		if err := holder.Rejoin(w.ctx, "~box/a", epoch(holder, "~box/a")); err != nil {
			t.Error(err)
		}
		wait(time.Second)
		if slices.Contains(may(holder), "~box/a") {
			t.Error("the sequence has rejoined, and still has a segment")
		}
	})
}

func TestOperatorsChangeAGroupWhileMembersRun(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		w.append("a")
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(2 * time.Second)
		store := w.log.Groups()
		halted := func(m protogroup.Membership) (list []protogroup.Halt) {
			for _, h := range m.Holdings().List {
				list = append(list, h.Halt)
			}
			return slices.Compact(list)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(store.Pause(w.ctx, "g", true))
		wait(time.Second)
		if got := halted(a); !slices.Equal(got, []protogroup.Halt{protogroup.Paused}) {
			t.Errorf("a paused group's holdings say %q", got)
		}
		must(store.Pause(w.ctx, "g", false))
		wait(time.Second)
		w.count("after the pause", 2, a, b)
		before, segments := epoch(a, may(a)[0]), may(a)
		must(store.Reset(w.ctx, "g", groups.Place{}))
		wait(time.Second)
		if got := may(a); !slices.Equal(got, segments) || epoch(a, got[0]) <= before {
			t.Errorf("after the reset the member has %q, epoch %d; it had %q, epoch %d", got, epoch(a, got[0]), segments, before)
		}
		must(store.Resize(w.ctx, "g", 10))
		for range 20 {
			wait(100 * time.Millisecond)
			for _, m := range []protogroup.Membership{a, b} {
				for _, h := range m.Holdings().List {
					if h.Segments != 4 && len(slices.Concat(may(a), may(b))) > 10 {
						t.Fatal("segments of both layouts are held")
					}
				}
			}
		}
		wait(2 * time.Second)
		w.count("after the resize", 5, a, b)
	})
}

func TestGroupStopsAfterTheLogWentBackUntilReset(t *testing.T) {
	run(t, 1, 2, func(w *world) {
		w.append("a")
		m := w.nodes["n1"].join("a")
		wait(2 * time.Second)
		if _, err := w.log.AcceptLoss(w.ctx); err != nil { // an operator declares that events are lost
			t.Fatal(err)
		}
		wait(time.Second)
		h := m.Holdings().List
		if len(h) != 2 || h[0].Halt != protogroup.WentBack || h[0].Log == w.log.LogID() {
			t.Errorf("the holdings are %+v", h)
		}
		if err := m.Ack(w.ctx, "0", h[0].Epoch, 1); !errors.Is(err, protogroup.ErrRevoked) {
			t.Errorf("an acknowledgement of another log: %v", err)
		}
		if err := w.log.Groups().Reset(w.ctx, "g", groups.Place{Keep: true}); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		w.count("after the reset", 2, m)
		if h := m.Holdings().List; h[0].Log != w.log.LogID() {
			t.Errorf("the holdings are %+v", h)
		}
	})
}
