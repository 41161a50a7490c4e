package consumer_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/gateway/internal/consumer"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// desk is the coordinator and the only member's place in the group. The group reads the
// types "letter" and "parcel".
type desk struct {
	mu      sync.Mutex
	changed func()
	held    []group.Holding
	stored  map[string]eventstore.Position
	acks    int
	err     error
	closed  bool
}

func (d *desk) Group(string) (group.Group, bool) {
	return group.Group{
		Name: "post", AckWithin: 30 * time.Second, Types: []string{"letter", "parcel"},
		Reads: func(typ, _ string) bool { return typ != "bill" },
	}, true
}

func (d *desk) Join(_ context.Context, _ group.Member, changed func()) (group.Membership, *command.Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = changed
	return d, nil
}

func (d *desk) hold(h ...group.Holding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = h
	d.changed()
}

func (d *desk) Holdings() group.Holdings {
	d.mu.Lock()
	defer d.mu.Unlock()
	return group.Holdings{List: d.held}
}

func (d *desk) Ack(_ context.Context, segment string, epoch uint64, p eventstore.Position) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.acks++; d.err != nil {
		return d.err
	}
	if !slices.ContainsFunc(d.held, func(h group.Holding) bool { return h.Segment == segment && h.Epoch == epoch }) {
		return group.ErrRevoked
	}
	d.stored[segment] = p
	return nil
}

func (d *desk) Renew(string, map[string]any) *command.Failure { return nil }

func (d *desk) Parked(context.Context, string, uint64) ([]group.Parked, error) { return nil, nil }

func (d *desk) Park(context.Context, string, uint64, eventstore.Position, string, string) error {
	return nil
}

func (d *desk) Rejoin(context.Context, string, uint64) error                     { return nil }
func (d *desk) Pending(string, uint64, eventstore.Position, eventstore.Position) {}
func (d *desk) Release(string, uint64)                                           {}
func (d *desk) Close()                                                           { d.look(func() { d.closed = true }) }

func (d *desk) look(at func()) { d.mu.Lock(); defer d.mu.Unlock(); at() }

// reader takes what the client gets: at most room events in a call.
type reader struct {
	room   int
	frames []frame.Frame
	events map[string][]*history.Entry // by segment
}

func (r *reader) Frame(f frame.Frame) { r.frames = append(r.frames, f) }

func (r *reader) Event(of *consumer.Segment, e *history.Entry) bool {
	if r.room--; r.room < 0 {
		return false
	}
	r.events[of.Name] = append(r.events[of.Name], e)
	return true
}

func newGateway(t testing.TB, d *desk, store eventstore.Store, window int) *consumer.Gateway {
	log := slog.New(slog.DiscardHandler)
	encode := func(c *eventstore.Commit, i int) *history.Entry {
		return &history.Entry{
			Stream: c.Stream, Version: c.FirstVersion() + eventstore.Version(i), Position: c.First() + eventstore.Position(i), Event: c.Events[i].Type, Tail: []byte("{}"),
		}
	}
	h := hub.New(hub.Config{Encode: encode, Window: history.NewWindow(window, 1<<20), MessageLimit: func() int { return 1 << 20 }, Shards: 1})
	ctx, cancel := context.WithCancel(context.Background())
	g := &consumer.Gateway{
		Groups: d, Hub: h, Logger: log, Guard: func(_ string, f func()) error { f(); return nil },
		Log: history.NewLog(ctx, history.Config{Store: store, Live: h, Encode: encode, PageCommits: 5, Reads: 2, Counters: &limits.Counters{}, Logger: log}),
	}
	running := make(chan struct{})
	go func() { defer close(running); h.Run() }()
	t.Cleanup(func() {
		g.Wait()
		cancel()
		g.Log.Pages().Stop()
		h.Stop()
		<-running
	})
	return g
}

func commit(p eventstore.Position, stream string) []eventstore.Commit {
	id, _ := eventstore.ParseStreamID(stream)
	return []eventstore.Commit{{Position: p, Stream: id, Version: eventstore.Version(p), Events: []eventstore.Event{{Type: "sent", Data: []byte(`{}`)}}}}
}

// begin returns a member that holds segment 0 and has got its first event, at position
// 1.
func begin(t *testing.T, d *desk) (*consumer.Gateway, *consumer.Member) {
	t.Helper()
	g := newGateway(t, d, nil, 100)
	m, failure := g.Join(t.Context(), consumer.Request{Sub: "g", Group: "post", Name: "m", Window: 10}, func() {})
	if failure != nil {
		t.Fatal(failure)
	}
	d.hold(group.Holding{Segment: "0", Epoch: 7, Segments: 1})
	_, _ = m.Next(&reader{}) // it loads the segment
	synctest.Wait()
	g.Hub.Deliver(commit(1, "letter/a"))
	r := &reader{room: 10, events: map[string][]*history.Entry{}}
	if _, failure := m.Next(r); failure != nil || len(r.events["0"]) != 1 || len(r.frames) != 1 {
		t.Fatalf("got %v, %+v", failure, r)
	}
	return g, m
}

func TestSilentMemberEndsAndRepeatedAckKeepsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{stored: map[string]eventstore.Position{}}
		_, m := begin(t, d)
		for range 20 { // ten minutes with one event
			time.Sleep(29 * time.Second)
			if isOver, failure := m.Ack("0", 7, "0"); isOver || failure != nil {
				t.Fatalf("got %v, %v", isOver, failure)
			}
		}
		time.Sleep(29 * time.Second)
		if m.HasEnded() {
			t.Fatal("the member is gone")
		}
		time.Sleep(2 * time.Second) // without a call of Next: its socket may be full
		synctest.Wait()
		d.look(func() {
			if !d.closed {
				t.Error("the member has its segments after 31 s of silence")
			}
		})
		if _, failure := m.Next(&reader{}); failure == nil || failure.Code != command.CodeTimeout {
			t.Errorf("got %v", failure)
		}
		if isOver, _ := m.Ack("0", 7, "1"); !isOver {
			t.Error("it may still acknowledge")
		}
	})
}

func TestMemberOfABusyLogIsWokenOnceInTenMilliseconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{stored: map[string]eventstore.Position{}}
		g := newGateway(t, d, nil, 1000)
		var wakes atomic.Int64
		m, failure := g.Join(t.Context(), consumer.Request{Sub: "g", Group: "post", Name: "m", Window: 1000}, func() { wakes.Add(1) })
		if failure != nil {
			t.Fatal(failure)
		}
		defer m.Close()
		d.hold(group.Holding{Segment: "0", Epoch: 7, Segments: 1})
		_, _ = m.Next(&reader{}) // it loads the segment
		synctest.Wait()
		deliver := func(p eventstore.Position) (woken bool) {
			before := wakes.Load()
			g.Hub.Deliver(commit(p, "letter/a"))
			synctest.Wait()
			return wakes.Load() > before
		}
		if !deliver(1) {
			t.Error("the first event does not wake the member")
		}
		r := &reader{room: 100, events: map[string][]*history.Entry{}}
		_, _ = m.Next(r)
		before := wakes.Load()
		for p := range eventstore.Position(9) { // one each millisecond
			time.Sleep(time.Millisecond)
			if deliver(p + 2) {
				t.Errorf("event %d wakes the member, which has just got events", p+2)
			}
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := wakes.Load() - before; got != 1 {
			t.Errorf("nine events wake the member %d times", got)
		}
		if _, _ = m.Next(r); len(r.events["0"]) != 10 {
			t.Errorf("the member got %d events", len(r.events["0"]))
		}
	})
}

func TestIdleSegmentIsStoredOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{stored: map[string]eventstore.Position{}}
		g, m := begin(t, d)
		defer m.Close()
		for p := eventstore.Position(2); p <= 500; p++ {
			g.Hub.Deliver(commit(p, "bill/a"))
			_, _ = m.Next(&reader{})
			time.Sleep(10 * time.Millisecond)
		}
		d.look(func() {
			if d.acks != 0 {
				t.Errorf("%d positions were stored while an event is pending", d.acks)
			}
		})
		_, _ = m.Ack("0", 7, "1")
		time.Sleep(3 * time.Second)
		d.look(func() {
			if d.stored["0"] != 500 || d.acks != 2 {
				t.Errorf("stored %d in %d calls, want 500 in 2", d.stored["0"], d.acks)
			}
		})
	})
}

// TestCloseWaitsFiveSecondsForTheDatabase closes a member while the database
// does not answer.
func TestCloseWaitsFiveSecondsForTheDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &desk{stored: map[string]eventstore.Position{}, err: eventstore.ErrUnavailable}
		g, m := begin(t, d)
		_, _ = m.Ack("0", 7, "1")
		time.Sleep(time.Minute)
		d.look(func() {
			if d.acks < 60 || d.acks > 70 {
				t.Errorf("it was tried %d times in a minute", d.acks)
			}
		})
		m.Close()
		time.Sleep(4 * time.Second)
		d.look(func() { d.err = nil })
		g.Wait()
		d.look(func() {
			if d.stored["0"] != 1 || !d.closed {
				t.Errorf("stored %d; left: %v", d.stored["0"], d.closed)
			}
		})
		began := time.Now()
		other := &desk{stored: map[string]eventstore.Position{}, err: eventstore.ErrUnavailable}
		g, m = begin(t, other)
		_, _ = m.Ack("0", 7, "1")
		m.Close()
		m.Close()
		g.Wait()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// TestSegmentsGetTheirEventsOnceAndInOrder stores events of three types while a member
// with a window of 20 events in memory reads and acknowledges at random, and segments
// come and go.
func TestSegmentsGetTheirEventsOnceAndInOrder(t *testing.T) {
	t.Parallel()
	const segments, total = 4, 800
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	d := &desk{stored: map[string]eventstore.Position{}}
	g := newGateway(t, d, store, 20)
	woken := make(chan struct{}, 1)
	m, failure := g.Join(t.Context(), consumer.Request{Sub: "g", Group: "post", Name: "m", Window: 7}, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	if failure != nil {
		t.Fatal(failure)
	}
	defer m.Close()

	want := map[string][]eventstore.Position{}
	versions := map[eventstore.StreamID]eventstore.Version{}
	head := eventstore.Position(0)
	storeOne := func() {
		s := eventstore.StreamID{Type: []string{"letter", "parcel", "bill"}[random.IntN(3)], ID: strconv.Itoa(random.IntN(9))}
		n := 1 + random.IntN(3)
		unit := eventstore.Unit{Stream: s, Expected: versions[s], Commands: []eventstore.Command{{Key: fmt.Sprint(head), At: time.Now()}}}
		for range n {
			unit.Commands[0].Events = append(unit.Commands[0].Events, eventstore.Event{Type: "sent", Form: 1, Data: []byte(`{}`)})
			head++
			versions[s]++
			if segment := strconv.Itoa(group.SegmentOf(s, segments)); s.Type != "bill" {
				want[segment] = append(want[segment], head)
			}
		}
		if _, err := store.Append(t.Context(), unit); err != nil {
			t.Fatal(err)
		}
		commits, err := store.Read(t.Context(), head-eventstore.Position(n), 1)
		if err != nil {
			t.Fatal(err)
		}
		g.Hub.Deliver(commits)
	}
	epochs, begins, got := map[string]uint64{}, map[string]eventstore.Position{}, map[string][]eventstore.Position{}
	hold := func(epoch uint64) {
		d.mu.Lock()
		defer d.mu.Unlock()
		list := slices.Clone(d.held)
		for i := range segments {
			name := strconv.Itoa(i)
			switch at := d.stored[name]; {
			case epoch == 1:
				list = append(list, group.Holding{Segment: name, Epoch: epoch, Segments: segments})
			case random.IntN(3) == 0: // a few are taken, and given again
				got[name] = slices.DeleteFunc(got[name], func(p eventstore.Position) bool { return p > at })
				list[i] = group.Holding{Segment: name, Epoch: epoch, Segments: segments, Position: at}
			}
		}
		d.held = list
		d.changed()
	}
	hold(1)
	isDone := func() bool {
		for name, all := range want {
			if len(got[name]) < len(all) {
				return false
			}
		}
		return head >= total
	}
	for step := 0; !isDone(); step++ {
		for range random.IntN(40) {
			if head < total {
				storeOne()
			}
		}
		r := &reader{room: random.IntN(30), events: map[string][]*history.Entry{}}
		more, failure := m.Next(r)
		if failure != nil {
			t.Fatal(failure)
		}
		for _, f := range r.frames {
			if f, ok := f.(frame.Assigned); ok {
				epochs[f.Segment] = f.Epoch
				cursor, _ := strconv.ParseUint(f.Cursor, 10, 64)
				begins[f.Segment] = eventstore.Position(cursor)
			}
		}
		for name, entries := range r.events {
			for _, e := range entries {
				got[name] = append(got[name], e.Position)
			}
		}
		for name, all := range got {
			if !slices.Equal(all, want[name][:min(len(all), len(want[name]))]) {
				t.Fatalf("segment %s got %v, want the first of %v", name, all, want[name])
			}
			// What was handled under an earlier epoch is not acknowledged under this one.
			if n := len(all); n > 0 && all[n-1] > begins[name] && random.IntN(3) > 0 {
				if isOver, failure := m.Ack(name, epochs[name], fmt.Sprint(all[n-1])); failure != nil && !isOver {
					t.Fatalf("segment %s: %v", name, failure)
				}
			}
		}
		if step%50 == 49 && step < 1000 {
			hold(uint64(step))
		}
		if !more && len(r.events) == 0 && head >= total {
			select {
			case <-woken:
			case <-time.After(20 * time.Second):
				t.Fatalf("it got %v of %v", got, want)
			}
		}
	}
}
