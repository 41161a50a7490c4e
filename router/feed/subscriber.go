package feed

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// SubscriberConfig configures a Subscriber.
type SubscriberConfig struct {
	// Self is this node's id. Required.
	Self string

	// Store is the log. Only Head, Read, Check, LogID and Witness are used.
	// Required.
	Store eventstore.Store

	// Deliver receives the commits, dense and in order: the first begins right
	// after the watermark, and each later one right after its predecessor. One
	// goroutine makes all calls. Deliver owns the slice but must not change the
	// commits. It must not block, and must not call Reset. Required.
	Deliver func([]eventstore.Commit)

	// Begin, if set, is called with the watermark before the first Deliver, and
	// before the first Deliver after a Reset, by the same goroutine. The next
	// commit begins after the watermark. Begin must not block.
	Begin func(w eventstore.Position)

	// Push makes the Subscriber open a stream to every domain member. Without it
	// the Subscriber reads all events from the log, every 50 ms.
	Push bool

	// Watch returns the views of the cluster, the newest immediately, until ctx
	// ends: (*cluster.Cluster).Watch. Required if Push is set.
	Watch func(ctx context.Context) <-chan *cluster.View

	// Open opens a stream to a peer's address, for the subscriber with an id:
	// (*transport.Pool).Feed. Required if Push is set.
	Open func(ctx context.Context, addr, member string) (transport.Receiver[peer.FeedBatch], error)

	// Local is this node's own publisher, read without a connection; nil on a
	// node without the domain role.
	Local *Publisher

	// Silence is how long a healthy stream may be silent. Heartbeats arrive every
	// 100 ms.
	//
	// Defaults to 500 ms.
	Silence time.Duration

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c SubscriberConfig) withDefaults() (SubscriberConfig, error) {
	var errs []error
	require := func(ok bool, problem string) {
		if !ok {
			errs = append(errs, errors.New("feed: "+problem))
		}
	}
	require(c.Self != "", "Self is required")
	require(c.Store != nil, "Store is required")
	require(c.Deliver != nil, "Deliver is required")
	require(!c.Push || c.Watch != nil, "Watch is required with Push")
	require(!c.Push || c.Open != nil, "Open is required with Push")
	require(c.Silence >= 0, "Silence must not be negative")
	if c.Silence == 0 {
		c.Silence = silence
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// Subscriber delivers every event of the log since its start, once and in order.
// The package comment explains how, and states its bounds. It is safe for
// concurrent use.
type Subscriber struct {
	cfg SubscriberConfig

	running  atomic.Bool
	started  chan struct{} // closed when W is known
	ended    chan struct{} // closed when Run has ended
	resets   chan reset
	arrivals chan arrival

	// State that Run's goroutine publishes.
	watermark atomic.Uint64
	known     atomic.Uint64
	parked    atomic.Int64
	behind    atomic.Pointer[time.Time]
	answered  atomic.Pointer[logAnswer] // of the last question to the log
	vanished  atomic.Pointer[time.Time] // when a publisher last left without BYE
	lost      atomic.Pointer[error]
	sources   atomic.Pointer[[]*source]
	counters  counters
}

// reset is a call of Reset, which Run's goroutine executes.
type reset struct {
	log  string
	w    eventstore.Position
	done chan struct{}
}

// NewSubscriber returns a Subscriber, or an error with every problem of the
// configuration.
func NewSubscriber(cfg SubscriberConfig) (*Subscriber, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Subscriber{
		cfg:      cfg,
		started:  make(chan struct{}),
		ended:    make(chan struct{}),
		resets:   make(chan reset),
		arrivals: make(chan arrival, arrivals),
	}, nil
}

// Started returns a channel that is closed once the watermark is known: the head
// of the log when the store first answered. All later events will be delivered.
func (s *Subscriber) Started() <-chan struct{} { return s.started }

// Watermark returns the position of the last delivered event, or the head at the
// start. It is the end of a commit.
func (s *Subscriber) Watermark() eventstore.Position {
	return eventstore.Position(s.watermark.Load())
}

// Behind returns how long the oldest undelivered event has been known to exist,
// to within 100 ms; 0 if the watermark is at the known head. A node that is
// behind for 5 s breaks its promises to clients.
func (s *Subscriber) Behind() time.Duration {
	if since := s.behind.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

// logAnswer is the result of Answered.
type logAnswer struct {
	asked time.Time
	err   error
}

// Answered returns the time at which the log was asked the last question that it
// answered, and the error of the questions after that, if any.
func (s *Subscriber) Answered() (time.Time, error) {
	if a := s.answered.Load(); a != nil {
		return a.asked, a.err
	}
	return time.Time{}, nil
}

// Streaming reports whether the streams alone deliver all commits: at least one
// domain member exists, all have a healthy stream, and the log was asked after a
// member last left without BYE. A member that left so may still commit: perhaps
// only this node cannot reach it.
func (s *Subscriber) Streaming() bool {
	sources := s.sources.Load()
	if sources == nil || len(*sources) == 0 {
		return false
	}
	if gone := s.vanished.Load(); gone != nil {
		if asked, _ := s.Answered(); !asked.After(*gone) {
			return false
		}
	}
	now := time.Now()
	for _, src := range *sources {
		if !src.healthy(now, s.cfg.Silence) {
			return false
		}
	}
	return true
}

// Err returns the reason if nothing is delivered, else nil. The reason is
// eventstore.ErrWentBack until Reset, or the error of Run.
func (s *Subscriber) Err() error {
	if err := s.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// Reset continues delivery after w, with the incarnation log. Call it after the
// log went back and the store was resumed; w is the log's head. Reset drops
// received events and opens the streams again. When it returns, Begin has been
// called with w, and no earlier event will be delivered. Reset waits for Run's
// goroutine, and does nothing once Run has ended.
func (s *Subscriber) Reset(log string, w eventstore.Position) {
	r := reset{log: log, w: w, done: make(chan struct{})}
	select {
	case s.resets <- r:
	case <-s.ended:
		return
	}
	select {
	case <-r.done:
	case <-s.ended:
	}
}
