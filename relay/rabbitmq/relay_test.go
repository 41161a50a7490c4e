package rabbitmq

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/relay"
)

func TestEventsReachTheQueueInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.declare(nil, "#")
	w.commit("auction/42", "opened", "bid")
	w.commit("auction/a.b", "opened")
	w.run(w.relay(shared.Address()))
	w.caughtUp()
	list := w.take()
	w.wantEach(list, 3)
	d := list[1]
	got := fmt.Sprint(d.RoutingKey, d.MessageId, d.Type, d.ContentType, d.DeliveryMode, d.AppId, d.Timestamp.Unix(), string(d.Body))
	want := fmt.Sprint("auction.42.bid", w.store.LogID()+"-2", "bid", "application/json", amqp.Persistent, "ganglion", 1000, `{"n":1}`)
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	headers := amqp.Table{
		"log": w.store.LogID(), "position": int64(2), "prev": int64(1), "stream": "auction/42", "version": int64(2), "form": int32(1),
		"time": "1970-01-01T00:16:40.000005Z", "cause": "k1", "by": "bob", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	if fmt.Sprint(d.Headers) != fmt.Sprint(headers) {
		t.Errorf("the headers are %v, want %v", d.Headers, headers)
	}
	if key := list[2].RoutingKey; !strings.HasPrefix(key, "auction.~") || strings.Count(key, ".") != 2 {
		t.Errorf("the key of an id with a dot is %q, want a hash of the id", key)
	}
}

func TestUnroutableEventStopsTheRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.declare(nil, "auction.#")
	w.commit("auction/1", "opened")
	w.commit("client/bob", "notified")
	w.commit("auction/1", "bid")
	w.run(w.relay(shared.Address()))
	w.eventually("it stops", func() bool { return w.state().Blocked == 2 })
	s := w.state()
	want := fmt.Sprintf("no queue of exchange %q takes the routing key \"client.bob.notified\" (312 NO_ROUTE): bind a queue, or give the exchange an alternate exchange, and resume the relay", w.exchange)
	if s.Position != 1 || s.Problem != want {
		t.Errorf("it stands at %d: %s, want %s", s.Position, s.Problem, want)
	}
	w.admin(func(c *amqp.Channel) error { return w.bind(c, "client.#") })
	w.must(w.ops.Resume(t.Context(), "orders"))
	w.caughtUp()
	var c consumer
	for _, d := range w.take() {
		c.take(d)
	}
	if fmt.Sprint(c.took) != "[1 2 3]" {
		t.Errorf("the consumer took %v: the event that was bound late has to come in its place", c.took)
	}
}

func TestAlternateExchangeTakesUnroutableEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.admin(func(c *amqp.Channel) error {
		alternate := w.exchange + "-rest"
		if err := c.ExchangeDeclare(alternate, "fanout", true, false, false, false, nil); err != nil {
			return err
		}
		if err := c.ExchangeDeclare(w.exchange, "topic", true, false, false, false, amqp.Table{"alternate-exchange": alternate}); err != nil {
			return err
		}
		if _, err := c.QueueDeclare(w.queue, true, false, false, false, nil); err != nil {
			return err
		}
		return c.QueueBind(w.queue, "", alternate, false, nil)
	})
	w.commit("client/bob", "notified")
	w.run(w.relay(shared.Address()))
	w.caughtUp()
	w.wantEach(w.take(), 1)
}

// TestFullQueueIsTriedAgain has a queue that refuses messages beyond 3. It may take later
// messages of a window whose first one it has refused: the consumer leaves them out, since
// their prev is above what it keeps.
func TestFullQueueIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, window := range map[string]int{"a window": 0, "one message": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, shared)
			w.declare(amqp.Table{"x-max-length": 3, "x-overflow": "reject-publish"}, "#")
			const events = 20
			for range events {
				w.commit("auction/1", "bid")
			}
			r := w.relay(shared.Address())
			r.Window = window
			p, _ := w.run(r)
			w.eventually("the refusal is shown", func() bool {
				return strings.Contains(p.Relays()[0].Broker.Waits, "it refused the event at position")
			})
			if s := w.state(); s.Blocked != 0 {
				t.Errorf("the relay has stopped at %d", s.Blocked)
			}
			var c consumer
			w.eventually("the consumer has all events", func() bool {
				for _, d := range w.take() {
					c.take(d)
					if window == 1 && prev(d) > c.highest {
						t.Errorf("position %d came before %d although the window is 1", position(d), prev(d))
					}
				}
				return c.highest == events
			})
			for i, at := range c.took {
				if at != int64(i)+1 {
					t.Fatalf("the consumer took %v", c.took)
				}
			}
		})
	}
}

func TestRewindToTheBeginningRepeatsTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.declare(nil, "#")
	const events = 2500 // more than two windows
	for range events / 100 {
		w.commit("auction/1", strings.Fields(strings.Repeat("bid ", 100))...)
	}
	w.run(w.relay(shared.Address()))
	w.caughtUp()
	w.wantEach(w.take(), events)
	_, err := w.ops.Rewind(t.Context(), "orders", 0)
	w.must(err)
	w.eventually("the relay has begun again", func() bool { return w.state().Position < events })
	w.caughtUp()
	w.wantEach(w.take(), events)
}

func TestBlockedBrokerIsShown(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	w := newWorld(t, s)
	w.declare(nil, "#")
	p, _ := w.run(w.relay(s.Address()))
	w.commit("auction/1", "bid")
	w.caughtUp()
	w.must(s.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.000001"))
	// The broker says so after the next message of the connection.
	w.eventually("the alarm is shown", func() bool {
		w.commit("auction/1", "bid")
		return strings.Contains(p.Relays()[0].Broker.Waits, "the broker takes no messages: ")
	})
	w.must(s.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.4"))
	w.caughtUp()
	if why := p.Relays()[0].Broker.Waits; why != "" {
		t.Errorf("it still shows %q", why)
	}
	w.wantEach(w.take(), w.last())
}

func (w *world) last() int64 {
	head, err := w.store.Head(w.Context())
	w.must(err)
	return int64(head)
}

func TestRelayStopsWhileTheBrokerIsBlocked(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	w := newWorld(t, s)
	w.declare(nil, "#")
	p, stop := w.run(w.relay(s.Address()))
	w.must(s.Ctl(t.Context(), "set_vm_memory_high_watermark", "0.000001"))
	w.eventually("the alarm is shown", func() bool {
		w.commit("auction/1", "bid")
		return p.Relays()[0].Broker.Waits != ""
	})
	stop()
}

func TestUnreachableBrokersAreExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a wrong password": {func(c *Config) { c.Password = "wrong" }, `refused the user "guest"`},
		"a virtual host":   {func(c *Config) { c.URL.Path = "/none" }, "none"},
		"no broker":        {func(c *Config) { c.URL.Host = "127.0.0.1:1" }, "connection refused"},
		"another protocol": {func(c *Config) { c.URL.Scheme = "amqps" }, "RabbitMQ at 127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{URL: &url.URL{Scheme: "amqp", Host: shared.Address(), Path: "/"}, Exchange: w.exchange}
			test.change(&c)
			_, target, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			one := target()
			_, _, err = one.Open(t.Context(), "log")
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "wrong") {
				t.Errorf("got %v, want %s", err, test.want)
			}
			one.Close()
			if _, open := <-one.Confirmed(); open {
				t.Error("a target that was never open has confirmed something")
			}
		})
	}
}

func TestSettingsAreChecked(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		url, password string
		own           map[string]string
		want          string
	}{
		"no exchange":          {"amqp://mq/", "", nil, "exchange is missing: name the exchange that gets the events"},
		"a reserved exchange":  {"amqp://mq/", "", map[string]string{"exchange": "amq.topic"}, `exchange "amq.topic" is not allowed`},
		"no host":              {"amqp:///", "", map[string]string{"exchange": "e"}, "the URL of RabbitMQ is amqp://USER@HOST:PORT/VHOST"},
		"parameters":           {"amqp://mq/?heartbeat=1", "", map[string]string{"exchange": "e"}, "the URL has parameters"},
		"an escaped slash":     {"amqp://mq:5672/a%2Fb", "", map[string]string{"exchange": "e"}, ""},
		"a slash":              {"amqp://mq/a/b", "", map[string]string{"exchange": "e"}, "write it as %2F"},
		"two passwords":        {"amqp://a:b@mq/", "c", map[string]string{"exchange": "e"}, "use one place"},
		"no authorities":       {"amqps://mq/", "", map[string]string{"exchange": "e", "ca-file": empty}, "has no certificate in PEM"},
		"a missing file":       {"amqps://mq/", "", map[string]string{"exchange": "e", "ca-file": empty + "x"}, "ca-file: "},
		"everything is there ": {"amqp://a@mq:5672/v", "c", map[string]string{"exchange": "e"}, ""},
	} {
		u, err := url.Parse(test.url)
		if err != nil {
			t.Fatal(err)
		}
		where, _, err := Broker.Configure(relay.Settings{Name: "orders", URL: u, Password: test.password, Own: test.own})
		switch {
		case test.want == "" && (err != nil || where != `exchange "e" of RabbitMQ at mq:5672`):
			t.Errorf("%s: got %q, %v", name, where, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

func TestKilledBrokerLosesAndReordersNothing(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	w := newWorld(t, s)
	w.declare(nil, "#")
	const events = 3000
	p, _ := w.run(w.relay(s.Address()))
	for range events / 100 {
		w.commit("auction/1", strings.Fields(strings.Repeat("bid ", 100))...)
	}
	for _, at := range []eventstore.Position{1, events / 2} {
		w.eventually("it publishes", func() bool { return w.state().Position >= at })
		s.Kill()
		w.eventually("the node notices", func() bool { return !p.Relays()[0].Broker.Connected })
		w.must(s.Restart(t.Context()))
	}
	w.caughtUp()
	w.wantEach(w.take(), events)
}

func TestCutConnectionIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.declare(nil, "#")
	line := newProxy(t, shared.Address())
	p, _ := w.run(w.relay(line.listener.Addr().String()))
	w.commit("auction/1", "bid")
	w.caughtUp()
	line.cut()
	w.commit("auction/1", "bid")
	began := time.Now()
	w.eventually("the node notices", func() bool { return !p.Relays()[0].Broker.Connected })
	t.Logf("noticed after %v", time.Since(began).Round(time.Second))
	line.heal()
	w.caughtUp()
	w.wantEach(w.take(), 2)
}
