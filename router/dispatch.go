package router

import (
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/internal/lane"
	"github.com/ganglion-es/ganglion/router/link"
)

// A command takes this way through the file: Send or a peer's request, admit,
// advance, submit or forward, returned, release. Package lane decides about the
// command's lane, candidates.go about its node.

// Send carries a command to its owner. Commands of one session to one
// aggregate are executed in the order of the calls. Send does not block. It
// calls reply exactly once, on any goroutine, perhaps before Send returns;
// reply must not block. A command without a key gets one.
func (r *Router) Send(c command.Command, reply func(command.Outcome)) {
	if c.Key == "" {
		c.Key = newKey()
	}
	if c.Deadline.IsZero() {
		c.Deadline = time.Now().Add(r.cfg.Timeout)
	}
	c.Attempt, c.Ticket = 1, nil
	r.admit(laneKey{session: c.Session, stream: c.Stream}, &call{Entry: lane.Entry{Command: c}, reply: reply}, 0)
}

// admit adds a call to its lane, or refuses it. If the call is a peer's, seen is
// the number of replies that the peer had acted on when it sent the request.
func (r *Router) admit(key laneKey, c *call, seen uint64) {
	now := time.Now()
	overloaded := r.count.unanswered.Add(1) > int64(r.cfg.MaxUnanswered)
	l := r.lockLane(key)
	s := l.shard
	c.lane, c.Call = l, c
	var prior *command.Failure
	if key.peer != nil {
		prior = key.peer.priorRefusal(key, seen)
	}
	l.Admit(&c.Entry, prior, s.pausedUntil, now)
	if overloaded {
		l.Fail(&c.Entry, command.Busy("this node has %d unanswered commands", r.cfg.MaxUnanswered))
	}
	if !c.Answered() {
		c.timer = time.AfterFunc(c.Due(now).Sub(now), func() { s.expire(c) })
	}
	s.advance(l, now)
}

// advance hands over, in order, the commands of a lane that can go now, and
// delivers the lane's answers. It releases the shard's lock.
func (s *shard) advance(l *openLane, now time.Time) {
	r := s.router
	for waits := l.submitting; !waits && l.Len() > 0; {
		e, only := l.Next(now)
		if e == nil {
			break
		}
		c := e.Call.(*call)
		to, minTrust, ok := r.route(c, only)
		switch {
		case ok && to.Link == nil:
			s.submit(c, to)
			now = time.Now()
		case ok:
			s.forward(c, to, minTrust, now)
		case only != (lane.Place{}):
			waits = true // until the commands before it are back
		case l.key.peer != nil:
			l.Fail(e, command.Unavailable("this node executes no commands now").OnOtherNodes())
		case r.closed.Load() || e.Unknown >= maxUnknown || e.SearchExpired(now) || r.exhausted(e.Tried, e.Declined):
			l.Fail(e, r.unreachable(e))
		default:
			s.waiting[l] = struct{}{}
			waits = true
		}
	}
	if l.Len() == 0 {
		delete(s.waiting, l)
		s.forget(l)
	}
	s.release(l)
}

// submit passes a command to the executor. It releases the shard's lock during
// the call. Until it has the lock again, no other goroutine hands over commands
// of the lane.
func (s *shard) submit(c *call, to lane.Place) {
	l := c.lane
	l.Placed(&c.Entry, to)
	s.router.own.add(1)
	s.router.count.handover(c.Handovers, true, l.key.peer != nil)
	l.submitting = true
	cmd := c.Command
	s.release(l)
	s.router.cfg.Executor.Submit(cmd, func(out command.Outcome) { s.returned(c, to, link.Answered, out) })
	s.mu.Lock()
	l.submitting = false
}

// forward sends a command over a link. The caller holds the shard's lock: the
// link stamps the request with the number of replies that this node has acted
// on, and this node acts on the replies of this lane under the same lock.
func (s *shard) forward(c *call, to lane.Place, minTrust link.Trust, now time.Time) {
	l, hop := c.lane, uint32(0)
	if l.key.peer != nil {
		hop = 1
	}
	msg, f := requestOf(c, hop, now)
	if f != nil {
		l.Fail(&c.Entry, f)
		return
	}
	switch err := to.Link.Send(msg, minTrust, func(reply *peer.Reply, fate link.Fate) {
		var out command.Outcome
		if fate == link.Answered {
			out = outcomeOf(reply)
		}
		s.returned(c, to, fate, out)
	}); err {
	case nil:
		l.Placed(&c.Entry, to)
		s.router.count.handover(c.Handovers, false, l.key.peer != nil)
	case link.ErrFull:
		l.Fail(&c.Entry, command.Busy("too many commands wait for node %s", to.Node))
	case link.ErrTooLarge:
		l.Fail(&c.Entry, command.TooLarge("the command with its claims has more than the %d bytes that one message between nodes may have", link.MaxMessage))
	}
	// Any other error means that the link has just gone down: the next turn of
	// advance finds another candidate.
}

// returned reports to a lane that a call came back from a place.
func (s *shard) returned(c *call, from lane.Place, fate link.Fate, out command.Outcome) {
	s.mu.Lock()
	now, unknown := time.Now(), c.Unknown
	if !c.lane.Returned(&c.Entry, from, fate, out, now) {
		s.mu.Unlock()
		return
	}
	if from.Link == nil {
		s.router.own.add(-1)
	}
	if c.Unknown > unknown {
		s.router.count.unknown.Add(1)
	}
	if !c.Answered() {
		c.timer.Reset(c.Due(now).Sub(now))
	}
	s.advance(c.lane, now)
}

// expire reports to a lane that a call's time is up.
func (s *shard) expire(c *call) {
	s.mu.Lock()
	if c.Answered() {
		s.mu.Unlock()
		return
	}
	now := time.Now()
	c.lane.Expire(&c.Entry, s.router.unreachable(&c.Entry), now)
	if !c.Answered() {
		c.timer.Reset(c.Due(now).Sub(now))
	}
	s.advance(c.lane, now)
}

// release unlocks the shard and delivers the new answers of a lane: a peer's
// before it unlocks, a session's after.
func (s *shard) release(l *openLane) {
	r, p := s.router, l.key.peer
	var buf [1]lane.Answer
	answers := l.Answers(buf[:0]) // copies, since the unlocked lane may get more
	for _, a := range answers {
		c := a.Entry.Call.(*call)
		if c.timer != nil {
			c.timer.Stop()
		}
		r.count.unanswered.Add(-1)
		r.count.failure(a.Outcome.Failure, p != nil)
		if p != nil {
			p.answer(c, a)
			r.own.add(-1)
		}
	}
	s.mu.Unlock()
	if p != nil {
		return
	}
	for _, a := range answers {
		r.outage.note(r, a.Outcome)
		a.Entry.Call.(*call).reply(a.Outcome)
		if a.Notify {
			s.notified(l, a.Outcome.Failure.After)
		}
	}
}
