package progress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// errSilent ends a stream on which nothing was received.
var errSilent = fmt.Errorf("progress: nothing received for %v", silence)

// SubscriberConfig configures a Subscriber. All fields are required.
type SubscriberConfig struct {
	// Self is this node's id.
	Self string
	// Watch returns the views of the cluster, the newest immediately, until ctx
	// ends: (*cluster.Cluster).Watch.
	Watch func(ctx context.Context) <-chan *cluster.View
	// Open opens a stream to a peer's address: (*transport.Pool).Progress.
	Open func(ctx context.Context, addr string) (transport.Receiver[peer.ProgressBatch], error)
	// Announce is called with each position received, by several goroutines. It
	// must not block.
	Announce func(Segment, eventstore.Position)
	Logger   *slog.Logger
}

// Subscriber receives the positions of all other members. Call Run.
type Subscriber struct{ cfg SubscriberConfig }

// NewSubscriber returns a Subscriber, or an error with every problem of the
// configuration.
func NewSubscriber(cfg SubscriberConfig) (*Subscriber, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("progress: "+what+" is required"))
		}
	}
	require(cfg.Self != "", "Self")
	require(cfg.Watch != nil, "Watch")
	require(cfg.Open != nil, "Open")
	require(cfg.Announce != nil, "Announce")
	require(cfg.Logger != nil, "Logger")
	return &Subscriber{cfg}, errors.Join(errs...)
}

// Run follows the cluster's views until ctx ends, with a stream to every other
// member that runs projections.
func (s *Subscriber) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	open := map[string]context.CancelFunc{} // by address
	for view := range s.cfg.Watch(ctx) {
		wanted := map[string]string{}
		for _, m := range view.Members {
			if m.ID != s.cfg.Self && m.Projections != "" && m.PeerAddr != "" {
				wanted[m.PeerAddr] = m.ID
			}
		}
		for addr, end := range open {
			if wanted[addr] == "" {
				end()
				delete(open, addr)
			}
		}
		for addr, id := range wanted {
			if open[addr] == nil {
				running, end := context.WithCancel(ctx)
				open[addr] = end
				streams.Go(func() { s.keepStream(running, addr, s.cfg.Logger.With("member", id)) })
			}
		}
	}
	return nil
}

// keepStream keeps a stream open until ctx ends.
func (s *Subscriber) keepStream(ctx context.Context, addr string, log *slog.Logger) {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		received, err := s.receive(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		if received {
			wait = retryMin
			log.Debug("a stream of positions ended; checkpoints are read instead", "err", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// receive opens a stream and announces its positions until it ends. It reports
// whether it received anything.
func (s *Subscriber) receive(ctx context.Context, addr string) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	stream, err := s.cfg.Open(ctx, addr)
	if err != nil {
		return false, err
	}
	for {
		b, err := stream.Recv()
		if err != nil {
			return received, cmp.Or(context.Cause(ctx), err)
		}
		received = true
		watchdog.Reset(silence)
		for _, one := range b.Segments {
			s.cfg.Announce(Segment{one.Projection, one.Build, int(one.Number)}, eventstore.Position(one.Position))
		}
	}
}
