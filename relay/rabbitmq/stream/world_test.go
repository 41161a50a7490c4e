package stream

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
	if shared, err = rabbitmqtest.Start(context.Background(), rabbitmqtest.Options{Streams: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	postgrestest.Main(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		_ = shared.Close() // the exit code matters more
		os.Exit(code)
	}))
}

// ownServer starts a broker for one test.
func ownServer(t *testing.T, settings ...string) *rabbitmqtest.Server {
	t.Helper()
	s, err := rabbitmqtest.Start(t.Context(), rabbitmqtest.Options{Streams: true, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A world is an embedded log with a relay to a stream, whose messages the test reads with
// AMQP 0-9-1.
type world struct {
	*testing.T
	store    *sqlite.Store
	ops      engine.RelayOperations
	server   *rabbitmqtest.Server
	versions map[string]eventstore.Version
	keys     int

	mu    sync.Mutex
	nodes []*engine.Projections
}

func newWorld(t *testing.T, server *rabbitmqtest.Server) *world {
	t.Helper()
	w := &world{T: t, server: server, versions: map[string]eventstore.Version{}}
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: func(_ string, batch []eventstore.Commit) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, n := range w.nodes {
			n.Observe(batch)
		}
	}})
	w.must(err)
	t.Cleanup(func() { store.Close() })
	w.store, w.ops = store, engine.RelayOperations{Store: store, Rows: store.Rows()}
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// admin calls do with an AMQP channel of its own.
func (w *world) admin(do func(c *amqp.Channel) error) {
	w.Helper()
	conn, err := amqp.Dial(w.server.URL())
	w.must(err)
	defer conn.Close()
	c, err := conn.Channel()
	w.must(err)
	w.must(do(c))
}

// commit appends one commit with events of a stream.
func (w *world) commit(stream string, events int) {
	w.Helper()
	w.commitData(stream, events, []byte(`{"n":1}`))
}

func (w *world) commitData(stream string, events int, data []byte) {
	w.Helper()
	id, err := eventstore.ParseStreamID(stream)
	w.must(err)
	w.keys++
	c := eventstore.Command{
		Key: fmt.Sprint("k", w.keys), At: time.Unix(1000, 5000), Meta: eventstore.Meta{Client: "bob", Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
	}
	for range events {
		c.Events = append(c.Events, eventstore.Event{Type: "bid", Data: data})
	}
	_, err = w.store.Append(w.Context(), eventstore.Unit{Stream: id, Expected: w.versions[stream], Commands: []eventstore.Command{c}})
	w.must(err)
	w.versions[stream] += eventstore.Version(events)
}

// config names the stream of the test.
func (w *world) config() Config {
	return Config{Relay: "orders", URL: &url.URL{Scheme: scheme, Host: w.server.StreamAddress(), Path: "/"}, Stream: w.Name()}
}

// target returns a target, which ends with the test at the latest.
func (w *world) target(c Config) relay.Target {
	w.Helper()
	_, make, err := New(c)
	w.must(err)
	one := &once{Target: make()}
	w.Cleanup(one.Close)
	return one
}

// once is a target that a test may close again.
type once struct {
	relay.Target
	closed sync.Once
}

func (o *once) Close() { o.closed.Do(o.Target.Close) }

// run starts a node with the relay. It ends with the test, or with stop.
func (w *world) run(c Config) (p *engine.Projections, stop func()) {
	w.Helper()
	where, target, err := New(c)
	w.must(err)
	head, err := w.store.Head(w.Context())
	w.must(err)
	p = engine.NewProjections(engine.ProjectionsConfig{
		Catalog: new(aggregate.Catalog), Store: w.store, Rows: w.store.Rows(), Relays: []relay.Relay{{Name: "orders", Where: where, New: target}},
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

// messages returns the messages of the stream, from the first one on. It publishes a
// marker, which is the end, and leaves out those of earlier calls.
func (w *world) messages() (list []amqp.Delivery) {
	w.Helper()
	w.admin(func(c *amqp.Channel) error {
		if err := c.Confirm(false); err != nil {
			return err
		}
		id := fmt.Sprint("marker ", time.Now().UnixNano())
		sent, err := c.PublishWithDeferredConfirmWithContext(w.Context(), "", w.Name(), true, false, amqp.Publishing{MessageId: id, AppId: "marker"})
		if err != nil {
			return err
		}
		if !sent.Wait() {
			return fmt.Errorf("the marker was refused")
		}
		if err := c.Qos(1000, 0, false); err != nil {
			return err
		}
		deliveries, err := c.Consume(w.Name(), "", false, false, false, false, amqp.Table{"x-stream-offset": "first"})
		if err != nil {
			return err
		}
		for d := range deliveries {
			if d.MessageId == id {
				return nil
			}
			if d.AppId != "marker" {
				list = append(list, d)
			}
			if len(list)%100 == 0 {
				if err := d.Ack(true); err != nil {
					return err
				}
			}
		}
		return fmt.Errorf("the stream ends after %d messages without the marker", len(list))
	})
	return list
}

func position(d amqp.Delivery) int64 { return d.Headers["position"].(int64) }
func prev(d amqp.Delivery) int64     { return d.Headers["prev"].(int64) }

// wantOnce checks that the stream has each position from 1 to last once and in order, and
// that prev of each message is 0 or the position of the message before it.
func (w *world) wantOnce(last int64) (list []amqp.Delivery) {
	w.Helper()
	list = w.messages()
	for i, d := range list {
		if position(d) != int64(i)+1 || prev(d) != int64(i) && prev(d) != 0 {
			w.Fatalf("message %d has the position %d and the prev %d", i+1, position(d), prev(d))
		}
	}
	if int64(len(list)) != last {
		w.Errorf("the stream has %d messages, want %d", len(list), last)
	}
	return list
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
		p.heal()
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

// forward copies until the proxy is cut. Then it reads no more, so that the buffers of
// the connection fill.
func (p *proxy) forward(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		cut := p.isCut
		p.mu.Unlock()
		if cut {
			return
		}
		if n > 0 {
			_, _ = to.Write(buffer[:n])
		}
		if err == io.EOF || err != nil {
			to.Close()
			return
		}
	}
}

// cut drops what arrives from now on, until heal, which also ends the connections.
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
