package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// patience bounds a wait that ends immediately if the code is right.
const patience = time.Minute

// world is a log, the owner of all aggregates, and gateways in front of them.
type world struct {
	t      testing.TB
	store  *sqlite.Store
	router *owner
	feeds  *feeds
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, feeds: &feeds{}}
	store, err := sqlite.Open(context.Background(), sqlite.Config{Dir: t.TempDir(), Committed: w.feeds.publish})
	if err != nil {
		t.Fatal(err)
	}
	w.store = store
	w.router = newOwner(store)
	t.Cleanup(func() {
		w.router.stop()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// node is a gateway and its HTTP server.
type node struct {
	*gateway.Gateway
	w       *world
	url     string
	feed    *feed
	stop    func()        // ends Run
	stopped chan struct{} // closed when Run has returned
}

func (w *world) node(change ...func(*gateway.Config)) *node {
	w.t.Helper()
	cfg := gateway.Config{
		Node: "n1", Version: "v0.0.1", Catalog: catalog{}, Store: w.store, Router: w.router,
		Auth: gateway.Development(), Heartbeat: time.Hour, // so that no heartbeat comes between the frames of a test
	}
	for _, c := range change {
		c(&cfg)
	}
	g, err := gateway.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	n := &node{Gateway: g, w: w, stopped: make(chan struct{})}
	n.feed = w.feeds.subscribe(w.store, g)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(n.stopped)
		_ = g.Run(ctx)
	}()
	srv := httptest.NewServer(g.Handler())
	n.url, n.stop = srv.URL, cancel
	w.t.Cleanup(func() {
		cancel()
		<-n.stopped
		srv.Close()
		n.feed.stop()
	})
	return n
}

// catchUp waits until the gateway has every stored event.
func (n *node) catchUp() {
	n.w.t.Helper()
	head, err := n.w.store.Head(n.w.t.Context())
	if err != nil {
		n.w.t.Fatal(err)
	}
	waitFor(n.w.t, func() bool { return n.Stats().Head == head })
}

// feeds delivers the store's commits to gateways, as the cluster's feed does:
// dense, in order, from one goroutine each.
type feeds struct {
	mu  sync.Mutex
	all []*feed
}

type feed struct {
	mu     sync.Mutex
	cond   *sync.Cond
	queue  []eventstore.Commit
	held   bool
	closed bool
	done   sync.WaitGroup
}

func (f *feeds) publish(_ string, batch []eventstore.Commit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.all {
		one.mu.Lock()
		one.queue = append(one.queue, batch...)
		one.cond.Signal()
		one.mu.Unlock()
	}
}

func (f *feeds) subscribe(store eventstore.Store, g *gateway.Gateway) *feed {
	one := &feed{}
	one.cond = sync.NewCond(&one.mu)
	f.mu.Lock()
	defer f.mu.Unlock()
	head, err := store.Head(context.Background())
	if err != nil {
		panic(err)
	}
	g.Begin(head)
	f.all = append(f.all, one)
	one.done.Go(func() { one.run(g) })
	return one
}

func (f *feed) run(g *gateway.Gateway) {
	for {
		f.mu.Lock()
		for !f.closed && (len(f.queue) == 0 || f.held) {
			f.cond.Wait()
		}
		if f.closed {
			f.mu.Unlock()
			return
		}
		batch := f.queue
		f.queue = nil
		f.mu.Unlock()
		g.Deliver(batch)
	}
}

func (f *feed) hold(held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = held
	f.cond.Signal()
}

func (f *feed) stop() {
	f.mu.Lock()
	f.closed = true
	f.cond.Signal()
	f.mu.Unlock()
	f.done.Wait()
}

// catalog is a small application: counters for identified clients, auctions that
// every client may read, and an aggregate for each client, which only that client
// may read.
type catalog struct{}

func (catalog) HasType(typ string) bool {
	return typ == "counter" || typ == "auction" || typ == "client" || typ == "topic"
}

func (catalog) AllowsAnonymous() bool { return true }

func (catalog) IsSystem(_, _ string) bool { return false }

func (catalog) HasCommand(_, name string) bool {
	return name == "add" || name == "fail" || name == "wait" || name == "publish"
}

func (catalog) CheckCommand(_, _ string, data json.RawMessage) (string, error) {
	if strings.Contains(string(data), "ammount") {
		return "ammount", errors.New("data.ammount: unknown member")
	}
	return "", nil
}

func (catalog) MaySend(client string, _ map[string]any, _, _, _ string) bool { return client != "" }

func (catalog) MayRead(client string, _ map[string]any, typ, id string) bool {
	return typ == "auction" || (typ == "counter" || typ == "topic") && client != "" || typ == "client" && client == id && client != ""
}

func (catalog) MayReadAll(client string, _ map[string]any, typ string) bool {
	return typ == "auction" || typ == "counter" && client != ""
}

func (catalog) Show(_, _ string, form int, data json.RawMessage) (json.RawMessage, error) {
	if form > 1 {
		return nil, errors.New("a form from the future")
	}
	return data, nil
}

func (catalog) ShowsCaller(typ string) bool { return typ == "auction" }

// owner executes the commands of a stream one after another, and stores their
// events. The commands add and publish succeed, fail is rejected, and wait succeeds after
// release was closed.
type owner struct {
	store eventstore.Store

	mu      sync.Mutex
	lanes   map[eventstore.StreamID]chan func()
	order   []string // data of the commands, in the order of the calls
	release chan struct{}
	refused command.Code // the failure of every command, if set
	stopped bool
	running sync.WaitGroup
}

func newOwner(store eventstore.Store) *owner {
	return &owner{store: store, lanes: make(map[eventstore.StreamID]chan func()), release: make(chan struct{})}
}

func (o *owner) refuse(code command.Code) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused = code
}

func (o *owner) stop() {
	o.mu.Lock()
	o.stopped = true
	for _, lane := range o.lanes {
		close(lane)
	}
	o.mu.Unlock()
	o.running.Wait()
}

func (o *owner) Send(c command.Command, reply func(command.Outcome)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.order = append(o.order, string(c.Data))
	lane := o.lanes[c.Stream]
	if lane == nil && !o.stopped {
		lane = make(chan func(), 100_000)
		o.lanes[c.Stream] = lane
		o.running.Go(func() {
			for run := range lane {
				run()
			}
		})
	}
	if o.refused != "" {
		reply(command.Failed(&command.Failure{Code: o.refused, Message: "no", Retry: command.RetryNo}))
		return
	}
	if o.stopped {
		reply(command.Failed(&command.Failure{Code: command.CodeUnavailable, Retry: command.RetryLater, Message: "stopped"}))
		return
	}
	reply = byDeadline(c, reply)
	lane <- func() { reply(o.execute(c)) }
}

// byDeadline returns a reply that is called with timeout at the command's
// deadline, if it has one, as a router does.
func byDeadline(c command.Command, reply func(command.Outcome)) func(command.Outcome) {
	if c.Deadline.IsZero() {
		return reply
	}
	var once sync.Once
	late := time.AfterFunc(time.Until(c.Deadline), func() {
		once.Do(func() {
			reply(command.Failed(&command.Failure{Code: command.CodeTimeout, Retry: command.RetrySameKey, Message: "no answer in time"}))
		})
	})
	return func(o command.Outcome) {
		once.Do(func() {
			late.Stop()
			reply(o)
		})
	}
}

func (o *owner) execute(c command.Command) command.Outcome {
	ctx := context.Background()
	if c.Name == "wait" {
		<-o.release
	}
	head, err := o.store.StreamHead(ctx, c.Stream)
	if err != nil {
		return command.Failed(&command.Failure{Code: command.CodeInternal, Message: err.Error()})
	}
	if c.Expect != nil && *c.Expect != head.Version {
		return command.Failed(&command.Failure{Code: command.CodeConflict, Message: "the stream moved on", Retry: command.RetryNo, Version: &head.Version})
	}
	cmd := eventstore.Command{
		Key: c.Key, At: time.Now(), Meta: eventstore.Meta{Client: c.Client},
		Hash:   eventstore.Hash([]byte(fmt.Sprintf("%-16.16s", c.Client+c.Name+string(c.Data)))),
		Events: []eventstore.Event{{Type: "added", Form: 1, Data: c.Data}},
	}
	if c.Name == "publish" {
		cmd.Events[0].Type = "message"
	}
	if c.Name == "fail" {
		return command.Failed(&command.Failure{Code: command.CodeRejected, Reason: "zero", Message: "add something", Retry: command.RetryNo})
	}
	done, err := o.store.Append(ctx, eventstore.Unit{Stream: c.Stream, Expected: head.Version, Commands: []eventstore.Command{cmd}})
	var known *eventstore.KnownKeysError
	switch {
	case errors.As(err, &known) && known.Known[0].Reused:
		return command.Failed(&command.Failure{Code: command.CodeKeyReused, Message: "the key was used for something else", Retry: command.RetryNo})
	case errors.As(err, &known):
		p := known.Known[0].Place
		return command.Outcome{Result: command.Result{Key: c.Key, Version: p.Version, Position: p.Position, Replayed: true}}
	case err != nil:
		return command.Failed(&command.Failure{Code: command.CodeInternal, Message: err.Error(), Retry: command.RetrySameKey})
	}
	p := done.Commands[0]
	return command.Outcome{Result: command.Result{Key: c.Key, Version: p.Version, Position: p.Position, Data: json.RawMessage(`{"ok":true}`)}}
}

func (o *owner) Get(ctx context.Context, g command.Get) (command.State, error) {
	head, err := o.store.StreamHead(ctx, g.Stream)
	if err != nil {
		return command.State{}, err
	}
	return command.State{Version: head.Version, Position: head.Position, Data: fmt.Appendf(nil, `{"version":%d}`, head.Version)}, nil
}

// add commits events to a stream without a gateway.
func (w *world) add(stream string, n int) {
	w.t.Helper()
	s, err := eventstore.ParseStreamID(stream)
	if err != nil {
		w.t.Fatal(err)
	}
	var wait sync.WaitGroup
	for i := range n {
		wait.Add(1)
		w.router.Send(command.Command{Stream: s, Name: "add", Key: fmt.Sprint(stream, time.Now().UnixNano(), i), Client: "seed", Data: fmt.Appendf(nil, `{"by":%d}`, i)}, func(o command.Outcome) {
			if o.Failure != nil {
				w.t.Error(o.Failure)
			}
			wait.Done()
		})
	}
	wait.Wait()
}

// append stores one commit with the given events.
func (w *world) append(stream eventstore.StreamID, events ...eventstore.Event) {
	w.t.Helper()
	head, err := w.store.StreamHead(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	_, err = w.store.Append(w.t.Context(), eventstore.Unit{Stream: stream, Expected: head.Version, Commands: []eventstore.Command{
		{Key: fmt.Sprint(time.Now().UnixNano()), At: time.Now(), Events: events},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// large returns n events of a kilobyte.
func large(n int) []eventstore.Event {
	return slices.Repeat([]eventstore.Event{{Type: "added", Form: 1, Data: []byte(`{"text":"` + strings.Repeat("x", 1000) + `"}`)}}, n)
}

// fillASocket stores events of auction/1 until the socket of a client that does
// not read is full, and returns their number. A socket can be full for a moment
// while the kernel finds room on the client's side, so far more events follow
// than fit there.
func (n *node) fillASocket() (events int) {
	n.w.t.Helper()
	store := func(count int) {
		n.w.append(eventstore.StreamID{Type: "auction", ID: "1"}, large(count)...)
		n.catchUp()
		events += count
	}
	for n.Stats().Full == 0 {
		store(100)
	}
	for range 10 {
		store(100)
	}
	waitFor(n.w.t, func() bool { return n.Stats().Full > 0 })
	return events
}
