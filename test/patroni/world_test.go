//go:build linux && patroni

package patroni

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/test/harness"
	"github.com/ganglion-es/ganglion/test/patronitest"
)

// binary is ganglion, built with the race detector.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ganglion-patroni")
	if err == nil {
		binary, err = harness.Build(dir, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	http.DefaultTransport.(*http.Transport).DisableKeepAlives = true // they would be leaks
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // the exit code matters more
		os.Exit(code)
	}))
}

const (
	writers  = 8
	streams  = 40
	database = "ganglion"
	// pace is the pause of a writer between two commands, so that the load is light.
	pace = 10 * time.Millisecond
)

// A world is a PostgreSQL cluster, three nodes, and clients that send commands, follow all
// events and ask for states.
type world struct {
	*testing.T
	patroni *patronitest.Cluster
	store   string // URL of the log
	nodes   []*harness.Node
	urls    []string // of the nodes, for sessions

	ctx     context.Context // of the clients
	stop    context.CancelFunc
	clients sync.WaitGroup

	mu        sync.Mutex
	acked     []acknowledged
	last      time.Time     // of the newest acknowledgement
	longest   time.Duration // between two acknowledgements, since measure began
	versions  map[string]uint64
	retries   int64
	followers []*follower
	gets      int // answered strong gets

	// What check has read of the log.
	read eventstore.Position
	log  map[string]uint64 // version by stream and key
}

// acknowledged is a command that has a result.
type acknowledged struct {
	stream, key string
	version     uint64
}

type follower struct {
	*harness.Follower
	seen atomic.Int64
	done chan error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, versions: map[string]uint64{}, log: map[string]uint64{}}
	var err error
	w.patroni, err = patronitest.Start(t.Context(), "../../deploy/patroni/patroni.yml", patronitest.Timing{TTL: 10, LoopWait: 2, RetryTimeout: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.patroni.Logs())
		}
		if err := w.patroni.Close(); err != nil {
			t.Error(err)
		}
	})
	w.store = w.patroni.URL(database)
	conn, err := pgx.Connect(t.Context(), w.patroni.URL("postgres"))
	w.must(err)
	_, err = conn.Exec(t.Context(), `create database `+database)
	w.must(errors.Join(err, conn.Close(t.Context())))
	// The nodes start while a standby may not have the database yet.
	var seeds, listens []string
	for range 3 {
		seeds, listens = append(seeds, harness.FreeAddress(t)), append(listens, harness.FreeAddress(t))
	}
	for i := range seeds {
		w.nodes = append(w.nodes, harness.Spawn(t, binary, "node", "--name", fmt.Sprint("n", i+1), "--store", w.store, "--cluster", "patroni",
			"--listen", listens[i], "--peer-listen", "127.0.0.1:0", "--gossip-listen", seeds[i], "--join", strings.Join(seeds, ",")))
		w.urls = append(w.urls, harness.WS("http://"+listens[i]))
	}
	for _, n := range w.nodes {
		n.AwaitReady(1)
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	t.Cleanup(w.end)
	w.follow()
	for i := range writers {
		w.clients.Go(func() { w.write(i) })
	}
	for i := range w.urls {
		w.clients.Go(func() { w.get(i) })
	}
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// rotated returns the URLs of the nodes, the i-th first.
func (w *world) rotated(i int) []string {
	i %= len(w.urls)
	return append(append([]string{}, w.urls[i:]...), w.urls[:i]...)
}

// write sends commands, one at a time, each until its outcome is known.
func (w *world) write(i int) {
	client := &harness.Client{ID: fmt.Sprint("writer", i), URLs: w.rotated(i)}
	defer client.Leave()
	for n := 0; w.ctx.Err() == nil; n++ {
		stream, key := fmt.Sprint("counter/c", rand.N(streams)), fmt.Sprintf("%d-%d", i, n)
		f, err := client.Do(w.ctx, stream, "add", key, map[string]any{"by": 1})
		switch {
		case w.ctx.Err() != nil:
			return
		case err != nil:
			w.Errorf("command %s to %s: %v", key, stream, err)
			return
		}
		w.mu.Lock()
		now := time.Now()
		if !w.last.IsZero() {
			w.longest = max(w.longest, now.Sub(w.last))
		}
		w.last = now
		w.acked = append(w.acked, acknowledged{stream, key, f.Version})
		w.versions[stream] = max(w.versions[stream], f.Version)
		w.mu.Unlock()
		wait(w.ctx, pace)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// get sends strong gets to a node. None may return a state that is older than the
// commands that were acknowledged before it.
func (w *world) get(i int) {
	client := &harness.Client{ID: "reader", URLs: w.urls[i : i+1]}
	defer client.Leave()
	for ; w.ctx.Err() == nil; wait(w.ctx, 5*pace) {
		s, err := client.Connected(w.ctx)
		if err != nil {
			return
		}
		stream := fmt.Sprint("counter/c", rand.N(streams))
		w.mu.Lock()
		known := w.versions[stream]
		w.mu.Unlock()
		attempt, cancel := context.WithTimeout(w.ctx, 15*time.Second)
		f, err := s.Call(attempt, map[string]any{"op": "get", "aggregate": stream, "strong": true})
		cancel()
		switch {
		case w.ctx.Err() != nil:
		case errors.Is(err, context.DeadlineExceeded):
			w.Errorf("node %d does not answer a get within 15 s", i+1)
		case err == nil && f.Op == "result":
			if f.Version < known {
				w.Errorf("a strong get of %s at node %d returned version %d after %d was acknowledged", stream, i+1, f.Version, known)
			}
			w.mu.Lock()
			w.gets++
			w.mu.Unlock()
		}
	}
}

// follow starts a follower of all events at each node.
func (w *world) follow() {
	for i := range w.urls {
		f := &follower{done: make(chan error, 1)}
		f.Follower = &harness.Follower{
			ID: "follower", URLs: w.rotated(i), Target: map[string]any{"category": "counter"},
			Each: func(harness.Frame) { f.seen.Add(1) },
		}
		w.followers = append(w.followers, f)
		w.clients.Go(func() { f.done <- f.Follow(w.ctx, nil) })
	}
}

// end stops the clients.
func (w *world) end() {
	w.stop()
	w.clients.Wait()
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// patience bounds each wait of a test.
const patience = 3 * time.Minute

// more waits until n more commands are acknowledged.
func (w *world) more(n int) {
	w.Helper()
	want := w.count() + n
	w.eventually("more commands are acknowledged", func() bool { return w.count() >= want })
}

func (w *world) eventually(what string, holds func() bool) {
	w.Helper()
	for began := time.Now(); !holds(); time.Sleep(10 * time.Millisecond) {
		if w.Failed() || time.Since(began) > patience {
			w.Fatalf("it never happens that %s", what)
		}
	}
}

// bounded calls do with a context that ends after patience.
func (w *world) bounded(do func(ctx context.Context) error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.must(do(ctx))
}

// primary waits for a primary other than the given one, which may be nil.
func (w *world) primary(other *patronitest.Machine) (primary *patronitest.Machine) {
	w.Helper()
	w.bounded(func(ctx context.Context) (err error) {
		primary, err = w.patroni.AwaitPrimary(ctx, other)
		if err == nil && other != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.Logf("%s is the primary, %.1f s after the last acknowledgement", primary.Name, time.Since(w.last).Seconds())
		}
		return err
	})
	return primary
}

// synchronous waits for a synchronous standby.
func (w *world) synchronous() (standby *patronitest.Machine) {
	w.Helper()
	w.eventually("the cluster has a synchronous standby", func() bool {
		standby = w.patroni.Synchronous(w.ctx)
		return standby != nil
	})
	return standby
}

// check reads the events that the log has got since the last check. Each command that
// was acknowledged must be there once, at its version.
func (w *world) check() {
	w.Helper()
	w.mu.Lock()
	acked := w.acked
	w.mu.Unlock()
	missing := w.missing(acked)
	if len(missing) > 0 {
		w.Errorf("%d acknowledged commands are not in the log, such as %v", len(missing), missing[0])
	}
}

// missing returns acknowledged commands that are not in the log.
func (w *world) missing(acked []acknowledged) (missing []acknowledged) {
	w.Helper()
	store := w.open()
	defer store.Close()
	for {
		page, err := store.Read(w.Context(), w.read, 1000)
		w.must(err)
		for _, c := range page {
			name := c.Stream.String() + " " + c.Key
			if w.log[name] != 0 {
				w.Errorf("the log has %s twice, at the versions %d and %d", name, w.log[name], c.Version)
			}
			w.log[name], w.read = uint64(c.Version), c.Position
		}
		if len(page) == 0 {
			break
		}
	}
	for _, a := range acked {
		switch version := w.log[a.stream+" "+a.key]; version {
		case a.version:
		case 0:
			missing = append(missing, a)
		default:
			w.Errorf("command %s to %s was acknowledged at version %d, but has %d", a.key, a.stream, a.version, version)
		}
	}
	return missing
}

// open opens the log.
func (w *world) open() (store *postgres.Store) {
	w.Helper()
	w.eventually("the log can be opened", func() (open bool) {
		var err error
		store, err = postgres.Open(w.Context(), postgres.Config{URL: w.store})
		if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
			w.Fatal(err)
		}
		return err == nil
	})
	return store
}

// finish stops the writers and checks that every follower has every event once. The
// followers themselves check order and gaps.
func (w *world) finish() {
	w.Helper()
	w.check()
	store := w.open()
	defer store.Close()
	w.eventually("every follower has every event", func() bool {
		head, err := store.Head(w.Context())
		w.must(err)
		for i, f := range w.followers {
			select {
			case err := <-f.done:
				w.Fatalf("follower %d ended: %v", i+1, err)
			default:
			}
			if f.seen.Load() < int64(head) {
				return false
			}
		}
		return true
	})
	w.end()
	for i, f := range w.followers {
		if err := <-f.done; err != nil {
			w.Errorf("follower %d: %v", i+1, err)
		}
	}
	w.check()
	for i, n := range w.nodes {
		if !n.Running() {
			w.Errorf("node %d has ended", i+1)
		}
	}
	out, err := exec.CommandContext(w.Context(), binary, "verify", "--store", w.store).CombinedOutput()
	if err != nil {
		w.Errorf("verify: %v\n%s", err, out)
	}
	w.Logf("%d commands were acknowledged, %d strong gets were answered; verify: %s", w.count(), w.gets, out)
}
