package router

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/internal/lane"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/transport"
)

// inbound is a peer's stream of requests to this node.
type inbound struct {
	router *Router
	link   *link.Inbound
	ctx    context.Context // ends with the stream
	cancel context.CancelFunc

	mu      sync.Mutex
	ended   bool
	refused map[laneKey]refused
	minSeen uint64 // requests with a lower seen are refused on every lane
}

// refused is a stream's memory of a lane: the number of the newest reply that
// refused one of its commands, and the failure for requests whose sender had
// not acted on that reply.
type refused struct {
	reply   uint64
	failure *command.Failure
}

// maxRefused bounds the refusals that a stream remembers. Past it, requests of
// every lane are refused until the peer has acted on the newest refusal.
const maxRefused = 4096

// Commands serves a peer's stream of requests, as [transport.Peer] asks for.
func (r *Router) Commands(stream transport.CommandsServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	in := &inbound{router: r, ctx: ctx, cancel: cancel, refused: make(map[laneKey]refused)}
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return transport.Errorf(transport.Unavailable, "this node is stopping")
	}
	in.link = link.NewInbound(stream, link.InboundConfig{Silence: r.cfg.Suspect, Draining: r.draining.Load(), Go: r.work.Go})
	r.peers[in] = struct{}{}
	r.streams.add(1)
	r.work.Add(1)
	r.mu.Unlock()

	err := in.link.Serve(ctx, in.handle, in.acted)
	r.mu.Lock()
	delete(r.peers, in)
	r.mu.Unlock()
	in.end()
	r.streams.add(-1)
	r.work.Done()
	return err
}

// handle answers a request, or makes it a call.
func (in *inbound) handle(req *peer.Request) {
	r := in.router
	switch body := req.GetBody().(type) {
	case *peer.Request_Command:
		c, f := callOf(body.Command, time.Now())
		if f == nil && (r.cfg.Executor == nil || r.draining.Load()) {
			f = command.Unavailable("this node executes no commands now").OnOtherNodes()
			r.count.elsewhere.Add(1)
		}
		if f != nil {
			in.reply(req.GetId(), command.Failed(f))
			return
		}
		c.id = req.GetId()
		r.own.add(1)
		r.admit(laneKey{peer: in, session: c.Command.Session, stream: c.Command.Stream}, c, req.GetSeen())
	case *peer.Request_Get:
		in.get(req.GetId(), body.Get)
	default:
		in.reply(req.GetId(), command.Failed(command.Unsupported("this node does not know this request: its peer runs a newer version")))
	}
}

// get answers a get on a goroutine of its own.
func (in *inbound) get(id uint64, msg *peer.Get) {
	r := in.router
	g, f := getOf(msg, time.Now())
	if f == nil && (r.cfg.Executor == nil || r.draining.Load()) {
		f = command.Unavailable("this node answers no gets now").OnOtherNodes()
	}
	if f == nil {
		select {
		case r.gets <- struct{}{}:
		default:
			f = command.Busy("this node answers %d gets of other nodes", cap(r.gets))
		}
	}
	if f != nil {
		in.reply(id, command.Failed(f))
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

// reply sends the answer to a command and returns its number among the replies
// of the stream.
func (in *inbound) reply(id uint64, out command.Outcome) uint64 {
	return in.link.Reply(outcomeReply(id, out))
}

// answer sends the answer to a call, whose lane's lock is held, and remembers a
// refusal until the peer has acted on it.
func (in *inbound) answer(c *call, a lane.Answer) {
	n := in.reply(c.id, a.Outcome)
	if a.Refusal == nil {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	key := c.lane.key
	switch _, known := in.refused[key]; {
	case in.ended:
	case known || len(in.refused) < maxRefused:
		in.refused[key] = refused{reply: n, failure: a.Refusal}
	default:
		in.minSeen = max(in.minSeen, n)
	}
}

// priorRefusal returns the failure of a request whose sender could not know of
// an earlier refusal in its lane, or nil. seen is the number of replies that
// the sender had acted on. Requests that are read while their stream ends are
// also refused: their sender tries another node.
func (in *inbound) priorRefusal(key laneKey, seen uint64) *command.Failure {
	in.mu.Lock()
	defer in.mu.Unlock()
	earlier, known := in.refused[key]
	switch {
	case in.ended:
		return command.Unavailable("the stream that this command came on has ended").OnOtherNodes()
	case key.session == "":
		return nil
	case known && seen < earlier.reply:
		return earlier.failure
	case seen < in.minSeen:
		return command.Busy("this node refused commands on more than %d lanes", maxRefused)
	}
	return nil
}

// acted forgets the refusals that the peer has acted on. Every later request
// was sent after that.
func (in *inbound) acted(seen uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	maps.DeleteFunc(in.refused, func(_ laneKey, earlier refused) bool { return earlier.reply <= seen })
}

// end makes priorRefusal refuse every request that is still read from the
// stream.
func (in *inbound) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.ended, in.refused = true, nil
}

// Drain stops this node from accepting commands for execution. It tells the
// peers. Commands that they still send are refused with Elsewhere set, and
// commands of this node's sessions go to other nodes. Drain returns when all
// commands of the executor and of peers are answered and the streams of peers
// have ended cleanly, or with an error if ctx ends first. It cannot be undone.
func (r *Router) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining.Store(true)
	for in := range r.peers {
		in.link.Drain()
	}
	r.mu.Unlock()
	r.retry()
	select {
	case <-r.own.wait():
	case <-ctx.Done():
		return fmt.Errorf("router: drain: %d commands are still in flight: %w", r.own.value(), ctx.Err())
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
		return fmt.Errorf("router: drain: %d peers have not received their answers: %w", r.streams.value(), ctx.Err())
	}
}

// closePeers breaks the streams of all peers.
func (r *Router) closePeers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for in := range r.peers {
		in.cancel()
	}
}
