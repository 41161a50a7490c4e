package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

// A shop has orders, and a ledger notes what process managers tell it.
type (
	outlet struct{}
	ledger struct{}

	placeOrder struct {
		Target string    `json:"target"`
		Text   string    `json:"text"`
		Due    time.Time `json:"due,omitzero"`
	}
	orderPlaced placeOrder

	note struct {
		Text string `json:"text"`
		From string `json:"from"` // the cause
	}
	ledgerNoted note

	relayed struct {
		Orders   int       `json:"orders"`
		Due      time.Time `json:"due,omitzero"`
		Refusals int       `json:"refusals"`
	}
)

var errRude = aggregate.Reject("rude", "the text is rude")

func (c placeOrder) Decide(aggregate.Call, outlet) (aggregate.Decision[outlet], error) {
	return aggregate.Emit(orderPlaced(c))
}

func (c note) Decide(aggregate.Call, ledger) (aggregate.Decision[ledger], error) {
	switch c.Text {
	case "rude":
		return nil, errRude.Because("no")
	case "broken":
		return nil, errors.New("boom")
	}
	return aggregate.Emit(ledgerNoted(c))
}

func (orderPlaced) Apply(*outlet) {}
func (ledgerNoted) Apply(*ledger) {}

// relaying returns a program whose process manager notes each order in a ledger, and
// the changes to that process manager.
func relaying(t *testing.T, change func(*process.Type[relayed]), more ...process.Declaration) *aggregate.Catalog {
	t.Helper()
	c := new(aggregate.Catalog)
	access := aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone}
	aggregate.Define(c, aggregate.Type[outlet]{
		Name: "shop", Access: access,
		Commands: aggregate.Commands[outlet]{"place": placeOrder{}}, Events: aggregate.Events[outlet]{"placed": orderPlaced{}},
	})
	aggregate.Define(c, aggregate.Type[ledger]{
		Name: "ledger", Access: access, Rejections: aggregate.Rejections{errRude},
		Commands: aggregate.Commands[ledger]{"note": note{}}, Events: aggregate.Events[ledger]{"noted": ledgerNoted{}},
	})
	p := process.Type[relayed]{
		Name: "relay", Segments: 2,
		On: process.Handlers[relayed]{process.On(func(at process.At, e orderPlaced, s *relayed) process.Commands {
			s.Orders++
			s.Due = e.Due
			return process.Commands{process.Send("ledger", e.Target, note{Text: e.Text, From: fmt.Sprint(at.ID, " ", at.Position)})}
		})},
	}
	if change != nil {
		change(&p)
	}
	for _, d := range append(more, p) {
		process.Define(c, d)
	}
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

type shopStore interface {
	eventstore.Store
	Rows() rows.Store
}

// A market is a log that several nodes work on.
type market struct {
	t     *testing.T
	url   string // of PostgreSQL; "" for the embedded store
	dir   string
	mu    sync.Mutex
	nodes []*marketNode
}

// A marketNode executes commands and runs the process managers of its program.
type marketNode struct {
	m       *market
	store   shopStore
	host    *Host
	program *Projections
	refuse  func(command.Command) *command.Failure
	owns    func(segment int) bool
	stop    func()
}

func eachMarket(t *testing.T, test func(t *testing.T, m *market)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, &market{t: t, url: postgrestest.URL(t)})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, &market{t: t, dir: t.TempDir()})
	})
}

func (m *market) committed(_ string, batch []eventstore.Commit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		n.host.Observe(batch)
		n.program.Observe(batch)
	}
}

func (m *market) open() shopStore {
	m.t.Helper()
	if m.url == "" {
		s, err := sqlite.Open(m.t.Context(), sqlite.Config{Dir: m.dir, Committed: m.committed})
		if err != nil {
			m.t.Fatal(err)
		}
		return s
	}
	s, err := postgres.Open(m.t.Context(), postgres.Config{URL: m.url, Committed: m.committed})
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// start runs a node with a program. change may change the node before it runs.
func (m *market) start(c *aggregate.Catalog, change ...func(*marketNode)) *marketNode {
	m.t.Helper()
	n := &marketNode{m: m, store: m.open(), owns: func(int) bool { return true }}
	for _, f := range change {
		f(n)
	}
	host, err := New(Config{Catalog: c, Store: n.store})
	if err != nil {
		m.t.Fatal(err)
	}
	n.host = host
	n.program = NewProjections(ProjectionsConfig{
		Catalog: c, Store: n.store, Rows: n.store.Rows(), Owns: func(_ string, segment int) bool { return n.owns(segment) },
		Send: n.send, Logger: slog.New(slog.DiscardHandler),
	})
	m.mu.Lock()
	m.nodes = append(m.nodes, n)
	m.mu.Unlock()
	head, err := n.store.Head(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	n.program.Begin(head)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{host.Run, n.program.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				m.t.Error(err)
			}
		})
	}
	n.stop = sync.OnceFunc(func() {
		m.mu.Lock()
		m.nodes = slices.DeleteFunc(m.nodes, func(o *marketNode) bool { return o == n })
		m.mu.Unlock()
		cancel()
		running.Wait()
		n.store.Close()
	})
	m.t.Cleanup(n.stop)
	return n
}

// send sends a command to the node that owns its stream.
func (n *marketNode) send(ctx context.Context, c command.Command) command.Outcome {
	if n.refuse != nil {
		if f := n.refuse(c); f != nil {
			return command.Failed(f)
		}
	}
	c.System, c.ClientKey = true, true
	n.m.mu.Lock()
	nodes := slices.Clone(n.m.nodes)
	n.m.mu.Unlock()
	if len(nodes) == 0 {
		return command.Failed(command.Unavailable("no node runs"))
	}
	h := fnv.New32a()
	h.Write([]byte(c.Stream.String()))
	out := make(chan command.Outcome, 1)
	nodes[int(h.Sum32())%len(nodes)].host.Submit(c, func(o command.Outcome) { out <- o })
	select {
	case o := <-out:
		return o
	case <-ctx.Done():
		return command.Failed(command.Timeout(command.RetrySameKey, "stopped"))
	}
}

// place places an order as a client does, until it is stored.
func (n *marketNode) place(shop, key string, o placeOrder) eventstore.Position {
	n.m.t.Helper()
	for {
		out := make(chan command.Outcome, 1)
		c := cmd(shop, key, "place", o)
		c.Stream.Type = "shop"
		n.host.Submit(c, func(o command.Outcome) { out <- o })
		o := <-out
		if o.Failure == nil {
			return o.Result.Position
		}
		if o.Failure.Retry == command.RetryNo {
			n.m.t.Error(o.Failure)
			return 0
		}
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// notes returns what a ledger has noted: text and cause.
func (n *marketNode) notes(ledger string) (list []ledgerNoted) {
	n.m.t.Helper()
	for {
		list = nil
		commits, err := n.store.ReadStream(n.m.t.Context(), eventstore.StreamID{Type: "ledger", ID: ledger}, 0, 10_000)
		if errors.Is(err, eventstore.ErrUnavailable) {
			continue
		}
		if err != nil {
			n.m.t.Fatal(err)
		}
		for _, c := range commits {
			for _, e := range c.Events {
				var of ledgerNoted
				if err := json.Unmarshal(e.Data, &of); err != nil {
					n.m.t.Fatal(err)
				}
				list = append(list, of)
			}
		}
		return list
	}
}

// drained waits until the process manager has folded the log and its outbox is empty.
func (n *marketNode) drained() {
	n.m.t.Helper()
	eventually(n.m.t, "an empty outbox", func() bool {
		head, err := n.store.Head(n.m.t.Context())
		if err != nil {
			return false
		}
		list, err := n.store.Rows().Overviews(n.m.t.Context())
		if err != nil {
			return false
		}
		for _, b := range list {
			if !b.Checkpoints[0].Term.Current() {
				continue
			}
			for i, c := range b.Checkpoints {
				if c.Position < head || b.Blocked[i] > 0 {
					return false
				}
			}
		}
		senders, err := n.store.Rows().Senders(n.m.t.Context(), "relay")
		if err != nil || len(senders) > 0 {
			return false
		}
		now, err := n.store.Head(n.m.t.Context())
		return err == nil && now == head
	})
}

// wantNotes compares the notes of a ledger with the causes of each shop, in order.
func (n *marketNode) wantNotes(ledger string, want map[string][]eventstore.Position) {
	n.m.t.Helper()
	got := map[string][]eventstore.Position{}
	for _, e := range n.notes(ledger) {
		shop, at, _ := strings.Cut(e.From, " ")
		p, err := strconv.ParseUint(at, 10, 64)
		if err != nil {
			n.m.t.Fatal(err)
		}
		got[shop] = append(got[shop], eventstore.Position(p))
	}
	for shop, positions := range want {
		if !slices.Equal(got[shop], positions) {
			n.m.t.Errorf("ledger %s has notes of shop %s for %v, want %v", ledger, shop, got[shop], positions)
		}
		delete(got, shop)
	}
	if len(got) > 0 {
		n.m.t.Errorf("ledger %s also has notes for %v", ledger, got)
	}
}

func TestProcessManagerSendsOneCommandForEachCause(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		n := m.start(relaying(t, nil))
		n.begun()
		want := map[string][]eventstore.Position{}
		for i := range 20 {
			shop := fmt.Sprint("s", i%3)
			want[shop] = append(want[shop], n.place(shop, fmt.Sprint("k", i), placeOrder{Target: "l", Text: "hello"}))
		}
		n.drained()
		n.wantNotes("l", want)
	})
}

// begun waits until the first build exists, so that later events are behind its head.
func (n *marketNode) begun() {
	n.m.t.Helper()
	eventually(n.m.t, "a build", func() bool {
		list, err := n.store.Rows().Builds(n.m.t.Context())
		return err == nil && len(list) > 0
	})
}

// TestKilledBackendsLoseAndRepeatNoCommand lets two nodes fold and send for the same
// segments, while connections to the database are ended.
func TestKilledBackendsLoseAndRepeatNoCommand(t *testing.T) {
	t.Parallel()
	m := &market{t: t, url: postgrestest.URL(t)}
	program := relaying(t, nil)
	n := m.start(program)
	m.start(program)
	n.begun()
	stop := killBackends(t, m.url)
	const shops, orders = 5, 60
	var all sync.WaitGroup
	var mu sync.Mutex
	want := [3]map[string][]eventstore.Position{{}, {}, {}}
	for s := range shops {
		all.Go(func() {
			for i := range orders {
				shop, target := fmt.Sprint("s", s), rand.IntN(3)
				p := n.place(shop, fmt.Sprint(shop, "-", i), placeOrder{Target: fmt.Sprint("l", target), Text: "hello"})
				mu.Lock()
				want[target][shop] = append(want[target][shop], p)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("%d backends were ended", stop())
	n.drained()
	for target, of := range want {
		n.wantNotes(fmt.Sprint("l", target), of)
	}
}

// killBackends ends a random backend every 20 ms until stop is called, which returns
// how many it ended.
func killBackends(t *testing.T, url string) (stop func() int) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		n := 0
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				_ = c.Close(context.Background())
				done <- n
				return
			case <-tick.C:
			}
			var killed int
			if err := c.QueryRow(context.WithoutCancel(ctx), `with one as (
				select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() order by random() limit 1)
				select count(pg_terminate_backend(pid)) from one`).Scan(&killed); err != nil {
				t.Error(err)
			}
			n += killed
		}
	}()
	return func() int {
		cancel()
		return <-done
	}
}

func TestFirstBuildSendsNothingForThePast(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		plain := m.start(relaying(t, nil), func(n *marketNode) { n.owns = func(int) bool { return false } })
		past := plain.place("s", "past", placeOrder{Target: "l", Text: "past"})
		plain.stop()
		dropBuilds(t, m)
		n := m.start(relaying(t, nil))
		n.begun()
		later := n.place("s", "later", placeOrder{Target: "l", Text: "later"})
		n.drained()
		n.wantNotes("l", map[string][]eventstore.Position{"s": {later}})
		if row := n.state("s"); row != `{"orders":2,"refusals":0}` || later <= past {
			t.Errorf("the state is %s: it lacks the past", row)
		}
		n.stop()
		all := m.start(relaying(t, func(p *process.Type[relayed]) { p.Revision, p.FromTheBeginning = 1, true }))
		eventually(t, "a handover", all.sends)
		all.drained()
		all.wantNotes("l", map[string][]eventstore.Position{"s": {later}})
	})
}

// dropBuilds removes every build, as if no process manager had ever run.
func dropBuilds(t *testing.T, m *market) {
	t.Helper()
	s := m.open()
	defer s.Close()
	list, err := s.Rows().Builds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list {
		if err := s.Rows().Drop(t.Context(), b.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// own returns the newest build of the node's program.
func (n *marketNode) own() (found rows.Overview) {
	n.m.t.Helper()
	list, err := n.store.Rows().Overviews(n.m.t.Context())
	if err != nil {
		n.m.t.Fatal(err)
	}
	for _, b := range list {
		if b.Fingerprint == n.fingerprint() {
			found = b
		}
	}
	return found
}

func (n *marketNode) fingerprint() string { return Fingerprints(n.host.catalog)["relay"] }

// sends reports whether a build of the node's program sends.
func (n *marketNode) sends() bool {
	b := n.own()
	return len(b.Checkpoints) > 0 && b.Checkpoints[0].Term.Current()
}

// state returns the state of a sequence in the node's own build.
func (n *marketNode) state(sequence string) string {
	n.m.t.Helper()
	for _, d := range process.All(n.host.catalog) {
		if d.Name() != "relay" {
			continue
		}
		table, err := n.store.Rows().Open(n.m.t.Context(), processSpec(d), n.own().ID)
		if err != nil {
			n.m.t.Fatal(err)
		}
		list, err := table.Load(n.m.t.Context(), []string{sequence})
		if err != nil {
			n.m.t.Fatal(err)
		}
		if len(list) > 0 {
			return string(list[0].Data)
		}
	}
	return ""
}

// TestNewBuildTakesOverWithoutLossOrRepetition changes the program under load, to one
// that sends to other targets and has more segments, and back.
func TestNewBuildTakesOverWithoutLossOrRepetition(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		old := m.start(relaying(t, nil))
		old.begun()
		var stopped atomic.Bool
		var load sync.WaitGroup
		placed := make([]map[eventstore.Position]bool, 4)
		for s := range placed {
			placed[s] = map[eventstore.Position]bool{}
			load.Go(func() {
				for i := 0; !stopped.Load(); i++ {
					shop := fmt.Sprint("s", s)
					placed[s][old.place(shop, fmt.Sprint(shop, "-", i), placeOrder{Target: "old", Text: "hello"})] = true
				}
			})
		}
		eventually(t, "notes of the old build", func() bool { return len(old.notes("old")) > 10 })
		next := m.start(relaying(t, func(p *process.Type[relayed]) {
			p.Segments = 3
			p.On = process.Handlers[relayed]{process.On(func(at process.At, e orderPlaced, s *relayed) process.Commands {
				s.Orders++
				return process.Commands{process.Send("ledger", "new", note{Text: e.Text, From: fmt.Sprint(at.ID, " ", at.Position)})}
			})}
		}))
		eventually(t, "a handover", next.sends)
		eventually(t, "notes of the new build", func() bool { return len(next.notes("new")) > 10 })
		stopped.Store(true)
		load.Wait()
		old.drained()
		seen := map[eventstore.Position]bool{}
		for _, ledger := range []string{"old", "new"} {
			for _, e := range old.notes(ledger) {
				var shop string
				var p eventstore.Position
				if _, err := fmt.Sscan(e.From, &shop, &p); err != nil {
					t.Fatal(err)
				}
				if seen[p] {
					t.Errorf("the cause at %d has two notes", p)
				}
				seen[p] = true
			}
		}
		for s, of := range placed {
			for p := range of {
				if !seen[p] {
					t.Errorf("the cause at %d of shop %d has no note", p, s)
				}
			}
		}
		t.Logf("%d notes of the old build, %d of the new", len(old.notes("old")), len(old.notes("new")))
	})
}

func TestReturnToOldCodeSendsFromWhereTheNewStopped(t *testing.T) {
	t.Parallel()
	m := &market{t: t, url: postgrestest.URL(t)}
	first := relaying(t, nil)
	old := m.start(first)
	old.begun()
	a := old.place("s", "a", placeOrder{Target: "l", Text: "a"})
	old.drained()
	next := m.start(relaying(t, func(p *process.Type[relayed]) { p.Revision = 1 }))
	eventually(t, "a handover", next.sends)
	old.stop()
	b := next.place("s", "b", placeOrder{Target: "l", Text: "b"})
	next.drained()
	next.stop()
	again := m.start(first)
	c := again.place("s", "c", placeOrder{Target: "l", Text: "c"}) // makes the other build stand still behind the head
	eventually(t, "a handover back", again.sends)
	again.drained()
	again.wantNotes("l", map[string][]eventstore.Position{"s": {a, b, c}})
}

func TestRefusedCommandReachesRejectedOnce(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		program := relaying(t, func(p *process.Type[relayed]) {
			p.Rejected = func(_ process.At, r process.Rejection, s *relayed) process.Commands {
				s.Refusals++
				return process.Commands{process.Send("ledger", "l", note{Text: "refused", From: fmt.Sprintf("%s/%s %s %s %d", r.Type, r.ID, r.Code, r.Reason, r.Position)})}
			}
		})
		n := m.start(program)
		m.start(program)
		n.begun()
		p := n.place("s", "a", placeOrder{Target: "l", Text: "rude"})
		n.drained()
		list := n.notes("l")
		if len(list) != 1 || list[0].From != fmt.Sprintf("ledger/l rejected rude %d", p) {
			t.Errorf("the ledger has %v", list)
		}
		if got := n.state("s"); got != `{"orders":1,"refusals":1}` {
			t.Errorf("the state is %s", got)
		}
	})
}

func TestLoopOfCausesEndsAtItsDepth(t *testing.T) {
	t.Parallel()
	m := &market{t: t, dir: t.TempDir()}
	n := m.start(relaying(t, func(p *process.Type[relayed]) {
		p.MaxDepth = 10
		p.On = process.Handlers[relayed]{process.On(func(at process.At, e orderPlaced, s *relayed) process.Commands {
			s.Orders++
			return process.Commands{process.Send("shop", at.ID, placeOrder{Text: "again"})}
		})}
	}))
	n.begun()
	n.place("s", "a", placeOrder{Text: "first"})
	eventually(t, "a blocked sequence", func() bool { b := n.own(); return b.Blocked[0]+b.Blocked[1] == 1 })
	if head, err := n.store.Head(t.Context()); err != nil || head != 11 {
		t.Errorf("the log has %d events, %v; want the first and 10 that followed", head, err)
	}
	blocked, err := NewOperations(OperationsConfig{Catalog: n.host.catalog, Store: n.store, Rows: n.store.Rows()}).Blocked(t.Context())
	if err != nil || len(blocked) != 1 || blocked[0].Key != "s" || !strings.Contains(blocked[0].Error, "chain of 10 causes") {
		t.Errorf("blocked: %+v, %v", blocked, err)
	}
}

func TestSequenceIsWokenWhenItsTimeHasCome(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		program := relaying(t, func(p *process.Type[relayed]) {
			p.Wake = func(s relayed) time.Time { return s.Due }
			p.Woken = func(at process.At, s *relayed) process.Commands {
				due := s.Due
				s.Due = time.Time{}
				return process.Commands{process.Send("ledger", "woken", note{Text: due.UTC().Format(time.RFC3339), From: at.ID})}
			}
		})
		n := m.start(program)
		m.start(program)
		n.begun()
		now := time.Now()
		n.place("past", "a", placeOrder{Target: "l", Text: "a", Due: now.Add(-time.Hour)})
		n.place("soon", "b", placeOrder{Target: "l", Text: "b", Due: now.Add(time.Second)})
		n.place("never", "c", placeOrder{Target: "l", Text: "c", Due: now.Add(time.Hour)})
		n.place("moved", "d", placeOrder{Target: "l", Text: "d", Due: now.Add(time.Second)})
		n.place("moved", "e", placeOrder{Target: "l", Text: "e", Due: now.Add(time.Hour)})
		eventually(t, "two notes", func() bool { return len(n.notes("woken")) >= 2 })
		n.drained()
		var woken []string
		for _, e := range n.notes("woken") {
			woken = append(woken, e.From)
		}
		if !slices.Equal(woken, []string{"past", "soon"}) {
			t.Errorf("woken: %v", woken)
		}
		if commits, err := n.store.ReadStream(t.Context(), eventstore.StreamID{Type: "relay", ID: "past"}, 0, 10); err != nil || len(commits) != 1 || commits[0].Meta.Client != "~relay" {
			t.Errorf("the process manager's stream has %+v, %v", commits, err)
		}
	})
}

// TestScheduleRunsEachPlannedTimeOnce lets two nodes record the planned times of one
// schedule.
func TestScheduleRunsEachPlannedTimeOnce(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		program := relaying(t, nil, process.Every{
			Name: "ticker", Interval: time.Second, Missed: process.Each,
			Run: func(at process.At, planned time.Time) process.Commands {
				return process.Commands{process.Send("ledger", "ticks", note{Text: planned.Format(time.RFC3339), From: at.ID})}
			},
		})
		n := m.start(program)
		m.start(program)
		eventually(t, "three runs", func() bool { return len(n.notes("ticks")) >= 3 })
		var last time.Time
		for _, e := range n.notes("ticks") {
			at, err := time.Parse(time.RFC3339, e.Text)
			if err != nil || !last.IsZero() && at.Sub(last) != time.Second {
				t.Errorf("a run at %s follows one at %s, %v", e.Text, last, err)
			}
			last = at
		}
		commits, err := n.store.ReadStream(t.Context(), eventstore.StreamID{Type: "ticker", ID: process.TickSequence}, 0, 1)
		if err != nil || len(commits) != 1 || commits[0].At.Before(last.Add(-10*time.Second)) || commits[0].Meta.Client != "~ticker" {
			t.Errorf("the schedule's stream begins with %+v, %v", commits, err)
		}
	})
}

func processSpec(d *process.Definition) rows.Spec { return processor.SpecOfProcess(d) }
