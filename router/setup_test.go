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

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal stands where the event store stands: it gives a key one effect and
// one answer, whichever node executes it.
type journal struct {
	mu      sync.Mutex
	known   map[string]command.Result
	entries map[eventstore.StreamID][]entry
	changed broadcast
}

type entry struct {
	node, session, key string
	data               string
	attempt            int
}

func newJournal() *journal {
	return &journal{known: make(map[string]command.Result), entries: make(map[eventstore.StreamID][]entry)}
}

func (j *journal) execute(node string, c command.Command) command.Result {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := c.Stream.String() + " " + c.Key
	if res, ok := j.known[id]; ok {
		res.Replayed = true
		return res
	}
	j.entries[c.Stream] = append(j.entries[c.Stream], entry{node, c.Session, c.Key, string(c.Data), c.Attempt})
	res := command.Result{Key: c.Key, Version: eventstore.Version(len(j.entries[c.Stream])), Position: eventstore.Position(len(j.entries[c.Stream])), Data: c.Data}
	j.known[id] = res
	j.changed.send()
	return res
}

func (j *journal) of(s eventstore.StreamID) []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries[s])
}

// executor executes commands one after another, on one goroutine.
type executor struct {
	node    string
	journal *journal

	mu      sync.Mutex
	queue   []job
	wake    chan struct{}
	reach   broadcast                                // something was submitted
	got     int                                      // commands submitted
	refuse  func(c command.Command) *command.Failure // at once, in Submit
	hold    chan struct{}                            // nil, or closed when commands may be executed
	instead func(c command.Command) *command.Failure // when its turn comes
}

type job struct {
	c     command.Command
	reply func(command.Outcome)
}

func (e *executor) Submit(c command.Command, reply func(command.Outcome)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got++
	e.reach.send()
	if e.refuse != nil {
		if f := e.refuse(c); f != nil {
			e.mu.Unlock()
			reply(command.Failed(f))
			e.mu.Lock()
			return
		}
	}
	e.queue = append(e.queue, job{c, reply})
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *executor) Get(ctx context.Context, g command.Get) (command.State, error) {
	e.mu.Lock()
	hold := e.hold
	e.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return command.State{}, &command.Failure{Code: command.Timeout, Retry: command.RetryLater}
		}
	}
	n := len(e.journal.of(g.Stream))
	return command.State{Version: eventstore.Version(n), Data: json.RawMessage(fmt.Sprintf(`{"value":%d,"node":%q}`, n, e.node))}, nil
}

func (e *executor) run(ctx context.Context) {
	for {
		e.mu.Lock()
		hold, instead := e.hold, e.instead
		var j job
		if len(e.queue) > 0 {
			j = e.queue[0]
		}
		e.mu.Unlock()
		if j.reply == nil {
			select {
			case <-ctx.Done():
				return
			case <-e.wake:
			}
			continue
		}
		if hold != nil {
			select {
			case <-ctx.Done():
				return
			case <-hold:
			}
		}
		e.mu.Lock()
		e.queue = e.queue[1:]
		e.mu.Unlock()
		f := j.c.Lane.Refusal()
		if f == nil && instead != nil {
			f = instead(j.c)
		}
		if f != nil {
			j.reply(command.Failed(f))
			continue
		}
		j.reply(command.Outcome{Result: e.journal.execute(e.node, j.c)})
	}
}

func (e *executor) set(change func(*executor)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

// submitted is how many commands were submitted.
func (e *executor) submitted() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got
}

// waitSubmitted waits until n commands were submitted.
func (e *executor) waitSubmitted(t testing.TB, n int) {
	t.Helper()
	e.waitFor(t, func() bool { return e.got >= n })
}

// waitMost bounds each wait for something that ought to happen soon.
const waitMost = 2 * time.Minute

func (e *executor) waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	late := time.After(waitMost)
	for {
		reach := e.reach.wait()
		e.mu.Lock()
		done := ok()
		e.mu.Unlock()
		if done {
			return
		}
		select {
		case <-reach:
		case <-late:
			t.Fatalf("after %v the executor of node %s was given %d commands, and waits for more", waitMost, e.node, e.submitted())
		}
	}
}

// world is a cluster in one process: real routers, links and sockets, and
// views that the test sets.
type world struct {
	t       testing.TB
	journal *journal
	nodes   map[string]*node

	mu    sync.Mutex
	view  *cluster.View
	views map[string]*cluster.View // of nodes that see another one
	news  broadcast
}

type node struct {
	id       string
	world    *world
	router   *Router
	executor *executor
	server   *grpc.Server
	pool     *link.Pool
	proxy    *proxy
	stop     func() // kill -9, as far as a process can do it to a part of itself
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

// line returns the first line that says all of says, or nothing.
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

// suspicious nodes give up a silent link as soon as real ones do.
func suspicious(c *Config) {
	c.Suspect = 0
	if os.Getenv("CI") != "" {
		c.Suspect = 3 * time.Second
	}
}

// newWorld starts domain nodes, and gateways (ids that begin with "g").
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
	peer.UnimplementedPeerServer
	router *Router
}

func (s peerServer) Commands(stream peer.Peer_CommandsServer) error { return s.router.Commands(stream) }

func (w *world) start(id string, opts ...option) *node {
	w.t.Helper()
	n := &node{id: id, world: w}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	n.proxy = newProxy(w.t, listener.Addr().String())
	n.pool = link.NewPool(link.PoolConfig{})
	cfg := Config{
		Suspect: 5 * time.Second,  // no false alarm on a busy machine
		Search:  30 * time.Second, // which takes its time to dial as well
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
	n.server = link.NewServer(link.ServerConfig{})
	peer.RegisterPeerServer(n.server, peerServer{router: n.router})
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

// setReady makes exactly these nodes the members, all ready.
func (w *world) setReady(ids ...string) {
	v := w.viewOf(ids...)
	w.mu.Lock()
	w.view = v
	w.mu.Unlock()
	w.news.send()
}

// setSight makes one node see these members, whatever the others see.
func (w *world) setSight(node string, ids ...string) {
	v := w.viewOf(ids...)
	w.mu.Lock()
	w.views[node] = v
	w.mu.Unlock()
	w.news.send()
	n := w.nodes[node]
	n.waitFor("its own view", func() bool { return slices.Equal(n.router.Ring().Members(), v.Owners()) })
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

// waitFor waits for something that changes with the router's view of things.
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
			n.world.t.Fatalf("node %s waited %v in vain for %s", n.id, waitMost, what)
		}
	}
}

// streamOf returns a stream that the owner owns and, if next is not empty,
// that next would own without it.
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

// send sends a command and returns where its answer will be.
func (n *node) send(c command.Command) <-chan command.Outcome {
	answer := make(chan command.Outcome, 2) // a second one would be a fault that the test can see
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

// proxy stands in front of a node's server, and can be frozen and cut.
type proxy struct {
	addr     string
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	thaw   chan struct{} // nil: forwarding
	closed bool
}

func newProxy(t testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target, listener: l, conns: make(map[net.Conn]struct{})}
	p.running.Go(p.accept)
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		if p.closed {
			in.Close()
			out.Close()
		}
		p.conns[in], p.conns[out] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.running.Go(func() { p.forward(in, out) })
		p.running.Go(func() { p.forward(out, in) })
	}
}

func (p *proxy) forward(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		thaw := p.thaw
		p.mu.Unlock()
		if thaw != nil {
			<-thaw
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// freeze stops forwarding, in both directions, without closing anything.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.thaw == nil {
		p.thaw = make(chan struct{})
	}
}

func (p *proxy) unfreeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.thaw != nil {
		close(p.thaw)
		p.thaw = nil
	}
}

// cut closes every connection; new ones are accepted.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
	clear(p.conns)
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	p.unfreeze()
	p.cut()
	p.running.Wait()
}
