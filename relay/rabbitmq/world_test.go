package rabbitmq

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
)

// shared is the broker of the tests that do not harm it.
var shared *rabbitmqtest.Server

func TestMain(m *testing.M) {
	var err error
	if shared, err = rabbitmqtest.Start(context.Background(), rabbitmqtest.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	postgrestest.Main(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		_ = shared.Close() // the exit code matters more
		os.Exit(code)
	}))
}

// ownServer starts a broker for one test.
func ownServer(t *testing.T) *rabbitmqtest.Server {
	t.Helper()
	s, err := rabbitmqtest.Start(t.Context(), rabbitmqtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A world is an embedded log with a relay to an exchange, and a connection of the test to
// the broker.
type world struct {
	*testing.T
	store    *sqlite.Store
	ops      engine.RelayOperations
	server   *rabbitmqtest.Server
	exchange string
	queue    string
	versions map[string]eventstore.Version
	keys     int

	mu    sync.Mutex
	nodes []*engine.Projections
}

func newWorld(t *testing.T, server *rabbitmqtest.Server) *world {
	t.Helper()
	w := &world{T: t, server: server, exchange: "events-" + t.Name(), queue: "all-" + t.Name(), versions: map[string]eventstore.Version{}}
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: func(_ string, batch []eventstore.Commit) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, n := range w.nodes {
			n.Observe(batch)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w.store, w.ops = store, engine.RelayOperations{Store: store, Rows: store.Rows()}
	return w
}

// admin calls do with a channel of its own.
func (w *world) admin(do func(c *amqp.Channel) error) {
	w.Helper()
	conn, err := amqp.Dial(w.server.URL())
	w.must(err)
	defer conn.Close()
	c, err := conn.Channel()
	w.must(err)
	w.must(do(c))
}

// declare declares the exchange, and a durable queue with bindings.
func (w *world) declare(queueArgs amqp.Table, keys ...string) {
	w.Helper()
	w.admin(func(c *amqp.Channel) error {
		if err := c.ExchangeDeclare(w.exchange, "topic", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := c.QueueDeclare(w.queue, true, false, false, false, queueArgs); err != nil {
			return err
		}
		return w.bind(c, keys...)
	})
}

func (w *world) bind(c *amqp.Channel, keys ...string) error {
	for _, key := range keys {
		if err := c.QueueBind(w.queue, key, w.exchange, false, nil); err != nil {
			return err
		}
	}
	return nil
}

// commit appends one commit with events of a stream.
func (w *world) commit(stream string, events ...string) {
	w.Helper()
	id, err := eventstore.ParseStreamID(stream)
	w.must(err)
	w.keys++
	c := eventstore.Command{
		Key: fmt.Sprint("k", w.keys), At: time.Unix(1000, 5000), Meta: eventstore.Meta{Client: "bob", Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	for _, e := range events {
		c.Events = append(c.Events, eventstore.Event{Type: e, Data: []byte(`{"n":1}`)})
	}
	_, err = w.store.Append(w.Context(), eventstore.Unit{Stream: id, Expected: w.versions[stream], Commands: []eventstore.Command{c}})
	w.must(err)
	w.versions[stream] += eventstore.Version(len(events))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// relay returns the relay to the exchange, by an address of the broker.
func (w *world) relay(address string) relay.Relay {
	w.Helper()
	where, target, err := New(Config{URL: &url.URL{Scheme: "amqp", Host: address, Path: "/"}, Exchange: w.exchange})
	w.must(err)
	return relay.Relay{Name: "orders", Where: where, New: target}
}

// run starts a node with the relay. It ends with the test, or with stop.
func (w *world) run(r relay.Relay) (p *engine.Projections, stop func()) {
	w.Helper()
	head, err := w.store.Head(w.Context())
	w.must(err)
	p = engine.NewProjections(engine.ProjectionsConfig{
		Catalog: new(aggregate.Catalog), Store: w.store, Rows: w.store.Rows(), Relays: []relay.Relay{r},
		Owns: func(string, int) bool { return true }, Logger: slog.New(slog.DiscardHandler),
	})
	p.Begin(head)
	w.mu.Lock()
	w.nodes = append(w.nodes, p)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	return p, stop
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			w.Fatalf("it never happens that %s", what)
		}
	}
}

func (w *world) state() engine.RelayState {
	w.Helper()
	list, err := w.ops.List(w.Context())
	w.must(err)
	if len(list) == 0 {
		return engine.RelayState{}
	}
	return list[0]
}

// caughtUp waits until the broker has confirmed the whole log.
func (w *world) caughtUp() {
	w.Helper()
	head, err := w.store.Head(w.Context())
	w.must(err)
	w.eventually("the relay has caught up", func() bool { return w.state().Position == head })
}

// take takes all messages out of the queue.
func (w *world) take() (list []amqp.Delivery) {
	w.Helper()
	w.admin(func(c *amqp.Channel) error {
		for {
			d, ok, err := c.Get(w.queue, true)
			if err != nil || !ok {
				return err
			}
			list = append(list, d)
		}
	})
	return list
}

func position(d amqp.Delivery) int64 { return d.Headers["position"].(int64) }
func prev(d amqp.Delivery) int64     { return d.Headers["prev"].(int64) }

// A consumer keeps one integer: the rule of docs/relays.md.
type consumer struct {
	highest int64
	took    []int64
}

// take takes a message if its position is above the kept one and its prev is not.
func (c *consumer) take(d amqp.Delivery) {
	if position(d) > c.highest && prev(d) <= c.highest {
		c.highest = position(d)
		c.took = append(c.took, c.highest)
	}
}

// wantEach checks that a consumer takes each position from 1 to last once and in order,
// and that messages of one run follow each other.
func (w *world) wantEach(list []amqp.Delivery, last int64) {
	w.Helper()
	var c consumer
	runs := 0
	for i, d := range list {
		if prev(d) == 0 {
			runs++
		} else if i == 0 || prev(d) != position(list[i-1]) {
			w.Errorf("message %d at position %d has the prev %d, which is not that of the message before", i, position(d), prev(d))
		}
		c.take(d)
	}
	for i, p := range c.took {
		if p != int64(i)+1 {
			w.Fatalf("the consumer took %v", c.took)
		}
	}
	if c.highest != last {
		w.Errorf("the consumer took %d events of %d", c.highest, last)
	}
	w.Logf("%d messages in %d runs for %d events", len(list), runs, last)
}

// A proxy forwards connections to the broker until it is cut: then it keeps them open and
// forwards nothing.
type proxy struct {
	listener net.Listener
	mu       sync.Mutex
	isCut    bool
	conns    []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l}
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.conns {
			c.Close()
		}
	})
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, from, there)
			p.mu.Unlock()
			go p.forward(there, from)
			go p.forward(from, there)
		}
	}()
	return p
}

func (p *proxy) forward(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		cut := p.isCut
		p.mu.Unlock()
		switch {
		case err != nil && !cut:
			to.Close()
			return
		case err == io.EOF || err != nil:
			return
		case !cut:
			_, _ = to.Write(buffer[:n])
		}
	}
}

// cut drops whatever arrives from now on, until heal, which also ends the connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.isCut = true
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns, p.isCut = nil, false
}
