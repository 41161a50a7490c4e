package stream

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/relay"
)

// TestKilledBrokerLeavesNoHoleAndNoRepeat kills the broker once while the relay publishes,
// five times with GANGLION_FAULTS=long.
func TestKilledBrokerLeavesNoHoleAndNoRepeat(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	w := newWorld(t, s)
	const commits = 20
	rounds := 1
	if os.Getenv("GANGLION_FAULTS") == "long" {
		rounds = 5
	}
	p, _ := w.run(w.config())
	w.commit("auction/1", 1) // makes the stream
	w.caughtUp()
	for range rounds {
		w.must(s.Sync(t.Context()))
		before := p.Relays()[0].Broker.Confirmed
		for range commits {
			w.commit("auction/1", 100)
		}
		w.eventually("the broker confirms", func() bool { return p.Relays()[0].Broker.Confirmed > before })
		w.must(s.Kill())
		w.eventually("the node notices", func() bool { return !p.Relays()[0].Broker.Connected })
		t.Logf("the broker was killed when it had confirmed %d events of %d", p.Relays()[0].Broker.Confirmed-before, 100*commits)
		w.must(s.Restart(t.Context()))
	}
	events := int64(1 + 100*rounds*commits)
	w.caughtUp()
	w.wantOnce(events)
	blockedBrokerIsShown(w, events)
}

// blockedBrokerIsShown makes the server raise a disk alarm: streams heed no memory alarm. It is a part of another test
// so that it needs no server of its own.
func blockedBrokerIsShown(w *world, events int64) {
	w.Helper()
	p := w.nodes[0]
	w.must(w.server.Ctl(w.Context(), "set_disk_free_limit", "1000000GB"))
	w.eventually("the alarm is shown", func() bool {
		w.commit("auction/1", 1)
		events++
		waits := p.Relays()[0].Broker.Waits
		return strings.Contains(waits, "it may have a disk alarm")
	})
	w.must(w.server.Ctl(w.Context(), "set_disk_free_limit", "1MB"))
	w.caughtUp()
	w.wantOnce(events)
}

// TestCutConnectionIsNoticedUnderLoad cuts a connection whose buffers are full, so that
// the relay cannot send heartbeats either.
func TestCutConnectionIsNoticedUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	line := newProxy(t, shared.StreamAddress())
	c := w.config()
	c.URL.Host = line.listener.Addr().String()
	p, _ := w.run(c)
	w.commit("auction/1", 1)
	w.caughtUp()
	line.cut()
	large := []byte(`"` + strings.Repeat("x", 200_000) + `"`)
	for range 60 {
		w.commitData("auction/1", 1, large)
	}
	began := time.Now()
	w.eventually("the node notices", func() bool { return !p.Relays()[0].Broker.Connected })
	t.Logf("noticed after %v", time.Since(began).Round(time.Second))
	line.heal()
	w.caughtUp()
	w.wantOnce(61)
}

func TestDeletedStreamIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.run(w.config())
	w.commit("auction/1", 3)
	w.caughtUp()
	w.admin(func(c *amqp.Channel) error {
		_, err := c.QueueDelete(w.Name(), false, false, false)
		return err
	})
	w.commit("auction/1", 1)
	w.caughtUp()
	if list := w.messages(); len(list) != 1 || position(list[0]) != 4 {
		t.Errorf("the new stream has %d messages, want the event after the checkpoint", len(list))
	}
	_, err := w.ops.Rewind(t.Context(), "orders", 0)
	w.must(err)
	w.commit("auction/1", 1)
	w.caughtUp()
	if list := w.messages(); len(list) != 2 {
		t.Errorf("the stream has %d messages: a rewind repeats nothing and fills no gap before its last message", len(list))
	}
}

func TestEventLargerThanAFrameStopsTheRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.run(w.config())
	w.commit("auction/1", 1)
	w.commitData("auction/1", 1, []byte(`"`+strings.Repeat("x", 1<<20)+`"`)) // stream.frame_max is 1 MiB by default
	w.commit("auction/1", 1)
	w.eventually("it stops", func() bool { return w.state().Blocked == 2 })
	s := w.state()
	if s.Position != 1 || !strings.Contains(s.Problem, "raise its stream.frame_max and resume the relay, or skip the event") {
		t.Errorf("it stands at %d: %s", s.Position, s.Problem)
	}
	w.must(w.ops.Skip(t.Context(), "orders", 2))
	w.caughtUp()
	if list := w.messages(); len(list) != 2 || position(list[1]) != 3 || prev(list[1]) > 1 {
		t.Errorf("the stream has %d messages", len(list))
	}
}

func TestRelayOfRestoredLogStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	for range 3 {
		w.commit("auction/1", 1)
	}
	_, stop := w.run(w.config())
	w.caughtUp()
	stop()
	_, err := w.store.AcceptLoss(t.Context())
	w.must(err)
	_ = w.store.Check(t.Context())
	_, err = w.store.Resume(t.Context())
	w.must(err)
	p, _ := w.run(w.config())
	w.eventually("it stops", func() bool { return p.Relays()[0].Retries["other_log"] > 0 })
	_, err = w.ops.Rewind(t.Context(), "orders", 2)
	w.must(err)
	w.caughtUp()
	list := w.messages()
	if len(list) != 4 || position(list[3]) != 3 || list[3].Headers["log"] != w.store.LogID() {
		t.Errorf("the stream has %d messages, want the last event again with the id of the new log", len(list))
	}
}

func TestUnreachableBrokersAreExplained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	w.admin(func(c *amqp.Channel) error {
		_, err := c.QueueDeclare(w.Name()+"-classic", true, false, false, false, nil)
		return err
	})
	w.must(shared.Ctl(t.Context(), "add_user", "bob", "secret"))
	w.must(shared.Ctl(t.Context(), "set_permissions", "bob", "", ".*", ".*"))
	bob := func(c *Config) { c.URL.User, c.Password = url.User("bob"), "secret" }
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a wrong password":   {func(c *Config) { c.Password = "wrong" }, `refused the user "guest" or what it may do: wrong user or password`},
		"a virtual host":     {func(c *Config) { c.URL.Path = "/none" }, "the virtual host does not exist"},
		"no broker":          {func(c *Config) { c.URL.Host = "127.0.0.1:1" }, "connection refused"},
		"the port of AMQP":   {func(c *Config) { c.URL.Host = shared.Address() }, "is this the port of streams?"},
		"TLS without TLS":    {func(c *Config) { c.URL.Scheme = secureScheme }, "it closed the connection"},
		"no right to create": {bob, `the user "bob" may not make it: make it, for example with rabbitmqadmin declare queue name=` + w.Name()},
		"a classic queue":    {func(c *Config) { c.Stream += "-classic" }, "there is a queue of this name, and it is no stream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.config()
			c.Stream = w.Name()
			test.change(&c)
			one := w.target(c)
			_, _, err := one.Open(t.Context(), "log")
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %s", err, test.want)
			}
			one.Close()
			if _, open := <-one.Confirmed(); open {
				t.Error("a target that was never open has confirmed something")
			}
		})
	}
}

func TestSilentBrokerIsLeftInTime(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose connections no program accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, make, err := New(Config{Relay: "orders", URL: &url.URL{Scheme: scheme, Host: l.Addr().String()}, Stream: "s"})
	if err != nil {
		t.Fatal(err)
	}
	one := make()
	defer one.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := one.Open(ctx, "log"); err == nil || !strings.Contains(err.Error(), "context deadline exceeded") {
		t.Errorf("got %v", err)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url, password string
		own           map[string]string
		want          string
	}{
		{"rabbitmq-stream://mq", "", nil, "stream is missing: name the stream that gets the events"},
		{"rabbitmq-stream://", "", map[string]string{"stream": "s"}, "the URL of RabbitMQ is rabbitmq-stream://USER@HOST:PORT/VHOST, or rabbitmq-stream+tls:// for TLS"},
		{"rabbitmq-stream://mq?stream=s", "", map[string]string{"stream": "s"}, "remove what follows ?"},
		{"rabbitmq-stream://mq/a/b", "", map[string]string{"stream": "s"}, "write it as %2F"},
		{"rabbitmq-stream://mq", "", map[string]string{"stream": strings.Repeat("s", 256)}, "use at most 255 bytes"},
		{"rabbitmq-stream://a:b@mq", "c", map[string]string{"stream": "s"}, "use one place"},
		{"rabbitmq-stream+tls://mq", "", map[string]string{"stream": "s", "ca-file": "/none"}, "ca-file: "},
		{"rabbitmq-stream+tls://a@mq/a%2Fb", "c", map[string]string{"stream": "s"}, ""},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		where, _, err := Broker.Configure(relay.Settings{Name: "orders", URL: u, Password: c.password, Own: c.own})
		switch {
		case c.want == "" && (err != nil || where != `stream "s" of RabbitMQ at mq`):
			t.Errorf("got %q, %v", where, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %s", c.url, err, c.want)
		}
	}
}

// FuzzFrames reads what a broker might send. It must end with an error and take no more
// memory than it was sent.
func FuzzFrames(f *testing.F) {
	f.Add(newFrame(publishConfirm).u8(publisher).u32(1).u64(7).done())
	f.Add(newFrame(publishError).u8(publisher).u32(1 << 31).u64(7).u16(codeRefused).done())
	f.Add(newFrame(metadataUpdate).u16(codeNotAvailable).text("s").done())
	f.Add(newFrame(closing).u32(1).u16(codeOK).text("bye").done())
	f.Add(newFrame(metadata | isResponse).u32(1).u32(1).u16(0).text("h").u32(1).u32(1).text("s").u16(codeOK).u16(0).u32(0).done())
	f.Add([]byte("AMQP\x00\x00\x09\x01"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		_, make, err := New(Config{Relay: "r", URL: &url.URL{Scheme: scheme, Host: "mq"}, Stream: "s"})
		if err != nil {
			t.Fatal(err)
		}
		one := make().(*target)
		one.conn = &conn{Conn: silent{}, in: bufio.NewReader(bytes.NewReader(sent)), frameMax: maxFrame}
		one.pending = 3
		for err == nil {
			var key uint16
			var in *content
			if key, in, err = one.conn.read(); err == nil {
				err = one.take(key, in)
			}
		}
		if len(one.confirmed) > 3 {
			t.Errorf("%d messages were confirmed of 3", len(one.confirmed))
		}
		one.conn.in.Reset(bytes.NewReader(sent))
		if _, err := one.conn.leader("s"); err == nil && len(sent) < 30 {
			t.Error("a leader was found in nothing")
		}
	})
}

// silent is a connection that takes everything.
type silent struct{ net.Conn }

func (silent) Write(b []byte) (int, error) { return len(b), nil }
