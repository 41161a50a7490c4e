package feed

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// SubscriberConfig configures a Subscriber.
type SubscriberConfig struct {
	// Self is this node's id. Required.
	Self string

	// Store is the log. Only Head, Read, Check, LogID and Witness are used.
	// Required.
	Store eventstore.Store

	// Deliver takes the commits, dense and in order: the first begins at the
	// watermark's next position, each further one where the last ended. All
	// calls are made by one goroutine, one after the other. The slice is the
	// callee's own, the commits are shared and not to be changed. Deliver must
	// not block, and must not call Reset. Required.
	Deliver func([]eventstore.Commit)

	// Begin, if set, is called by that same goroutine before the first
	// Deliver, and before the first one after a Reset, with the watermark:
	// what is delivered next begins behind it. It must not block.
	Begin func(w eventstore.Position)

	// Push makes the Subscriber open a stream to every domain member. Without
	// it the log is asked for news every 50 ms, and everything is delivered
	// all the same.
	Push bool

	// Watch returns the views of the cluster, the newest at once, until ctx
	// ends: (*cluster.Cluster).Watch. Required if Push is set.
	Watch func(ctx context.Context) <-chan *cluster.View

	// Conn returns the connection to a peer's address and a function that
	// releases it: (*link.Pool).Conn. Required if Push is set.
	Conn func(addr string) (conn *grpc.ClientConn, release func(), err error)

	// Local is this node's own publisher, read without a connection; nil on a
	// node without the domain role.
	Local *Publisher

	// Silence is how long a stream may say nothing and still count as
	// healthy. Heartbeats come every 100 ms.
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
	require(!c.Push || c.Conn != nil, "Conn is required with Push")
	require(c.Silence >= 0, "Silence is negative")
	if c.Silence == 0 {
		c.Silence = silence
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// Subscriber delivers every event of the log from the moment it starts, once
// and in order. See the package comment for how, and for the bounds of its
// memory. It is safe for concurrent use.
type Subscriber struct {
	cfg SubscriberConfig

	running  atomic.Bool
	started  chan struct{} // closed when W is known
	ended    chan struct{} // closed when Run has ended
	resets   chan reset
	arrivals chan arrival

	// What the goroutine of Run lets others know.
	watermark atomic.Uint64
	known     atomic.Uint64
	parked    atomic.Int64
	behind    atomic.Pointer[time.Time]
	answered  atomic.Pointer[logAnswer] // the last question to the log that was answered, or not
	vanished  atomic.Pointer[time.Time] // when a publisher last left without BYE
	lost      atomic.Pointer[error]
	sources   atomic.Pointer[[]*source]
	counters  counters
}

// reset is a call of Reset on its way to the goroutine of Run.
type reset struct {
	log  string
	w    eventstore.Position
	done chan struct{}
}

// NewSubscriber returns a Subscriber, or every problem of its configuration.
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

// Started is closed once the watermark is known: the head of the log when the
// store first answered. Everything after it will be delivered.
func (s *Subscriber) Started() <-chan struct{} { return s.started }

// Watermark returns the position of the last event that was delivered, or of
// the head at the start. It is the end of a commit.
func (s *Subscriber) Watermark() eventstore.Position {
	return eventstore.Position(s.watermark.Load())
}

// Behind returns for how long the watermark has been behind a head that was
// known all that time, exact to 100 ms; 0 if it is not behind. A node that is
// behind for 5 s does not serve its clients what they were promised.
func (s *Subscriber) Behind() time.Duration {
	if since := s.behind.Load(); since != nil {
		return time.Since(*since)
	}
	return 0
}

// logAnswer is when the log was last asked a question that it answered, and why
// it did not answer one since.
type logAnswer struct {
	asked time.Time
	err   error
}

// Answered returns when the log was last asked a question that it answered, and
// why it has not answered one since, if it has not.
func (s *Subscriber) Answered() (time.Time, error) {
	if a := s.answered.Load(); a != nil {
		return a.asked, a.err
	}
	return time.Time{}, nil
}

// Streaming reports whether the streams alone tell everything that is committed:
// every domain member is heard of, there is one, and the log has been asked since
// one left without saying that it commits nothing more. Such a member may only be
// out of this node's reach.
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

// Err returns why nothing is delivered, or nil: an error that is
// eventstore.ErrWentBack until Reset, or whatever Run ended with.
func (s *Subscriber) Err() error {
	if err := s.lost.Load(); err != nil {
		return *err
	}
	return nil
}

// Reset continues with the incarnation log behind w, after the log went back
// and the store was resumed: w is the log's head, and so the end of a commit.
// Whatever was received before is forgotten, streams are opened anew. When Reset returns,
// Begin has been called with w and nothing from before will be delivered. It
// waits for Run to take it, and does nothing once Run has ended.
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
