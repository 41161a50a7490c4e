// Package gateway serves clients: WebSocket sessions that speak ganglion.v1,
// and the same over HTTP.
//
// A gateway has no state that a client would miss. Commands go to the router,
// which finds the owner. Events come from the feed, dense and in order, and
// from the log. A subscription gets each matching event exactly once and in
// order: it reads events from the log up to some position, and later events
// live. Cursors are positions, so a client can resume at any gateway.
//
// No session slows another session or the feed: Deliver puts events, each
// encoded once, into a window that all sessions share, and wakes the audiences
// of their topics. Sessions are spread over shards, each with one goroutine that
// writes to them in turns and never blocks; only a full socket gets its own
// goroutine. Events are not queued per session: a subscription's cursor says
// which event comes next, and moves when the socket takes the event. If a client
// reads too slowly, its subscription falls behind the window and is demoted: it
// reads the log at the pace of the socket until it has caught up, without gaps
// or repeats. Replies are never dropped. Instead the gateway stops reading from
// a client that does not read its replies, and asks for states only when the
// session's outbox has room. If all outbound buffers together exceed their
// limit, the sessions with the most bytes are closed, and new ones are still
// admitted.
//
// If the store can't be read, subscriptions that are behind wait, and live
// delivery continues. If an event can't be shown, because this node's software
// is older than the event's form, the subscription ends with its cursor
// (unsubscribed, unavailable) and others continue. If the node loses the cluster
// or the log, Suspend closes all sessions with a code that tells clients to
// reconnect immediately, to another gateway.
//
// The parts are in internal/: [session] serves one client and states the order
// of all locks, [hub] wakes sessions, [history] reads events, [outbox] writes,
// [wire] encodes, [questions] asks queries, [consumer] delivers to members of consumer groups, [socket] wraps the connection, [access] decides what a client
// may do, [limits] bounds the resources that it uses.
//
// [session]: github.com/ganglion-es/ganglion/gateway/internal/session
// [hub]: github.com/ganglion-es/ganglion/gateway/internal/hub
// [history]: github.com/ganglion-es/ganglion/gateway/internal/history
// [outbox]: github.com/ganglion-es/ganglion/gateway/internal/outbox
// [wire]: github.com/ganglion-es/ganglion/gateway/internal/wire
// [questions]: github.com/ganglion-es/ganglion/gateway/internal/questions
// [consumer]: github.com/ganglion-es/ganglion/gateway/internal/consumer
// [socket]: github.com/ganglion-es/ganglion/gateway/internal/socket
// [access]: github.com/ganglion-es/ganglion/gateway/internal/access
// [limits]: github.com/ganglion-es/ganglion/gateway/internal/limits
package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/consumer"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/questions"
	"github.com/ganglion-es/ganglion/gateway/internal/session"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/stomp"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/time/rate"
)

// Limits bound the resources that clients use in a gateway. Each field says what
// happens past the limit, and [Stats] counts how often that happened.
type Limits = limits.Limits

// Gateway serves clients. Its methods are safe for concurrent use, except
// that Deliver is called by one goroutine.
type Gateway struct {
	cfg       Config
	stomp     stomp.Config
	hub       *hub.Hub
	log       *history.Log
	shared    *history.SharedStates
	gate      *access.Gate
	server    *session.Server // shared by all sessions
	roster    *roster
	responses *responses
	pollers   *pollers
	rates     *limits.Buckets // of commands over HTTP
	handler   http.Handler
	stopReads context.CancelFunc

	warnings struct{ origin, upgrade rate.Sometimes } // that clients can cause
}

// Stats are the current state of a gateway and its counters since it started.
type Stats struct {
	Sessions   int    // open sessions
	Anonymous  int    // open sessions that said hello without a client id
	Full       int    // open sessions with a full socket
	Accepted   uint64 // sessions
	Commands   uint64 // sent to the router
	Delivered  uint64 // event frames written to sockets
	Outbound   int    // bytes in outbound buffers
	Rejecting  int    // sessions that are being closed because there are too many
	Demotions  uint64 // subscriptions that fell behind the window
	PageReads  uint64 // reads of the log for subscriptions
	StateReads uint64 // requests to owners for subscriptions with states
	Revoked    uint64 // sessions closed because their token was revoked
	Following  int    // live queries
	Consumers  int    // members of consumer groups
	Head       eventstore.Position

	// Limited counts how often each of the [Limits] was reached, by its name,
	// such as frame_bytes.
	Limited map[string]uint64
}

// warnEvery is the least time between two log lines with the same warning, if
// clients can cause it.
const warnEvery = time.Minute

// New returns a gateway. It refuses sessions until Begin, and serves them while
// Run runs.
func New(cfg Config) (*Gateway, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	isDevelopment := access.IsDevelopment(cfg.Auth)
	guard := access.NewGuard(cfg.Logger)
	cfg.Catalog, cfg.Auth = guard.Catalog(cfg.Catalog), guard.Auth(cfg.Auth)

	counters := &limits.Counters{}
	g := &Gateway{cfg: cfg, rates: limits.NewBuckets(cfg.Limits.CommandsPerSecond)}
	g.stomp = stomp.Config{Server: "ganglion/" + cfg.Version, HasType: cfg.Catalog.HasType, TrustsLogin: isDevelopment, Heartbeat: cfg.Heartbeat}
	g.warnings.origin.Interval, g.warnings.upgrade.Interval = warnEvery, warnEvery
	g.gate = &access.Gate{
		Catalog: cfg.Catalog, Guard: guard, Counters: counters, Logger: cfg.Logger, Node: cfg.Node,
		PerSecond: cfg.Limits.CommandsPerSecond, NeedsClient: !isDevelopment && !cfg.Catalog.AllowsAnonymous(),
	}
	out := &outbox.Shared{Budget: limits.NewBudget(cfg.Limits.OutboundBytes, counters, cfg.Logger), QueueBytes: cfg.QueueBytes}
	g.responses = &responses{
		limits: &g.cfg.Limits, counters: counters, budget: out.Budget, grace: cfg.ReadGrace,
		byClient: make(map[string]int), open: make(map[*response]struct{}),
	}
	g.roster = newRoster(&g.cfg.Limits, counters)
	g.hub = hub.New(hub.Config{
		Encode: encode(cfg.Catalog), Window: history.NewWindow(cfg.WindowEvents, cfg.WindowBytes), MessageLimit: out.MessageLimit,
	})
	states := &history.States{Read: cfg.Router.Get, Places: limits.NewClientPlaces(cfg.Limits.OpenRequests), Counters: counters}
	asker := &questions.Asker{Queries: cfg.Queries, Places: states.Places, Counters: counters, Most: cfg.Limits.Queries}
	ctx, cancel := context.WithCancel(context.Background())
	g.stopReads = cancel
	g.log = history.NewLog(ctx, history.Config{
		Store: cfg.Store, Live: g.hub, Encode: encode(cfg.Catalog), States: states,
		PageCommits: cfg.PageCommits, Reads: cfg.PageReads, Counters: counters, Logger: cfg.Logger,
	})
	g.shared = history.NewSharedStates(ctx, cfg.Router.Get, cfg.Logger)
	consumers := &consumer.Gateway{Groups: cfg.Groups, Hub: g.hub, Log: g.log, Unshown: g.gate.Unshown, Guard: guard.Call, Logger: cfg.Logger}
	g.pollers = newPollers(consumers, &g.cfg.Limits, counters)
	g.server = &session.Server{
		Node: cfg.Node, Version: cfg.Version, Heartbeat: cfg.Heartbeat, Limits: cfg.Limits, Counters: counters, Logger: cfg.Logger,
		Socket: socket.Options{Grace: cfg.ReadGrace, SendBuffer: cfg.SendBuffer},
		Auth:   cfg.Auth, Gate: g.gate, Send: cfg.Router.Send, Asker: asker, Consumers: consumers, Log: g.log, States: states, Shared: g.shared, Hub: g.hub, Out: out, Roster: g.roster,
	}
	g.handler = g.newHandler()
	return g, nil
}

// stopGrace is how long a stopping gateway waits for its clients to take the
// close frame.
const stopGrace = 2 * time.Second

// Run serves until ctx ends. Then it closes all sessions with 1001 and returns
// when they have ended. Call Drain first, so that clients get the replies to
// their open requests.
func (g *Gateway) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(g.hub.Run)
	running.Go(func() { g.server.Out.Budget.Run(ctx, g.holders) })
	g.closeRevoked(ctx)
	<-ctx.Done()
	g.roster.setState(func(s *rosterState) { s.isStopped = true })
	g.roster.closeAll(frame.CloseGoingAway, "the node is stopping")
	g.pollers.endAll(command.Unavailable("the node is stopping: call another gateway"))
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	_ = g.roster.wait(grace) // a client that does not get its close frame loses nothing else
	g.roster.serving.Wait()
	g.server.Consumers.Wait()
	g.stopReads()
	g.log.Pages().Stop()
	g.shared.Stop()
	g.hub.Stop()
	running.Wait()
	return nil
}

// holders returns all connections with outbound buffers.
func (g *Gateway) holders() []limits.Holder {
	var all []limits.Holder
	for _, s := range g.roster.all() {
		all = append(all, s)
	}
	return g.responses.appendTo(all)
}

// Deliver delivers committed events, dense and in order. One goroutine calls it.
// It never blocks on a session. If events are missing, it closes all sessions
// with 4200, and their clients resume from the log.
func (g *Gateway) Deliver(commits []eventstore.Commit) {
	if isDense := g.hub.Deliver(commits); !isDense {
		g.cfg.Logger.Error("the feed skipped events; sessions resume from the log", "position", g.hub.Head())
		g.roster.closeAll(frame.CloseLost, "this gateway missed events")
		g.pollers.endAll(command.Unavailable("this gateway missed events: call again"))
	}
}

// Refusing returns the reason if the gateway admits no new sessions, else nil.
func (g *Gateway) Refusing() error { return g.roster.refusing() }

// Begin begins live delivery after head: the events of the next Deliver follow
// it. The gateway then admits sessions. If the log went back, call Begin again,
// between two calls of Deliver. It closes the open sessions with 4200.
func (g *Gateway) Begin(head eventstore.Position) {
	g.roster.setState(func(s *rosterState) { s.isStarted = false })
	g.roster.closeAll(frame.CloseLost, "the log went back: reconnect")
	g.pollers.endAll(command.Unavailable("the log went back: call again"))
	g.hub.Reset(head)
	g.log.Pages().Clear()
	g.shared.Clear()
	g.roster.setState(func(s *rosterState) { s.isStarted = true })
}

// Suspend closes all sessions with a code, such as 4200, and refuses new ones
// until Resume.
func (g *Gateway) Suspend(code int, reason string) {
	g.roster.setState(func(s *rosterState) { s.isSuspended = true })
	g.cfg.Logger.Warn("closing all sessions", "code", code, "reason", reason)
	g.roster.closeAll(code, reason)
	g.pollers.endAll(command.Unavailable("the node has lost the cluster or the log: call another gateway"))
}

// Resume admits sessions again.
func (g *Gateway) Resume() {
	g.roster.setState(func(s *rosterState) { s.isSuspended = false })
}

// Stats returns the gateway's current state and counters.
func (g *Gateway) Stats() Stats {
	open, anonymous := g.roster.counts()
	out := g.server.Out
	return Stats{
		Sessions: open, Anonymous: anonymous, Full: out.Full(), Outbound: out.Budget.Used(), Rejecting: int(g.roster.rejecting.Load()),
		Accepted: g.roster.admitted.Load(), Commands: g.gate.Admitted(), Delivered: out.Delivered(),
		Demotions: g.server.Demotions.Load(), PageReads: g.log.PageReads(), StateReads: g.shared.Reads(), Revoked: g.server.Revoked.Load(),
		Following: g.server.Asker.Following(), Consumers: g.server.Consumers.Members(),
		Head: g.hub.Head(), Limited: g.server.Counters.ByName(),
	}
}
