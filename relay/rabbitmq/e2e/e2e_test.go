// Package e2e tests relays to RabbitMQ with real nodes, a real PostgreSQL and a real
// broker, which are killed, frozen and cut off.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
)

// binary is ganglion, built with the race detector.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ganglion-relay")
	if err == nil {
		err = os.Setenv("GORACE", harness.RaceOptions)
	}
	if err == nil {
		binary, err = harness.Build(dir, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.DefaultTransport.(*http.Transport).DisableKeepAlives = true // they would be leaks
	postgrestest.Main(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // the exit code matters more
		os.Exit(code)
	}))
}

const queue = "all"

// A world is two nodes with the relay "orders" to an exchange whose queue gets all events.
type world struct {
	*testing.T
	store   string
	log     *postgres.Store // of the test
	ops     engine.RelayOperations
	broker  *rabbitmqtest.Server
	relay   string // that is harmed and observed
	config  string
	seeds   []string
	listens []string
	admins  []string
	nodes   []*harness.Node
	client  *harness.Client
}

// newWorld also adds tables to the configuration of the nodes, in which BROKER and STREAMS
// stand for the broker's URLs.
func newWorld(t *testing.T, tables ...string) *world {
	t.Helper()
	w := &world{T: t, store: postgrestest.URL(t), relay: "orders"}
	var err error
	if w.broker, err = rabbitmqtest.Start(t.Context(), rabbitmqtest.Options{Streams: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.broker.Close() })
	w.channel(func(c *amqp.Channel) error {
		_, err := c.QueueDeclare(queue, true, false, false, false, nil)
		return errors.Join(err, c.ExchangeDeclare("events", "topic", true, false, false, false, nil), c.QueueBind(queue, "#", "events", false, nil))
	})
	w.config = filepath.Join(t.TempDir(), "node.toml")
	file := fmt.Sprintf("cluster = \"relay\"\n[[relay]]\nname = \"orders\"\nurl = \"%s/\"\nexchange = \"events\"\n", w.broker.URL())
	for _, table := range tables {
		file += strings.NewReplacer("BROKER", w.broker.URL()+"/", "STREAMS", "rabbitmq-stream://"+w.broker.StreamAddress()).Replace(table)
	}
	w.must(os.WriteFile(w.config, []byte(file), 0o600))
	for range 2 {
		w.seeds = append(w.seeds, harness.FreeAddress(t))
		w.listens = append(w.listens, harness.FreeAddress(t))
		w.admins = append(w.admins, harness.FreeAddress(t))
		w.nodes = append(w.nodes, nil)
	}
	for i := range w.nodes {
		w.start(i)
	}
	w.log, err = postgres.Open(t.Context(), postgres.Config{URL: w.store})
	w.must(err)
	t.Cleanup(func() { w.log.Close() })
	w.ops = engine.RelayOperations{Store: w.log, Rows: w.log.Rows()}
	w.client = &harness.Client{URLs: []string{harness.WS("http://" + w.listens[0]), harness.WS("http://" + w.listens[1])}, ID: "writer"}
	t.Cleanup(w.client.Leave)
	return w
}

// start starts a node and waits until it is ready.
func (w *world) start(i int) {
	w.Helper()
	w.nodes[i] = harness.Start(w, binary, 1, "node", "--config", w.config, "--name", fmt.Sprint("n", i+1), "--store", w.store,
		"--listen", w.listens[i], "--admin-listen", w.admins[i], "--peer-listen", "127.0.0.1:0", "--gossip-listen", w.seeds[i], "--join", strings.Join(w.seeds, ","))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// channel calls do with a channel to the broker.
func (w *world) channel(do func(c *amqp.Channel) error) {
	w.Helper()
	conn, err := amqp.Dial(w.broker.URL())
	w.must(err)
	defer conn.Close()
	c, err := conn.Channel()
	w.must(err)
	w.must(do(c))
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for began := time.Now(); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			w.Fatalf("it never happens that %s", what)
		}
	}
}

func (w *world) state() engine.RelayState {
	w.Helper()
	list, err := w.ops.List(w.Context())
	w.must(err)
	for _, s := range list {
		if s.Relay == w.relay {
			return s
		}
	}
	return engine.RelayState{}
}

// head returns the position of the newest event.
func (w *world) head() int64 {
	w.Helper()
	head, err := w.log.Head(w.Context())
	w.must(err)
	return int64(head)
}

// advances waits until the broker has confirmed more events.
func (w *world) advances() {
	w.Helper()
	from := w.state().Position
	w.eventually("the relay advances", func() bool { return w.state().Position > from })
}

func (w *world) caughtUp() {
	w.Helper()
	w.eventually("the relay has caught up", func() bool { s := w.state(); return s.Position > 0 && s.Lag == 0 })
}

// metrics returns the metrics of a node, "" if it does not answer.
func (w *world) metrics(i int) string {
	ctx, cancel := context.WithTimeout(w.Context(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.listens[i]+"/metrics", nil)
	w.must(err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body) // a part is as good as none
	return string(text)
}

// owner returns the index of the node that publishes.
func (w *world) owner() (owner int) {
	w.Helper()
	w.eventually("a node works on the relay", func() bool {
		for i := range w.nodes {
			if strings.Contains(w.metrics(i), fmt.Sprintf("ganglion_relay_connected{relay=%q} 1\n", w.relay)) {
				owner = i
				return true
			}
		}
		return false
	})
	return owner
}

// add sends one command.
func (w *world) add(ctx context.Context, n int) error {
	_, err := w.client.Do(ctx, fmt.Sprint("counter/c", n%10), "add", fmt.Sprint("k", n), map[string]any{"by": 1})
	return err
}

// load sends commands until stop is called, which returns their number.
func (w *world) load() (stop func()) {
	ctx, cancel := context.WithCancel(w.Context())
	var writers sync.WaitGroup
	var next atomic.Int64
	for range 4 {
		writers.Go(func() {
			for ctx.Err() == nil {
				n := int(next.Add(1))
				if err := w.add(ctx, n); err != nil && ctx.Err() == nil {
					w.Errorf("command %d: %v", n, err)
					return
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); writers.Wait() })
	w.Cleanup(stop)
	return stop
}

// check takes all messages out of the queue. It checks that messages of one run follow
// each other, and that a consumer which keeps one integer takes every event once and in
// order.
func (w *world) check() {
	w.Helper()
	var list []amqp.Delivery
	w.channel(func(c *amqp.Channel) error {
		for {
			d, ok, err := c.Get(queue, true)
			if err != nil || !ok {
				return err
			}
			list = append(list, d)
		}
	})
	ends := map[int64]int{} // last positions of runs
	runs, highest := 0, int64(0)
	for i, d := range list {
		position, prev := d.Headers["position"].(int64), d.Headers["prev"].(int64)
		switch {
		case prev == 0:
			runs++
		case ends[prev] == 0:
			w.Fatalf("message %d at position %d has the prev %d, at which no run is", i, position, prev)
		default:
			ends[prev]--
		}
		ends[position]++
		if position > highest && prev <= highest {
			if position != highest+1 {
				w.Fatalf("message %d: the consumer took position %d after %d", i, position, highest)
			}
			highest = position
		}
	}
	if head := w.head(); highest != head {
		w.Errorf("the consumer took the events up to %d of %d", highest, head)
	}
	w.Logf("%d messages in %d runs for %d events", len(list), runs, highest)
}

// A fault harms something and repairs it.
var faults = map[string]func(w *world){
	"the owner is killed": func(w *world) {
		i := w.owner()
		w.nodes[i].Kill()
		w.advances()
		w.start(i)
	},
	"the broker is killed": func(w *world) {
		w.must(w.broker.Sync(w.Context()))
		w.broker.Kill()
		w.must(w.broker.Restart(w.Context()))
	},
	"owner and broker are killed": func(w *world) {
		w.must(w.broker.Sync(w.Context()))
		i := w.owner()
		w.nodes[i].Kill()
		w.broker.Kill()
		w.must(w.broker.Restart(w.Context()))
		w.start(i)
	},
	"the owner is frozen, and wakes as a stale one": func(w *world) {
		i := w.owner()
		w.nodes[i].Signal(syscall.SIGSTOP)
		w.advances() // on the other node
		w.nodes[i].Signal(syscall.SIGCONT)
	},
}

// TestRelayLosesNothingUnderFaults kills the owner and freezes the next one, while
// commands are sent. GANGLION_FAULTS=long kills the broker too, alone and together with
// the owner, and continues with ten random faults.
func TestRelayLosesNothingUnderFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.load()
	w.harm()
	stop()
	w.caughtUp()
	w.check()
	// A rewind to the beginning repeats the log as one run.
	_, err := w.ops.Rewind(t.Context(), "orders", 0)
	w.must(err)
	w.eventually("the relay has begun again", func() bool { return w.state().Lag > 0 })
	w.caughtUp()
	w.check()
}

// harm lets the faults happen one after the other.
func (w *world) harm() {
	w.Helper()
	w.advances()
	names := []string{"the owner is killed", "the owner is frozen, and wakes as a stale one"}
	if os.Getenv("GANGLION_FAULTS") == "long" {
		names = append(names, "the broker is killed", "owner and broker are killed")
		for range 10 {
			names = append(names, names[rand.N(4)])
		}
	}
	for _, name := range names {
		w.Log(name)
		faults[name](w)
		w.advances()
	}
}

// ganglion runs a command for operators and returns what it prints.
func (w *world) ganglion(args ...string) string {
	w.Helper()
	cmd := exec.CommandContext(w.Context(), binary, append(args, "--store", w.store)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		w.Fatalf("ganglion %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestOperatorsSteerARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(w.add(t.Context(), 1))
	w.caughtUp()
	w.eventually("the list has one owner", func() bool { // the ring may move the relay to a node that has just joined
		var r struct{ Relays []node.OwnedRelay }
		w.must(json.Unmarshal([]byte(w.ganglion("relays", "--json", "--url", "http://"+w.listens[0])), &r))
		return len(r.Relays) == 1 && len(r.Relays[0].Owners) == 1 && r.Relays[0].Describe() == "active"
	})
	if got := w.ganglion("relay", "pause", "orders"); got != "orders: paused\n" {
		t.Errorf("printed %q", got)
	}
	w.eventually("the relay rests", func() bool {
		return strings.Contains(w.metrics(0)+w.metrics(1), `ganglion_relay_waiting{reason="paused",relay="orders"} 1`) &&
			!strings.Contains(w.metrics(0)+w.metrics(1), `ganglion_relay_connected{relay="orders"} 1`)
	})
	w.must(w.add(t.Context(), 2))
	if got := w.ganglion("relays"); !strings.Contains(got, "1     paused") {
		t.Errorf("printed %s", got)
	}
	w.ganglion("relay", "skip", "orders", "--position", "2")
	w.must(w.add(t.Context(), 3))
	w.ganglion("relay", "resume", "orders")
	w.caughtUp()
	if got := w.ganglion("relay", "rewind", "orders", "--to", "start"); got != "orders: begins after position 0\n" {
		t.Errorf("printed %q", got)
	}
	w.eventually("the relay has begun again", func() bool { return w.state().Lag > 0 })
	w.caughtUp()
	var got []string
	w.channel(func(c *amqp.Channel) error {
		for {
			d, ok, err := c.Get(queue, true)
			if err != nil || !ok {
				return err
			}
			got = append(got, fmt.Sprint(d.Headers["position"]))
		}
	})
	if s := strings.Join(got, " "); s != "1 3 1 3" {
		t.Errorf("the queue has %s", s)
	}
	if got := w.ganglion("processors"); strings.Contains(got, "orders") {
		t.Errorf("relays are among the projections: %s", got)
	}
}
