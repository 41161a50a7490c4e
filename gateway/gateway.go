// Package gateway is what clients meet: WebSocket sessions that speak
// ganglion.v1, and the same over HTTP.
//
// A gateway keeps nothing that a client would miss. Commands go to the router,
// which finds the owner; events come from the feed, dense and in order, and
// from the log. A subscription gets each matching event exactly once and in
// order: it reads the log up to some position, and what comes after that live.
// Cursors are positions, so that a client may resume at any gateway.
//
// No session slows another, nor the feed: Deliver puts events, each encoded
// once, into a window that all sessions share, and says which topics have
// something new. Sessions are dealt out to shards, each with one goroutine that
// writes to them in turns and never blocks; only a full socket gets a goroutine
// of its own. Events don't queue per session: a subscription's cursor says what
// comes next, and is moved when the socket takes it. A session that takes less
// than it should get falls behind the window and is demoted: it reads the log at
// the pace of its socket until it has caught up, without a gap and without a
// repeat. Answers to a client are never dropped; instead the gateway stops
// reading from a client that does not take its answers, and asks for states
// only when there is room for them. If too much waits for all sockets together,
// the sessions with the most bytes are closed, and new ones are still admitted.
//
// Locks, in this order: session.mu, then pages.mu or shard.mu, then hub.mu.
// Others, such as Gateway.mu, are not held while another lock is taken.
//
// When the store can't be read, catching up waits and what is live goes on.
// When an event can't be shown, because this node is older than the event's
// form, the subscription ends with its cursor (unsubscribed, unavailable) and
// others go on. When the node loses its way, Suspend closes all sessions with
// a code that tells them to come back at once, to another gateway.
package gateway

import (
	"container/list"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Gateway serves clients. Its methods are safe for concurrent use, except
// that Deliver is called by one goroutine.
type Gateway struct {
	cfg      Config
	guard    *guard
	hub      *hub
	handler  http.Handler
	pages    *pages
	locating singleflight.Group // starts of subscriptions in the log

	needsClient bool         // an anonymous client may do nothing here
	reads       places       // for concurrent reads of the log
	gets        clientPlaces // for concurrent reads of states
	rates       buckets      // of commands over HTTP
	stats       counters
	queued      atomic.Int64    // bytes that wait for sockets
	full        atomic.Int64    // sessions whose socket is full
	ctx         context.Context // ends when all sessions have
	cancel      context.CancelFunc
	tasks       sync.WaitGroup // sessions

	overload  chan struct{} // signalled when more waits for sockets than may
	rejecting atomic.Int64  // sessions that are being closed as too many

	warnings struct{ origin, upgrade rate.Sometimes } // clients provoke them

	mu        sync.Mutex
	sessions  map[*session]struct{}
	greetings list.List      // of *session: those that have not said hello, the oldest in front
	anonymous list.List      // of *session: those that said hello without a client id
	known     int            // sessions with a client id
	clients   map[string]int // those by client id
	requests  map[string]int // HTTP requests in progress by client id
	responses map[*response]struct{}
	idle      chan struct{} // closed while there are no sessions
	started   bool
	suspended bool
	draining  bool
	stopped   bool
}

type counters struct {
	sessions, handshakes, commands, delivered, demotions, pages, revoked atomic.Uint64

	limited [limits]atomic.Uint64
}

// Stats counts what a gateway has done since it started.
type Stats struct {
	Sessions  int    // open now
	Anonymous int    // of those, that said hello without a client id
	Full      int    // of those, with a full socket
	Accepted  uint64 // sessions
	Commands  uint64 // sent to the router
	Delivered uint64 // event frames written to sockets
	Outbound  int    // bytes that wait for sockets
	Rejecting int    // sessions that are being closed since there were too many
	Demotions uint64 // sessions that could not keep up
	PageReads uint64 // reads of the log for subscriptions
	Revoked   uint64 // sessions closed since their token was revoked
	Head      eventstore.Position

	// Limited counts how often each of the Limits said no, by its name, such
	// as frame_bytes.
	Limited map[string]uint64
}

// warnEvery bounds how often the log has one kind of warning that clients
// provoke.
const warnEvery = time.Minute

// New returns a gateway, which refuses sessions until Start.
func New(cfg Config) (*Gateway, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	_, trusting := cfg.Auth.(development)
	application := &guard{log: cfg.Logger}
	cfg.guardApplication(application)
	g := &Gateway{
		cfg:      cfg,
		guard:    application,
		reads:    places{free: cfg.PageReads},
		gets:     clientPlaces{each: cfg.Limits.OpenRequests, clients: make(map[string]*sharedPlaces)},
		rates:    buckets{perSecond: cfg.Limits.CommandsPerSecond, byClient: make(map[string]*bucket)},
		sessions: make(map[*session]struct{}),
		clients:  make(map[string]int),
		requests: make(map[string]int), responses: make(map[*response]struct{}),
		overload: make(chan struct{}, 1),
		idle:     make(chan struct{}),
	}
	for _, w := range []*rate.Sometimes{&g.warnings.origin, &g.warnings.upgrade} {
		w.Interval = warnEvery
	}
	close(g.idle)
	g.needsClient = !trusting && !cfg.Catalog.AllowsAnonymous()
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.hub = &hub{encode: g.encode, window: newWindow(cfg.WindowEvents, cfg.WindowBytes)}
	for range runtime.GOMAXPROCS(0) {
		g.hub.shards = append(g.hub.shards, newShard(g))
	}
	g.pages = newPages(g)
	g.handler = g.newHandler()
	return g, nil
}

// stopGrace is how long a stopping gateway waits for its clients to take the
// close frame.
const stopGrace = 2 * time.Second

// Run serves until ctx ends; then it closes all sessions with 1001 and returns
// when they have ended. Drain before that to part on better terms.
func (g *Gateway) Run(ctx context.Context) error {
	var shards sync.WaitGroup
	for _, sh := range g.hub.shards {
		shards.Go(sh.run)
	}
	shards.Go(func() { g.watchDebts(ctx) })
	g.watchRevoked(ctx)
	<-ctx.Done()
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	for _, s := range g.all() {
		s.closeAfter(frame.CloseGoingAway, "the node stops")
	}
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	_ = g.wait(grace) // whoever did not take the close frame has lost nothing
	g.tasks.Wait()
	g.cancel()
	g.pages.stop()
	for _, sh := range g.hub.shards {
		sh.stop()
	}
	shards.Wait()
	return nil
}

// nextShard deals sessions out.
func (g *Gateway) nextShard() *shard {
	return g.hub.shards[g.stats.handshakes.Add(1)%uint64(len(g.hub.shards))]
}

// wait waits until all sessions have ended. When ctx ends, the rest are ended
// without ceremony.
func (g *Gateway) wait(ctx context.Context) error {
	g.mu.Lock()
	idle := g.idle // nobody new is admitted, so that this is the last one
	g.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		for _, s := range g.all() {
			s.end()
		}
		<-idle
		return context.Cause(ctx)
	}
}

func (g *Gateway) all() []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]*session, 0, len(g.sessions))
	for s := range g.sessions {
		all = append(all, s)
	}
	return all
}

var (
	errStops  = errors.New("the node stops")
	errDrains = errors.New("the node is draining")
)

// errRefused says why new sessions are not taken, or nil.
func (g *Gateway) errRefused() error {
	switch {
	case g.stopped:
		return errStops
	case g.draining:
		return errDrains
	case g.suspended:
		return errors.New("the node lost its way to the cluster or to the log")
	case !g.started:
		return errors.New("the node is starting")
	}
	return nil
}

// Deliver takes committed events in, dense and in order, from one goroutine.
// It never blocks on a session. Should there be a hole all the same, the
// sessions are closed with 4200: they resume from the log.
func (g *Gateway) Deliver(commits []eventstore.Commit) {
	if dense := g.hub.deliver(commits); !dense {
		g.cfg.Logger.Error("the feed delivered events with a hole between them; sessions resume from the log", "position", g.hub.position())
		for _, s := range g.all() {
			s.closeAfter(frame.CloseLost, "this gateway missed events")
		}
	}
}

// Refusing says why the gateway takes no new sessions, nil if it does.
func (g *Gateway) Refusing() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.errRefused()
}

// Begin begins live delivery after head: what Deliver brings next follows it.
// The gateway takes sessions in from then on. It is called again, between two
// calls of Deliver, when the log went back and live delivery begins again:
// sessions that are still open are closed with 4200 first.
func (g *Gateway) Begin(head eventstore.Position) {
	g.mu.Lock()
	g.started = false
	g.mu.Unlock()
	for _, s := range g.all() {
		s.closeAfter(frame.CloseLost, "the log went back: reconnect")
	}
	g.hub.reset(head)
	g.pages.clear()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.started = true
}

// Suspend closes all sessions with a code, such as 4200, and refuses new ones
// until Resume.
func (g *Gateway) Suspend(code int, reason string) {
	g.mu.Lock()
	g.suspended = true
	g.mu.Unlock()
	g.cfg.Logger.Warn("sessions are closed", "code", code, "reason", reason)
	for _, s := range g.all() {
		s.closeAfter(code, reason)
	}
}

// Resume takes sessions in again.
func (g *Gateway) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspended = false
}

// Stats returns what the gateway has done.
func (g *Gateway) Stats() Stats {
	g.mu.Lock()
	open, anonymous := len(g.sessions), g.anonymous.Len()
	g.mu.Unlock()
	limited := make(map[string]uint64, limits)
	for l, name := range limitNames {
		limited[name] = g.stats.limited[l].Load()
	}
	return Stats{
		Sessions: open, Anonymous: anonymous, Full: int(g.full.Load()), Outbound: int(g.queued.Load()), Rejecting: int(g.rejecting.Load()), Accepted: g.stats.sessions.Load(), Commands: g.stats.commands.Load(),
		Delivered: g.stats.delivered.Load(), Demotions: g.stats.demotions.Load(), PageReads: g.stats.pages.Load(), Revoked: g.stats.revoked.Load(),
		Head: g.hub.position(), Limited: limited,
	}
}

// newID returns a UUIDv7 (RFC 9562): its time-ordered head is kind to an
// index, its 74 random bits keep it apart from others.
func newID() string {
	var b [16]byte
	ms := uint64(time.Now().UnixMilli())
	hi, lo := ms<<16|0x7000|rand.Uint64()&0x0fff, rand.Uint64()&(1<<62-1)|1<<63
	for i := range 8 {
		b[i], b[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
	}
	const hex = "0123456789abcdef"
	out := make([]byte, 0, 36)
	for i, c := range b {
		if slices.Contains([]int{4, 6, 8, 10}, i) {
			out = append(out, '-')
		}
		out = append(out, hex[c>>4], hex[c&15])
	}
	return string(out)
}
