package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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

// begun waits until the first build exists, so that later events are behind its head.
func (n *marketNode) begun() {
	n.m.t.Helper()
	eventually(n.m.t, "a build", func() bool {
		list, err := n.store.Rows().Builds(n.m.t.Context())
		return err == nil && len(list) > 0
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

func processSpec(d *process.Definition) rows.Spec { return processor.SpecOfProcess(d) }
