package feed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// history returns n commits of one to three events each, after a position.
func history(rng *rand.Rand, after eventstore.Position, n int) []eventstore.Commit {
	cs := make([]eventstore.Commit, n)
	for i := range cs {
		events := 1 + rng.IntN(3)
		after += eventstore.Position(events)
		cs[i] = commit(after, events)
	}
	return cs
}

func commit(last eventstore.Position, events int) eventstore.Commit {
	c := eventstore.Commit{
		Position: last,
		Stream:   eventstore.StreamID{Type: "counter", ID: "c" + strconv.FormatUint(uint64(last)%7, 10)},
		Version:  eventstore.Version(last), // at least as many as there are events
		Key:      fmt.Sprintf("key-%d", last),
		At:       time.UnixMicro(int64(last)).UTC(),
		Meta:     eventstore.Meta{Client: "ada"},
	}
	for i := range events {
		c.Events = append(c.Events, eventstore.Event{
			Type: "added", Form: 1, Data: json.RawMessage(fmt.Sprintf(`{"by":%d}`, i+1)),
		})
	}
	return c
}

// runOf returns the run of a frame with these commits.
func runOf(src *source, cs []eventstore.Commit) run {
	r := run{from: cs[0].First(), to: cs[len(cs)-1].Position, commits: cs, src: src}
	for i := range cs {
		r.events += len(cs[i].Events)
		r.bytes += weight(&cs[i])
	}
	return r
}

// memory is a log in memory whose faults a test chooses. Methods that a
// Subscriber does not use panic.
type memory struct {
	eventstore.Store

	mu        sync.Mutex
	log       []eventstore.Commit
	id        string
	err       error // answer to every question
	accepted  bool  // Check accepts a log that went back
	witnessed eventstore.Position
	reads     int
	heads     int
}

func newMemory(cs []eventstore.Commit) *memory { return &memory{log: cs, id: logOne} }

// Two incarnations of a log.
const (
	logOne = "0190b5c0-aaaa-7000-8000-000000000001"
	logTwo = "0190b5c0-aaaa-7000-8000-000000000002"
)

func (m *memory) LogID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.id
}

// asked returns how often the log was asked for its head, and how often it was
// read.
func (m *memory) asked() (heads, reads int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heads, m.reads
}

func (m *memory) end() eventstore.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head()
}

func (m *memory) Head(context.Context) (eventstore.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heads++
	return m.head(), m.err
}

func (m *memory) head() eventstore.Position {
	if len(m.log) == 0 {
		return 0
	}
	return m.log[len(m.log)-1].Position
}

func (m *memory) Read(_ context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.err != nil {
		return nil, m.err
	}
	i, _ := slices.BinarySearchFunc(m.log, after+1, func(c eventstore.Commit, p eventstore.Position) int {
		return cmp.Compare(c.Position, p)
	})
	return slices.Clone(m.log[i:min(i+limit, len(m.log))]), nil
}

func (m *memory) Check(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.head() < m.witnessed && !m.accepted {
		return eventstore.ErrWentBack
	}
	return m.err
}

func (m *memory) Witness(_ string, c *eventstore.Commit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.witnessed = max(m.witnessed, c.Position)
}

func (m *memory) append(cs ...eventstore.Commit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, cs...)
}

func (m *memory) seen() eventstore.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.witnessed
}

func (m *memory) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// accept makes Check accept a log that went back.
func (m *memory) accept() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.accepted, m.id = true, logTwo
}

// cutTo makes the log go back.
func (m *memory) cutTo(p eventstore.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = slices.DeleteFunc(slices.Clone(m.log), func(c eventstore.Commit) bool { return c.Position > p })
}

// witness checks that a Subscriber delivers events dense, in order and once.
type witness struct {
	mu      sync.Mutex
	begun   bool
	w       eventstore.Position
	commits []eventstore.Commit
	faults  []error
	changed chan struct{}
}

func newWitness() *witness { return &witness{changed: make(chan struct{})} }

func (d *witness) begin(w eventstore.Position) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begun, d.w = true, w
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *witness) deliver(cs []eventstore.Commit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.begun {
		d.faults = append(d.faults, errors.New("Deliver was called before Begin"))
	}
	for i := range cs {
		if cs[i].First() != d.w+1 {
			d.faults = append(d.faults, fmt.Errorf("after %d, the commit %d to %d was delivered", d.w, cs[i].First(), cs[i].Position))
		}
		d.w = cs[i].Position
	}
	d.commits = append(d.commits, cs...)
	close(d.changed)
	d.changed = make(chan struct{})
}

// waitMost bounds each wait for an event that should happen soon.
const waitMost = 2 * time.Minute

// wait waits until everything up to p was delivered.
func (d *witness) wait(t testing.TB, p eventstore.Position) {
	t.Helper()
	late := time.After(waitMost)
	for {
		d.mu.Lock()
		w, changed := d.w, d.changed
		d.mu.Unlock()
		if w >= p {
			break
		}
		select {
		case <-changed:
		case <-late:
			d.check(t)
			t.Fatalf("after %v everything up to %d is delivered, not up to %d", waitMost, w, p)
		}
	}
	d.check(t)
}

func (d *witness) check(t testing.TB) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, err := range d.faults {
		t.Error(err)
	}
	d.faults = nil
}

func (d *witness) watermark() eventstore.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.w
}

// start runs a subscriber until the test ends.
func start(t testing.TB, cfg SubscriberConfig) *Subscriber {
	t.Helper()
	if cfg.Self == "" {
		cfg.Self = "gateway"
	}
	s, err := NewSubscriber(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, eventstore.ErrDamaged) {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// waitStarted waits until a subscriber has started.
func waitStarted(t testing.TB, s *Subscriber) {
	t.Helper()
	select {
	case <-s.Started():
	case <-time.After(waitMost):
		t.Fatalf("the subscriber has not started after %v: %v", waitMost, s.Err())
	}
}

// views is a cluster whose members a test chooses.
type views struct {
	mu   sync.Mutex
	view *cluster.View
	subs map[chan *cluster.View]struct{}
}

func (v *views) set(members ...cluster.Member) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.view = &cluster.View{Members: members}
	for c := range v.subs {
		select {
		case <-c:
		default:
		}
		c <- v.view
	}
}

func (v *views) watch(ctx context.Context) <-chan *cluster.View {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := make(chan *cluster.View, 1)
	if v.subs == nil {
		v.subs = make(map[chan *cluster.View]struct{})
	}
	v.subs[c] = struct{}{}
	if v.view != nil {
		c <- v.view
	}
	context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.subs, c)
		close(c)
	})
	return c
}
