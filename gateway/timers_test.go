package gateway_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// pipes is a network in memory, on which a synctest bubble can wait.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// emptyStore is a store without events.
type emptyStore struct{ eventstore.Store }

func (emptyStore) LogID() string                                     { return "log" }
func (emptyStore) Head(context.Context) (eventstore.Position, error) { return 0, nil }
func (emptyStore) StreamHead(context.Context, eventstore.StreamID) (eventstore.Head, error) {
	return eventstore.Head{}, nil
}

func (emptyStore) ReadStream(context.Context, eventstore.StreamID, eventstore.Version, int) ([]eventstore.Commit, error) {
	return nil, nil
}

// expiring is an Authenticator whose identities expire after a time.
type expiring struct {
	gateway.Authenticator
	after time.Duration
}

func (e expiring) Trust(ctx context.Context, client string) (gateway.Identity, error) {
	id, err := e.Authenticator.Trust(ctx, client)
	id.Expires = time.Now().Add(e.after)
	return id, err
}

func (e expiring) Token(ctx context.Context, token string) (gateway.Identity, error) {
	id, err := e.Authenticator.Token(ctx, token)
	id.Expires = time.Now().Add(e.after)
	return id, err
}

// bubble runs a test in a synctest bubble, against a gateway in memory.
func bubble(t *testing.T, change func(*gateway.Config), test func(t *testing.T, g *gateway.Gateway, dial func() *client)) {
	t.Helper()
	bubbleWithTransport(t, change, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
		test(t, g, func() *client {
			c, _, err := dialWith(t, "http://gateway", &http.Client{Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			return c
		})
	})
}

// bubbleWithTransport is bubble for tests that make their own requests.
func bubbleWithTransport(t *testing.T, change func(*gateway.Config), test func(t *testing.T, g *gateway.Gateway, transport *http.Transport)) {
	t.Helper()
	bubbleWithNetwork(t, func(t *testing.T, g *gateway.Gateway, network *pipes) {
		transport := &http.Transport{DialContext: network.dial}
		defer transport.CloseIdleConnections()
		test(t, g, transport)
	}, change)
}

// bubbleWithNetwork is bubble for tests that make their own connections.
func bubbleWithNetwork(t *testing.T, test func(t *testing.T, g *gateway.Gateway, network *pipes), change func(*gateway.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		router := newOwner(emptyStore{})
		defer router.stop()
		cfg := gateway.Config{
			Node: "n1", Catalog: catalog{}, Store: emptyStore{}, Router: router,
			Auth: gateway.Development(),
		}
		if change != nil {
			change(&cfg)
		}
		g, err := gateway.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		g.Begin(0)
		network := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		srv := &http.Server{Handler: g.Handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = srv.Serve(network) })
		running.Go(func() { _ = g.Run(ctx) })
		defer func() {
			cancel()
			_ = srv.Close()
			running.Wait()
		}()
		test(t, g, network)
	})
}

// eventually reads the next frame, however long that takes in the bubble.
func (c *client) eventually() frame.Frame {
	c.t.Helper()
	if len(c.got) == 0 {
		_, message, err := c.conn.Read(context.Background())
		if err != nil {
			c.t.Fatal(err)
		}
		for line := range frame.Lines(message) {
			f, err := frame.ParseAnswer(line)
			if err != nil {
				c.t.Fatal(err)
			}
			c.got = append(c.got, f)
		}
	}
	f := c.got[0]
	c.got = c.got[1:]
	return f
}

// protocol: close 4003
// protocol: rule Nothing but hello
func TestSessionWithoutHelloIsClosedInTime(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, _ *gateway.Gateway, dial func() *client) {
		began := time.Now()
		c := dial()
		c.send(`{"op":"ping","id":"1"}`) // not a hello
		want[frame.Pong](c)
		c.wantClose(4003)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("closed after %v, want 10s", took)
		}
	})
}

// protocol: gateway heartbeat
// protocol: rule Heartbeats every 25 s
func TestHeartbeatsComeEvery25Seconds(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, g *gateway.Gateway, dial func() *client) {
		c := dial()
		c.send(`{"op":"hello","id":"h","client":"ada","subscriptions":[{"id":"s","stream":"counter/a"}]}`)
		for range 3 {
			c.read()
		}
		g.Deliver([]eventstore.Commit{{
			Position: 7, Stream: eventstore.StreamID{Type: "auction", ID: "1"}, Version: 7, At: time.Now(),
			Events: make([]eventstore.Event, 7),
		}})
		began := time.Now()
		for i := range 20 { // the library answers the pings, so the session stays
			f, ok := c.eventually().(frame.Heartbeat)
			if !ok || f.Cursor != "7" || len(f.Behind) > 0 {
				t.Errorf("got %+v", f)
			}
			if at := time.Since(began); at != time.Duration(i+1)*25*time.Second {
				t.Errorf("heartbeat %d came after %v", i+1, at)
			}
		}
	})
}

// aheadStore is a store with more events than the gateway.
type aheadStore struct{ emptyStore }

func (aheadStore) Head(context.Context) (eventstore.Position, error) { return 9, nil }

func TestHeartbeatNamesTheSubscriptionsThatAreBehind(t *testing.T) {
	t.Parallel()
	bubble(t, func(c *gateway.Config) { c.Store = aheadStore{} }, func(t *testing.T, g *gateway.Gateway, dial func() *client) {
		c := dial()
		c.send(`{"op":"hello","id":"h","client":"ada","subscriptions":[{"id":"s","category":"auction","cursor":"5"}]}`)
		want[frame.Welcome](c)
		want[frame.Subscribed](c)
		f, ok := c.eventually().(frame.Heartbeat)
		if !ok || f.Cursor != "0" || len(f.Behind) != 1 || f.Behind[0] != (frame.Behind{Sub: "s", Cursor: "5"}) {
			t.Errorf("got %+v", f)
		}
		g.Deliver([]eventstore.Commit{{
			Position: 6, Stream: eventstore.StreamID{Type: "auction", ID: "1"}, Version: 6, At: time.Now(),
			Events: slices.Repeat([]eventstore.Event{{Type: "added", Data: []byte(`{}`)}}, 6),
		}})
		if e, ok := c.eventually().(frame.Event); !ok || e.Position != 6 {
			t.Errorf("got %+v, want position 6 and nothing before it", e)
		}
		if l, ok := c.eventually().(frame.Live); !ok || l.Cursor != "6" {
			t.Errorf("got %+v", l)
		}
	})
}

// protocol: rule Heartbeats every 25 s
func TestSilenceForThreeHeartbeatsEndsTheSession(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, g *gateway.Gateway, dial func() *client) {
		c := dial()
		c.send(`{"op":"hello","id":"h","client":"ada"}`)
		want[frame.Welcome](c)
		began := time.Now()
		// The client reads nothing, so it answers no ping. A write to a pipe
		// then blocks for the grace period.
		for g.Stats().Sessions > 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took < 75*time.Second || took > 100*time.Second {
			t.Errorf("ended after %v, want three heartbeats of 25s", took)
		}
	})
}

// protocol: gateway expiring, close 4001
func TestExpiredTokenEndsTheSessionAfterAWarning(t *testing.T) {
	t.Parallel()
	bubble(t, func(c *gateway.Config) {
		c.Auth = expiring{c.Auth, 10 * time.Minute}
		c.Heartbeat = time.Hour
	}, func(t *testing.T, _ *gateway.Gateway, dial func() *client) {
		began := time.Now()
		c := dial()
		c.send(`{"op":"hello","id":"h","client":"ada"}`)
		want[frame.Welcome](c)
		if f, ok := c.eventually().(frame.Expiring); !ok || f.InMS != 60000 || time.Since(began) != 9*time.Minute {
			t.Errorf("got %+v after %v", f, time.Since(began))
		}
		_, _, err := c.conn.Read(context.Background())
		if closeCode(err) != 4001 || time.Since(began) != 10*time.Minute {
			t.Errorf("got %v after %v, want 4001 after 10m", err, time.Since(began))
		}
	})
}

// TestSlowEventStreamHeaderHoldsNoLock opens an event stream whose client does
// not even read the header. A write to a pipe blocks until the client reads.
func TestSlowEventStreamHeaderHoldsNoLock(t *testing.T) {
	t.Parallel()
	bubbleWithNetwork(t, func(t *testing.T, g *gateway.Gateway, network *pipes) {
		conn, err := network.dial(context.Background(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		request := "GET /v1/streams/auction/1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer dev:eve\r\n\r\n"
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until every goroutine is blocked, one of them in writing the header
		began := time.Now()
		if slow := g.Slow(1); len(slow) != 1 || slow[0].Client != "eve" {
			t.Errorf("the slow sessions are %v, want that of eve", slow)
		}
		if n := g.KickClient("eve"); n != 1 {
			t.Errorf("%d sessions of eve were closed, want 1", n)
		}
		if waited := time.Since(began); waited > 0 { // the bubble's time passes only while everything is blocked
			t.Errorf("an operator waited %v for the client to read", waited)
		}
		_ = conn.Close()
	}, nil)
}

// renewing is an Authenticator with a time of expiry for each token.
type renewing struct {
	gateway.Authenticator
	ends map[string]time.Time
}

func (r renewing) Token(_ context.Context, token string) (gateway.Identity, error) {
	return gateway.Identity{Client: "ada", Expires: r.ends[token]}, nil
}

// protocol: gateway expiring, client auth
func TestExpiryWarningComesOncePerTokenAtHalfItsLife(t *testing.T) {
	t.Parallel()
	ends := map[string]time.Time{}
	bubble(t, func(c *gateway.Config) {
		c.Auth = renewing{c.Auth, ends}
		c.Heartbeat = time.Hour
	}, func(t *testing.T, _ *gateway.Gateway, dial func() *client) {
		began := time.Now()
		ends["short"], ends["next"] = began.Add(time.Minute), began.Add(40*time.Second)
		c := dial()
		warned := func(at, left time.Duration) {
			t.Helper()
			if f, ok := c.eventually().(frame.Expiring); !ok || f.InMS != left.Milliseconds() || time.Since(began) != at {
				t.Fatalf("got %+v after %v, want a warning with %v left after %v", f, time.Since(began), left, at)
			}
		}
		renew := func(token string) {
			t.Helper()
			c.send(`{"op":"auth","id":"a","token":"` + token + `"}`)
			if f, ok := c.eventually().(frame.Result); !ok {
				t.Fatalf("got %+v", f)
			}
		}
		c.send(`{"op":"hello","id":"h","token":"short"}`)
		want[frame.Welcome](c)
		warned(30*time.Second, 30*time.Second)
		for range 5 {
			renew("short") // from a cache: nothing changes, so no warning follows
		}
		renew("next")
		warned(35*time.Second, 5*time.Second)
		_, _, err := c.conn.Read(context.Background())
		if closeCode(err) != 4001 || time.Since(began) != 40*time.Second {
			t.Errorf("got %v after %v, want 4001 after 40s", err, time.Since(began))
		}
	})
}
