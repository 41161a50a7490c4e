package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/link"
)

const (
	// gossipHead is how long a leaving node waits for gossip to say so before
	// it refuses commands: a few gossip intervals.
	gossipHead = 300 * time.Millisecond
	// drainMost bounds how long a leaving node waits for what is in flight:
	// once for its last sessions, and once for its aggregates.
	drainMost = 5 * time.Second
	// drainTell is how often a node that drains says how far it is.
	drainTell = 250 * time.Millisecond
	// drainSilence is how long an operator waits to hear that.
	drainSilence = 20 * drainTell
)

// errDrained is why a node does not serve that an operator had drained.
var errDrained = errors.New("drained by an operator: it serves again once it is started anew")

// leaving is a node's way out, which begins with the end of Run's context, or
// when an operator asks.
type leaving struct {
	begin   context.CancelFunc
	left    chan struct{} // closed once the node has left the cluster
	ending  chan struct{} // closed by end
	endOnce *sync.Once
}

func newLeaving() leaving {
	return leaving{left: make(chan struct{}), ending: make(chan struct{}), endOnce: new(sync.Once)}
}

// done tells whether the node has left.
func (l *leaving) done() bool {
	select {
	case <-l.left:
		return true
	default:
		return false
	}
}

// end has the process end once the node has left.
func (l *leaving) end() { l.endOnce.Do(func() { close(l.ending) }) }

// Drain has the node at an address for peers leave the cluster as at SIGTERM,
// and returns when it has. The process stays, and serves nothing, unless
// shutdown is set. progress, if not nil, is told what is still to go, several
// times a second. If ctx ends first, the node leaves all the same.
func (o *Operator) Drain(ctx context.Context, addr string, shutdown bool, progress func(sessions, commands int)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(drainSilence, cancel)
	defer silent.Stop()
	pool := link.NewPool(link.PoolConfig{TLS: o.tls})
	defer pool.Close()
	conn, _, err := pool.Conn(addr)
	if err != nil {
		return err
	}
	told, err := peer.NewPeerClient(conn).Drain(ctx, &peer.DrainRequest{Shutdown: shutdown})
	for err == nil {
		var at *peer.DrainProgress
		switch at, err = told.Recv(); {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the node at %s stopped before it had left", addr)
		case err != nil:
		case at.Left:
			return nil
		default:
			silent.Reset(drainSilence)
			if progress != nil {
				progress(int(at.Sessions), int(at.Commands))
			}
		}
	}
	return notAnswered(ctx, addr, err)
}

// Drain serves Operator.Drain.
func (s peerServer) Drain(req *peer.DrainRequest, stream grpc.ServerStreamingServer[peer.DrainProgress]) error {
	n := s.node
	n.log.Info("an operator has this node leave", "shutdown", req.Shutdown)
	if req.Shutdown {
		n.leaving.end()
	}
	n.leaving.begin()
	tick := time.NewTicker(drainTell)
	defer tick.Stop()
	for {
		at := &peer.DrainProgress{Commands: uint32(max(0, n.router.Stats().Unanswered))}
		if n.gateway != nil {
			at.Sessions = uint32(n.gateway.Stats().Sessions)
		}
		if n.host != nil {
			at.Commands += uint32(n.host.Stats().Pending)
		}
		if err := stream.Send(at); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-n.leaving.left:
			return stream.Send(&peer.DrainProgress{Left: true})
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// drain leaves in the order that costs clients nothing: first everybody is
// told, then what is in flight is finished, and only then the node goes.
func (n *node) drain(ctx context.Context) {
	n.log.Info("draining")
	n.setState(cluster.Draining)
	n.cluster.SetState(cluster.Draining)
	if len(n.cluster.View().Members) > 1 {
		select {
		case <-time.After(gossipHead):
		case <-ctx.Done():
		}
	}
	if n.gateway != nil {
		n.drainSessions(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, drainMost)
	defer cancel()
	if err := n.router.Drain(ctx); err != nil {
		n.log.Warn("commands were still in flight at the end of the drain: their senders will ask again", "error", err)
	}
	if n.host != nil {
		if err := n.host.Drain(ctx); err != nil {
			n.log.Warn("aggregates were still busy at the end of the drain", "error", err)
		}
		n.publisher.Bye()
	}
}

// wait keeps a node that has left until it is to end: it tells whoever asks
// that it is there and serves nothing.
func (n *node) wait(ctx, doors context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-n.leaving.ending:
		return
	default:
		n.log.Info("left the cluster: waiting to be stopped")
	}
	select {
	case <-ctx.Done():
	case <-n.leaving.ending:
	case <-doors.Done(): // one failed
	}
}

func (n *node) drainSessions(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainWindow+drainMost)
	defer cancel()
	if err := n.gateway.Drain(ctx); err != nil {
		n.log.Warn("sessions were cut off while draining", "error", err)
	}
}
