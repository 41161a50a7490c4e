package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/router/transport"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// world is a cluster in one process: real routers, links and sockets, and
// views that the test sets.
type world struct {
	t       testing.TB
	journal *journal
	nodes   map[string]*node

	mu    sync.Mutex
	view  *cluster.View
	views map[string]*cluster.View // of nodes with a view of their own
	news  broadcast
}

type node struct {
	id       string
	world    *world
	router   *Router
	executor *executor
	server   *transport.Server
	pool     *transport.Pool
	proxy    *proxy
	stop     func() // like kill -9, as closely as one process allows
}

// logged collects log lines. It is safe for concurrent use.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// line returns the first line that contains all of says, or "".
func (l *logged) line(says ...string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if !slices.ContainsFunc(says, func(s string) bool { return !strings.Contains(line, s) }) {
			return line
		}
	}
	return ""
}

type option func(*Config)

// suspicious makes a node abandon a silent link after the same time as a real
// node, or after 3 seconds on a busy test machine.
func suspicious(c *Config) {
	c.Suspect = 0
	if os.Getenv("CI") != "" {
		c.Suspect = 3 * time.Second
	}
}

// newWorld starts nodes. An id that begins with "g" is a gateway's, another one a
// domain node's.
func newWorld(t testing.TB, ids []string, opts ...option) *world {
	w := &world{t: t, journal: newJournal(), nodes: make(map[string]*node)}
	w.view, w.views = &cluster.View{}, make(map[string]*cluster.View)
	for _, id := range ids {
		w.start(id, opts...)
	}
	w.setReady(ids...)
	for _, n := range w.nodes {
		n.waitLinks()
	}
	return w
}

type peerServer struct {
	transport.UnimplementedPeer
	router *Router
}

func (s peerServer) Commands(stream transport.CommandsServer) error { return s.router.Commands(stream) }

func (w *world) start(id string, opts ...option) *node {
	w.t.Helper()
	n := &node{id: id, world: w}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	n.proxy = newProxy(w.t, listener.Addr().String())
	n.pool = transport.NewPool(transport.PoolConfig{})
	cfg := Config{
		Suspect: 5 * time.Second,  // no false suspicion on a busy machine
		Search:  30 * time.Second, // a busy machine also dials slowly
		Self:    id, Pool: n.pool, Watch: func(ctx context.Context) <-chan *cluster.View { return w.watch(ctx, id) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	if !strings.HasPrefix(id, "g") {
		n.executor = &executor{node: id, journal: w.journal, wake: make(chan struct{}, 1)}
		cfg.Executor = n.executor
		running.Go(func() { n.executor.run(ctx) })
	}
	for _, o := range opts {
		o(&cfg)
	}
	if n.router, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	n.server = transport.NewServer(transport.ServerConfig{})
	transport.Register(n.server, peerServer{router: n.router})
	running.Go(func() { _ = n.server.Serve(listener) })
	running.Go(func() { _ = n.router.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		n.proxy.close()
		cancel()
		n.server.Stop()
		running.Wait()
		n.pool.Close()
	})
	w.t.Cleanup(n.stop)
	w.nodes[id] = n
	return n
}

// setReady makes these nodes the only members, all ready.
func (w *world) setReady(ids ...string) {
	v := w.viewOf(ids...)
	w.mu.Lock()
	w.view = v
	w.mu.Unlock()
	w.news.send()
}

// setSight gives one node a view with these members.
func (w *world) setSight(node string, ids ...string) {
	v := w.viewOf(ids...)
	w.mu.Lock()
	w.views[node] = v
	w.mu.Unlock()
	w.news.send()
	w.nodes[node].waitRing(v.Owners()...)
}

// waitRing waits until the node's ring has these members.
func (n *node) waitRing(members ...string) {
	n.world.t.Helper()
	n.waitFor("its view", func() bool { return slices.Equal(n.router.Ring().Members(), members) })
}

func (w *world) viewOf(ids ...string) *cluster.View {
	v := &cluster.View{}
	for _, id := range slices.Sorted(slices.Values(ids)) {
		v.Members = append(v.Members, cluster.Member{
			ID: id, Domain: w.nodes[id].executor != nil, Gateway: true, State: cluster.Ready, PeerAddr: w.nodes[id].proxy.addr,
		})
	}
	return v
}

func (w *world) watch(ctx context.Context, id string) <-chan *cluster.View {
	views := make(chan *cluster.View)
	go func() {
		defer close(views)
		var last *cluster.View
		for {
			news := w.news.wait()
			w.mu.Lock()
			v := w.view
			if own := w.views[id]; own != nil {
				v = own
			}
			w.mu.Unlock()
			if v != last {
				select {
				case views <- v:
					last = v
					continue
				case <-ctx.Done():
					return
				}
			}
			select {
			case <-news:
			case <-ctx.Done():
				return
			}
		}
	}()
	return views
}

// waitLinks waits until the node has a link to every other domain node.
func (n *node) waitLinks() {
	n.world.t.Helper()
	want := 0
	for _, o := range n.world.nodes {
		if o.executor != nil && o != n {
			want++
		}
	}
	n.waitFor("its links to be up", func() bool {
		up := 0
		for _, s := range n.router.Links() {
			if s.Up {
				up++
			}
		}
		return up == want
	})
}

// waitFor waits until ok, which it calls after each change that the router
// broadcasts.
func (n *node) waitFor(what string, ok func() bool) {
	n.world.t.Helper()
	late := time.After(waitMost)
	for {
		changed := n.router.changed.wait()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-late:
			n.world.t.Fatalf("node %s waited %v for %s", n.id, waitMost, what)
		}
	}
}

// streamOf returns a stream of owner. If next is not empty, it is the stream's
// owner in the ring without owner.
func (w *world) streamOf(owner, next string, members ...string) eventstore.StreamID {
	w.t.Helper()
	r := ring.New(members)
	for i := range 100000 {
		s := eventstore.StreamID{Type: "counter", ID: fmt.Sprint(i)}
		if o, _ := r.Owner(s); o != owner {
			continue
		}
		if n, _ := r.Without(owner).Owner(s); next == "" || n == next {
			return s
		}
	}
	w.t.Fatalf("no stream of %s then %s", owner, next)
	return eventstore.StreamID{}
}

// send sends a command and returns the channel of its answer.
func (n *node) send(c command.Command) <-chan command.Outcome {
	answer := make(chan command.Outcome, 2) // room for a second one, so that a test can notice it
	if c.Name == "" {
		c.Name = "add"
	}
	if c.Data == nil {
		c.Data = json.RawMessage(`{"by":1}`)
	}
	n.router.Send(c, func(out command.Outcome) { answer <- out })
	return answer
}

func (n *node) do(c command.Command) command.Outcome { return <-n.send(c) }

func mustSucceed(t testing.TB, out command.Outcome) command.Result {
	t.Helper()
	if out.Failure != nil {
		t.Fatalf("the command failed: %v (retry %s)", out.Failure, out.Failure.Retry)
	}
	return out.Result
}

func mustFail(t testing.TB, out command.Outcome, code command.Code, retry command.Retry) {
	t.Helper()
	if out.Failure == nil {
		t.Fatalf("the command succeeded: %+v; want %s", out.Result, code)
	}
	if out.Failure.Code != code || out.Failure.Retry != retry || out.Failure.Elsewhere {
		t.Fatalf("the command failed with %v (retry %s, elsewhere %v); want %s, %s", out.Failure, out.Failure.Retry, out.Failure.Elsewhere, code, retry)
	}
}
