package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/node/operator"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// gossipLead is how long a draining node waits for gossip to spread its state
	// before it rejects commands: a few gossip intervals.
	gossipLead = 300 * time.Millisecond
	// drainTimeout bounds each of the two waits of a draining node: for its last
	// sessions, and for commands and aggregates.
	drainTimeout = 5 * time.Second
)

// errDrained is the reason why a node does not serve after an operator drained it.
var errDrained = errors.New("drained by an operator: restart the process to serve again")

// leaving coordinates a drain. It begins when Run's context ends or an operator asks
// for it.
type leaving struct {
	begin        context.CancelFunc
	left         chan struct{} // closed once the node has left the cluster
	stopping     chan struct{} // closed by stopProcess
	stoppingOnce *sync.Once
}

func newLeaving() leaving {
	return leaving{left: make(chan struct{}), stopping: make(chan struct{}), stoppingOnce: new(sync.Once)}
}

// hasLeft reports whether the node has left the cluster.
func (l *leaving) hasLeft() bool {
	select {
	case <-l.left:
		return true
	default:
		return false
	}
}

// stopProcess makes Run return once the node has left.
func (l *leaving) stopProcess() { l.stoppingOnce.Do(func() { close(l.stopping) }) }

// Drain drains the node for an operator, and reports the progress.
func (s peerServer) Drain(req *peer.DrainRequest, stream transport.Sender[peer.DrainProgress]) error {
	n := s.node
	n.log.Info("an operator drains this node", "shutdown", req.Shutdown)
	if req.Shutdown {
		n.leaving.stopProcess()
	}
	n.leaving.begin()
	tick := time.NewTicker(operator.ProgressInterval)
	defer tick.Stop()
	for {
		progress := &peer.DrainProgress{Commands: uint32(max(0, n.router.Stats().Unanswered))}
		if n.gateway != nil {
			progress.Sessions = uint32(n.gateway.Stats().Sessions)
		}
		if n.host != nil {
			progress.Commands += uint32(n.host.Stats().Pending)
		}
		if err := stream.Send(progress); err != nil {
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

// drain leaves the cluster in the order that costs clients nothing: it announces the
// drain, sends sessions elsewhere, and finishes the commands in flight.
func (n *node) drain(ctx context.Context) {
	n.log.Info("draining")
	n.setState(cluster.Draining)
	n.cluster.SetState(cluster.Draining)
	if len(n.cluster.View().Members) > 1 {
		select {
		case <-time.After(gossipLead):
		case <-ctx.Done():
		}
	}
	if n.gateway != nil {
		n.awaitHandlers(ctx)
		n.awaitIntakes(ctx)
		n.drainSessions(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := n.router.Drain(ctx); err != nil {
		n.log.Warn("commands were still in flight at the end of the drain: their senders will retry", "err", err)
	}
	if n.host != nil {
		if err := n.host.Drain(ctx); err != nil {
			n.log.Warn("aggregates were still busy at the end of the drain", "err", err)
		}
		n.publisher.Bye()
	}
	if n.readSide.publisher != nil {
		n.readSide.publisher.Close() // its streams would keep the peers' server from ending
	}
}

// awaitHandlers waits for the handlers of Config.Consumers, whose contexts have ended,
// so that their last acknowledgements reach the gateway before it drains.
func (n *node) awaitHandlers(ctx context.Context) {
	select {
	case <-n.handled:
	case <-time.After(drainTimeout):
		n.log.Warn("handlers of consumer groups did not return in time: their events will be handled again")
	case <-ctx.Done():
	}
}

// waitForStop waits until the process must stop. In the meantime the node, which has
// left, answers that it is alive, and serves nothing.
func (n *node) waitForStop(ctx, outer context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-n.leaving.stopping:
		return
	default:
		n.log.Info("left the cluster: waiting to be stopped")
	}
	select {
	case <-ctx.Done():
	case <-n.leaving.stopping:
	case <-outer.Done(): // a part failed
	}
}

func (n *node) drainSessions(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DrainWindow+drainTimeout)
	defer cancel()
	if err := n.gateway.Drain(ctx); err != nil {
		n.log.Warn("sessions were cut off while draining", "err", err)
	}
}
