package router

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/link"
)

// inbound is a peer's stream of requests to this node.
type inbound struct {
	router *Router
	link   *link.Inbound
	ctx    context.Context // ends with the stream
	cancel context.CancelFunc

	mu      sync.Mutex
	ended   bool
	refused map[*lane]uint64 // by the newest reply that refused one of its commands
	all     uint64           // requests of whoever had acted on fewer replies are refused
}

// maxRefused bounds the lanes of a stream that are remembered as refused. When
// there are more, what comes is refused whatever its lane.
const maxRefused = 4096

// Commands serves a peer's stream of requests: it is that method of
// peer.PeerServer.
func (r *Router) Commands(stream peer.Peer_CommandsServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	in := &inbound{router: r, ctx: ctx, cancel: cancel, refused: make(map[*lane]uint64)}
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return status.Error(codes.Unavailable, "this node is stopping")
	}
	in.link = link.NewInbound(stream, link.InboundConfig{Silence: r.cfg.Suspect, Draining: r.draining.Load(), Go: r.work.Go})
	r.peers[in] = struct{}{}
	r.streams.add(1)
	r.work.Add(1)
	r.mu.Unlock()

	err := in.link.Serve(ctx, in.handle, in.heard)
	r.mu.Lock()
	delete(r.peers, in)
	r.mu.Unlock()
	in.end()
	r.streams.add(-1)
	r.work.Done()
	return err
}

// handle takes a request.
func (in *inbound) handle(req *peer.Request) {
	r := in.router
	switch body := req.GetBody().(type) {
	case *peer.Request_Command:
		c, f := callOf(body.Command, time.Now())
		if f == nil && (r.cfg.Executor == nil || r.draining.Load()) {
			f = elsewhere("this node executes no commands now")
			r.count.elsewhere.Add(1)
		}
		if f != nil {
			in.answer(req.GetId(), command.Failed(f))
			return
		}
		c.id = req.GetId()
		r.own.add(1)
		r.enter(laneKey{peer: in, session: c.cmd.Session, stream: c.cmd.Stream}, c, req.GetSeen())
	case *peer.Request_Get:
		in.get(req.GetId(), body.Get)
	default:
		in.answer(req.GetId(), command.Failed(&command.Failure{
			Code: command.Unsupported, Retry: command.RetryNo,
			Message: "this node knows no such request: its peer is newer than it",
		}))
	}
}

// get answers a get, on a goroutine of its own.
func (in *inbound) get(id uint64, msg *peer.Get) {
	r := in.router
	g, f := getOf(msg, time.Now())
	if f == nil && (r.cfg.Executor == nil || r.draining.Load()) {
		f = elsewhere("this node answers no gets now")
	}
	if f == nil {
		select {
		case r.gets <- struct{}{}:
		default:
			f = busy("this node answers %d gets of other nodes", cap(r.gets))
		}
	}
	if f != nil {
		in.answer(id, command.Failed(f))
		return
	}
	r.own.add(1)
	r.work.Go(func() {
		defer r.own.add(-1)
		defer func() { <-r.gets }()
		ctx, cancel := context.WithDeadline(in.ctx, g.Deadline)
		defer cancel()
		state, f := r.getFor(ctx, g, msg.GetHop())
		in.link.Reply(stateReply(id, state, f))
	})
}

// answer sends the answer to a command and returns which reply it is.
func (in *inbound) answer(id uint64, out command.Outcome) uint64 {
	return in.link.Reply(outcomeReply(id, out))
}

// remember keeps in mind that a reply refused a command of a lane, whose lock
// is held, until the peer knows. It returns false if there is nobody left to
// refuse anything.
func (in *inbound) remember(l *lane, reply uint64) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return false
	}
	if _, known := in.refused[l]; !known && len(in.refused) >= maxRefused {
		in.all = max(in.all, reply)
		return false
	}
	in.refused[l] = reply
	return true
}

// refusesAll returns a failure if a request is refused whatever its lane, as
// what was still being taken in when the stream ended: the refusals that would
// concern it are forgotten by then, and its sender asks somebody else.
func (in *inbound) refusesAll(l *lane, seen uint64) *command.Failure {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return elsewhere("the stream that this command came on has ended")
	}
	if seen >= in.all || l.key.session == "" {
		return nil
	}
	return busy("this node refused commands on %d lanes at once", maxRefused)
}

// heard forgets the refusals that the peer knows of.
func (in *inbound) heard(seen uint64) {
	var known map[*lane]uint64
	in.mu.Lock()
	for l, reply := range in.refused {
		if reply > seen {
			continue
		}
		if known == nil {
			known = make(map[*lane]uint64)
		}
		known[l] = reply
		delete(in.refused, l)
	}
	in.mu.Unlock()
	in.router.forget(known)
}

// end forgets everything about the stream.
func (in *inbound) end() {
	in.mu.Lock()
	in.ended = true
	known := in.refused
	in.refused = nil
	in.mu.Unlock()
	in.router.forget(known)
}

// forget takes refusals off lanes, unless those were refused again since.
func (r *Router) forget(known map[*lane]uint64) {
	for l, reply := range known {
		s := r.shard(&l.key)
		s.mu.Lock()
		if l.refusedBy <= reply {
			l.refusedBy, l.refusal = 0, nil
			s.tidy(l)
		}
		s.unlock()
	}
}

// Drain makes this node execute nothing more: peers are told, what they send
// is refused as Elsewhere, and commands of this node's own sessions go to
// other nodes. It returns when what the executor had, and what peers had sent,
// is answered and their streams have ended in good order, or with an error
// when the context ends first. There is no way back.
func (r *Router) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining.Store(true)
	for in := range r.peers {
		in.link.Drain()
	}
	r.mu.Unlock()
	r.kick()
	select {
	case <-r.own.wait():
	case <-ctx.Done():
		return fmt.Errorf("router: draining: %d commands are still in flight: %w", r.own.value(), ctx.Err())
	}
	r.mu.Lock()
	r.stopped = true
	for in := range r.peers {
		in.link.Close()
	}
	r.mu.Unlock()
	select {
	case <-r.streams.wait():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("router: draining: %d peers have not taken their answers: %w", r.streams.value(), ctx.Err())
	}
}

// hangUp breaks all peers' streams.
func (r *Router) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for in := range r.peers {
		in.cancel()
	}
}
