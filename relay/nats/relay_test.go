package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/relay"
)

// A world is an embedded log with a relay to a stream of a server in the test.
type world struct {
	*testing.T
	store    *sqlite.Store
	ops      engine.RelayOperations
	options  server.Options
	server   *server.Server
	versions map[string]eventstore.Version
	keys     int

	mu    sync.Mutex
	nodes []*engine.Projections
}

func newWorld(t *testing.T, change ...func(*server.Options)) *world {
	t.Helper()
	w := &world{T: t, versions: map[string]eventstore.Version{}}
	port, err := ports.Reserve(1) // the server keeps it when it starts again
	w.must(err)
	w.options = server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true}
	for _, f := range change {
		f(&w.options)
	}
	w.startServer()
	t.Cleanup(func() { w.stopServer() })
	w.store, err = sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: func(_ string, batch []eventstore.Commit) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, n := range w.nodes {
			n.Observe(batch)
		}
	}})
	w.must(err)
	t.Cleanup(func() { w.store.Close() })
	w.ops = engine.RelayOperations{Store: w.store, Rows: w.store.Rows()}
	return w
}

func (w *world) startServer() {
	w.Helper()
	options := w.options
	s, err := server.NewServer(&options)
	w.must(err)
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		w.Fatal("the NATS server is not ready after a minute")
	}
	w.server = s
}

func (w *world) stopServer() {
	w.server.Shutdown()
	w.server.WaitForShutdown()
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) commit(stream string, events int) {
	w.Helper()
	id, err := eventstore.ParseStreamID(stream)
	w.must(err)
	w.keys++
	c := eventstore.Command{Key: fmt.Sprint("k", w.keys), At: time.Unix(1000, 5000), Meta: eventstore.Meta{Client: "bob"}}
	for range events {
		c.Events = append(c.Events, eventstore.Event{Type: "bid", Data: []byte(`{"n":1}`)})
	}
	_, err = w.store.Append(w.Context(), eventstore.Unit{Stream: id, Expected: w.versions[stream], Commands: []eventstore.Command{c}})
	w.must(err)
	w.versions[stream] += eventstore.Version(events)
}

// run starts a node with the relay. It ends with the test, or with stop.
func (w *world) run() (p *engine.Projections, stop func()) {
	w.Helper()
	where, target, err := New(Config{URL: &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", w.options.Port)}, Stream: "log"})
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

func (w *world) caughtUp() {
	w.Helper()
	head, err := w.store.Head(w.Context())
	w.must(err)
	w.eventually("the relay has caught up", func() bool { return w.state().Position == head })
}

// stream calls do with the relay's stream.
func (w *world) stream(do func(jetstream.JetStream, jetstream.Stream) error) {
	w.Helper()
	conn, err := nats.Connect(w.server.ClientURL())
	w.must(err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	w.must(err)
	s, err := js.Stream(w.Context(), "log")
	w.must(err)
	w.must(do(js, s))
}

// messages returns the messages of the stream.
func (w *world) messages() (list []*jetstream.RawStreamMsg) {
	w.Helper()
	w.stream(func(_ jetstream.JetStream, s jetstream.Stream) error {
		info, err := s.Info(w.Context())
		w.must(err)
		for n := max(info.State.FirstSeq, 1); n <= info.State.LastSeq; n++ {
			m, err := s.GetMsg(w.Context(), n)
			if err != nil {
				return err
			}
			list = append(list, m)
		}
		return nil
	})
	return list
}

// wantOnce checks that the stream has each position from 1 to last once, in order.
func (w *world) wantOnce(last int) {
	w.Helper()
	list := w.messages()
	for i, m := range list {
		if got := m.Header.Get(headerPosition); got != strconv.Itoa(i+1) {
			w.Fatalf("message %d has the position %s", i+1, got)
		}
	}
	if len(list) != last {
		w.Errorf("the stream has %d messages, want %d", len(list), last)
	}
}

func TestEventsReachTheStreamOnceAndInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("auction/42", 2)
	_, stop := w.run()
	w.caughtUp()
	stop()
	w.run()
	w.commit("auction/a.b", 1)
	w.caughtUp()
	w.wantOnce(3)
	m := w.messages()[1]
	if m.Subject != "events.auction.42.bid" || string(m.Data) != `{"n":1}` {
		t.Errorf("got %s %s", m.Subject, m.Data)
	}
	want := map[string]string{
		"Ganglion-Log": w.store.LogID(), "Ganglion-Position": "2", "Ganglion-Prev": "1", "Ganglion-Stream": "auction/42", "Ganglion-Version": "2",
		"Ganglion-Event": "bid", "Ganglion-Form": "1", "Ganglion-Time": "1970-01-01T00:16:40.000005Z", "Ganglion-Cause": "k1", "Ganglion-By": "bob", "traceparent": "",
	}
	for name, value := range want {
		if got := m.Header.Get(name); got != value {
			t.Errorf("the header %s is %q, want %q", name, got, value)
		}
	}
}

func TestServerThatIsStoppedRepeatsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, _ := w.run()
	const events = 3000
	for range events / 100 {
		w.commit("auction/1", 100)
	}
	for _, at := range []eventstore.Position{1, events / 2} {
		w.eventually("it publishes", func() bool { return w.state().Position >= at })
		w.stopServer()
		w.eventually("the node notices", func() bool { return !p.Relays()[0].Broker.Connected })
		w.startServer()
	}
	w.caughtUp()
	w.wantOnce(events)
}

func TestRewindRepeatsNothingThatTheStreamHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run()
	w.commit("auction/1", 5)
	w.caughtUp()
	_, err := w.ops.Rewind(t.Context(), "orders", 0)
	w.must(err)
	w.commit("auction/1", 1)
	w.caughtUp()
	w.wantOnce(6)
}

// TestStreamRefusesAStaleRelay has two targets on one stream: the one that was opened last
// publishes, and then the other one, which believes that the stream is as it has seen it.
func TestStreamRefusesAStaleRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("auction/1", 1)
	_, stop := w.run() // makes the stream
	w.caughtUp()
	stop()
	_, make, err := New(Config{URL: &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", w.options.Port)}, Stream: "log"})
	w.must(err)
	stale, owner := make(), make()
	for _, one := range []relay.Target{stale, owner} {
		last, known, err := one.Open(t.Context(), w.store.LogID())
		if err != nil || !known || last != 1 {
			t.Fatalf("opened at %d, %v, %v", last, known, err)
		}
		t.Cleanup(one.Close)
	}
	second := relay.Message{Log: w.store.LogID(), Position: 2, Stream: eventstore.StreamID{Type: "auction", ID: "1"}, Event: "bid", Data: []byte("{}")}
	w.must(owner.Publish(t.Context(), second))
	if p := <-owner.Confirmed(); p != 2 {
		t.Errorf("confirmed %d", p)
	}
	w.must(stale.Publish(t.Context(), second))
	if p, open := <-stale.Confirmed(); open || stale.Err() == nil || !strings.Contains(stale.Err().Error(), "another writer has published to the stream") {
		t.Errorf("the stale relay got %d, %v", p, stale.Err())
	}
	w.wantOnce(2)
}

func TestFullStreamIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("auction/1", 1)
	p, _ := w.run()
	w.caughtUp()
	limit := func(most int64) {
		w.stream(func(js jetstream.JetStream, s jetstream.Stream) error {
			c := s.CachedInfo().Config
			c.MaxMsgs, c.Discard = most, jetstream.DiscardNew
			_, err := js.UpdateStream(t.Context(), c)
			return err
		})
	}
	limit(3)
	w.commit("auction/1", 9)
	w.eventually("the refusal is shown", func() bool {
		return strings.Contains(p.Relays()[0].Broker.Waits, "it refused the event at position 4: nats: API error")
	})
	limit(-1)
	w.caughtUp()
	w.wantOnce(10)
}

func TestLargeEventStopsTheRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *server.Options) { o.MaxPayload = 1024 })
	w.run()
	id := eventstore.StreamID{Type: "auction", ID: "1"}
	c := eventstore.Command{Key: "k", At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "bid", Data: []byte(`"` + strings.Repeat("x", 2000) + `"`)}}}
	_, err := w.store.Append(t.Context(), eventstore.Unit{Stream: id, Commands: []eventstore.Command{c}})
	w.must(err)
	w.eventually("it stops", func() bool { return w.state().Blocked == 1 })
	if got := w.state().Problem; got != "it has 2002 bytes, and the server accepts 1024: raise its max_payload and resume the relay, or skip the event" {
		t.Errorf("the reason is %s", got)
	}
	w.must(w.ops.Skip(t.Context(), "orders", 1))
	w.commit("auction/2", 1)
	w.caughtUp()
	if list := w.messages(); len(list) != 1 || list[0].Header.Get(headerPosition) != "2" {
		t.Errorf("the stream has %d messages", len(list))
	}
}

func TestUnreachableServersAreExplained(t *testing.T) {
	t.Parallel()
	guarded := newWorld(t, func(o *server.Options) { o.Username, o.Password = "bob", "secret" })
	plain := newWorld(t, func(o *server.Options) { o.JetStream = false })
	for name, c := range map[string]struct {
		url  string
		want string
	}{
		"a wrong password": {fmt.Sprintf("nats://bob:wrong@127.0.0.1:%d", guarded.options.Port), `refused the user "bob"`},
		"no JetStream":     {fmt.Sprintf("nats://127.0.0.1:%d", plain.options.Port), "no server answers for JetStream: enable it"},
		"no server":        {"nats://127.0.0.1:1", "no servers available"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		_, target, err := New(Config{URL: u, Stream: "log"})
		if err != nil {
			t.Fatal(err)
		}
		one := target()
		ctx, cancel := context.WithTimeout(t.Context(), relay.DialTimeout)
		_, _, err = one.Open(ctx, "log")
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		one.Close()
		if _, open := <-one.Confirmed(); open {
			t.Errorf("%s: a target that was never open has confirmed something", name)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url, password string
		own           map[string]string
		want          string
	}{
		{"nats://mq", "", nil, "stream is missing: name the stream that gets the events"},
		{"nats://", "", map[string]string{"stream": "s"}, "the URL of NATS is nats://USER@HOST:PORT"},
		{"nats://mq", "", map[string]string{"stream": "a.b"}, `stream "a.b" is not allowed`},
		{"nats://mq", "", map[string]string{"stream": "s", "subject": "a.>"}, `subject "a.>" is not allowed`},
		{"nats://a:b@mq", "c", map[string]string{"stream": "s"}, "use one place"},
		{"nats://a@mq", "", map[string]string{"stream": "s", "credentials-file": "f"}, "use one of them"},
		{"tls://a@mq:4222", "c", map[string]string{"stream": "s"}, ""},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		where, _, err := Broker.Configure(relay.Settings{Name: "orders", URL: u, Password: c.password, Own: c.own})
		switch {
		case c.want == "" && (err != nil || where != `stream "s" of NATS at mq:4222`):
			t.Errorf("got %q, %v", where, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %s", c.url, err, c.want)
		}
	}
}

func TestOtherIncarnationOfTheLogIsNotCompared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("auction/1", 3)
	_, stop := w.run()
	w.caughtUp()
	stop()
	_, target, err := New(Config{URL: &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", w.options.Port)}, Stream: "log"})
	w.must(err)
	one := target()
	defer one.Close()
	last, known, err := one.Open(t.Context(), "another")
	if last != 0 || known || err != nil {
		t.Errorf("got %d, %v, %v, want an unknown position", last, known, errors.Unwrap(err))
	}
}
