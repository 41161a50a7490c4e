package router

import (
	"fmt"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

// Send carries a command to its owner. Calls for one session and stream, one
// after another, are executed in that order. Send never blocks; reply is
// called exactly once, on any goroutine, perhaps before Send returns, and must
// not block. A command without a key gets one.
func (r *Router) Send(c command.Command, reply func(command.Outcome)) {
	now := time.Now()
	if c.Key == "" {
		c.Key = newKey(now)
	}
	if c.Deadline.IsZero() {
		c.Deadline = now.Add(r.cfg.Timeout)
	}
	c.Attempt, c.Lane = 1, nil
	r.enter(laneKey{session: c.Session, stream: c.Stream}, &call{cmd: c, reply: reply}, 0)
}

// pump hands over what can be handed over, in order. It releases the lock
// while it calls the executor.
func (s *shard) pump(l *lane) {
	if l.pumping {
		return
	}
	l.pumping = true
	for {
		c := s.next(l)
		if c == nil {
			break
		}
		cmd, turn := c.cmd, c.turn
		s.unlock()
		s.router.cfg.Executor.Submit(cmd, func(out command.Outcome) {
			s.returned(c, turn, out, link.Answered)
		})
		s.mu.Lock()
	}
	l.pumping = false
}

// next passes calls to their links, or answers them, up to the first one that
// is for the executor, which it returns; nil if the rest has to wait.
func (s *shard) next(l *lane) *call {
	r := s.router
	for !l.broken && l.placed < len(l.calls) {
		c := l.calls[l.placed]
		to, ok := r.choose(c)
		switch {
		case !time.Now().Before(c.cmd.Deadline):
			s.answer(c, command.Failed(r.late(c)), false)
		case !ok && l.placed > 0:
			return nil // what is out comes back first
		case !ok && l.key.peer != nil:
			s.answer(c, command.Failed(elsewhere("this node executes no commands now")), false)
		case !ok && r.over(c):
			s.answer(c, command.Failed(r.unreachable(c)), false)
		case !ok:
			s.waiting[l] = struct{}{}
			return nil
		case to.link == nil:
			s.place(c, to)
			return c
		default:
			s.forward(c, to)
		}
	}
	return nil
}

// over tells whether a call without a candidate has waited enough.
func (r *Router) over(c *call) bool {
	return r.closed.Load() || c.unknown >= maxUnknown || r.exhausted(c.tried, c.declined) || !time.Now().Before(c.search)
}

// choose returns where to hand a call to, if it may be handed over now.
func (r *Router) choose(c *call) (place, bool) {
	l := c.lane
	c.least = link.Trusted
	if l.placed > 0 {
		// Only to where the others are.
		at := l.calls[l.placed-1].at
		if at.link == nil && l.mark.Refused() {
			// What the executor still has may be refused as well; what it
			// gets now would not be, on a mark of its own.
			return place{}, false
		}
		if l.key.peer == nil {
			to, ok := r.candidate(c)
			return at, ok && to == at
		}
		return at, at.link == nil || c.hop == 0 && at.link.Trust() == link.Trusted
	}
	if l.key.peer == nil {
		return r.candidate(c)
	}
	if owner, ok := r.Ring().Owner(c.cmd.Stream); ok && c.hop == 0 && owner != r.cfg.Self && len(c.tried) == 0 {
		if to, trust := r.reach(owner); trust == link.Trusted {
			return to, true
		}
	}
	to, trust := r.reach(r.cfg.Self)
	return to, trust == link.Trusted
}

const (
	// maxUnknown is at how many nodes a command's fate may become unknown
	// before its client is told so.
	maxUnknown = 2
	// maxTried is how many nodes are asked at all, those that decline included.
	maxTried = 4
)

// candidate returns the first node in the order of succession that can be
// reached and has not been tried: the owner, the owner once that is gone, or
// else the owner once all are gone that can't be reached. One whose link is on
// trial comes last.
func (r *Router) candidate(c *call) (place, bool) {
	if c.unknown >= maxUnknown || len(c.tried) >= maxTried {
		return place{}, false
	}
	var doubted place
	full := r.Ring()
	look := func(in *ring.Ring, most int) (place, bool) {
		for range most {
			node, ok := in.Owner(c.cmd.Stream)
			if !ok {
				break
			}
			if !slices.Contains(c.tried, node) {
				switch to, trust := r.reach(node); {
				case trust == link.Trusted:
					return to, true
				case trust == link.Doubted && doubted.link == nil:
					doubted = to
				}
			}
			in = in.Without(node)
		}
		return place{}, false
	}
	if to, ok := look(full, 2); ok {
		return to, true
	}
	if to, ok := look(r.reachable(full), len(c.tried)+2); ok {
		return to, true
	}
	if doubted.link == nil {
		return place{}, false
	}
	c.least = link.Doubted
	return doubted, true
}

// reachable returns the ring of those members of a ring that can be reached. It
// is built once for each change of what can: were rings taken apart one dead
// member after another, a node that sees little of a large cluster would build
// hundreds.
func (r *Router) reachable(full *ring.Ring) *ring.Ring {
	p := &r.part
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := r.changes.Load(); p.full != full || p.at != now {
		p.full, p.at = full, now
		p.ring = ring.New(slices.DeleteFunc(full.Members(), func(id string) bool {
			_, trust := r.reach(id)
			return trust == link.Unusable
		}))
	}
	return p.ring
}

// exhausted tells whether there is no use in waiting for more candidates than
// those that were tried. declined is the last one's refusal, if it refused.
func (r *Router) exhausted(tried []string, declined *command.Failure) bool {
	if len(tried) < 2 && !lasting(declined) {
		return false // its only node may be about to come back
	}
	return len(tried) >= maxTried || !slices.ContainsFunc(r.Ring().Members(), func(id string) bool { return !slices.Contains(tried, id) })
}

// lasting tells whether a node that declined has said how long that will be so,
// such as one that has lost its database. Once no other is left to ask, it is
// the answer.
func lasting(declined *command.Failure) bool { return declined != nil && declined.After > 0 }

// reach returns the way to a node, and what it is good for now.
func (r *Router) reach(node string) (place, link.Trust) {
	to := place{node: node}
	if node == r.cfg.Self {
		if r.cfg.Executor == nil || r.draining.Load() {
			return to, link.Unusable
		}
		return to, link.Trusted
	}
	if to.link = (*r.links.Load())[node]; to.link == nil {
		return to, link.Unusable
	}
	return to, to.link.Trust()
}

// place notes that a call is handed over.
func (s *shard) place(c *call, to place) {
	r, l := s.router, c.lane
	c.at = to
	if c.turn++; c.turn > 1 {
		r.count.retried.Add(1)
	}
	l.placed++
	switch inbound := l.key.peer != nil; {
	case to.link == nil && inbound:
		r.count.executedForOthers.Add(1)
	case to.link == nil:
		r.count.local.Add(1)
	case inbound:
		r.count.handedOn.Add(1)
	default:
		r.count.forwarded.Add(1)
	}
	if to.link != nil {
		return
	}
	r.own.add(1)
	if l.mark == nil || l.mark.Refused() {
		l.mark = command.NewLane()
	} else {
		l.mark = l.mark.Next()
	}
	c.cmd.Lane = l.mark
}

// forward sends a call over a link, under the lock: the link stamps it with
// the replies that have been acted on, and an answer on this lane is acted on
// under the same lock.
func (s *shard) forward(c *call, to place) {
	hop := uint32(0)
	if c.lane.key.peer != nil {
		hop = 1
	}
	msg, f := requestOf(c, hop, time.Now())
	if f != nil {
		s.answer(c, command.Failed(f), false)
		return
	}
	turn := c.turn + 1
	switch err := to.link.Send(msg, c.least, func(reply *peer.Reply, fate link.Fate) {
		var out command.Outcome
		if fate == link.Answered {
			out = outcomeOf(reply)
		}
		s.returned(c, turn, out, fate)
	}); err {
	case nil:
		s.place(c, to)
	case link.ErrFull:
		s.answer(c, command.Failed(busy("too many commands wait for node %s", to.node)), false)
	case link.ErrTooLarge:
		s.answer(c, command.Failed(tooLarge("the command with its claims has more than the %d bytes that one message between nodes may have", link.MaxMessage)), false)
	}
	// Other errors say that the link has just gone down: the next look finds
	// another candidate.
}

// returned takes a call back from whom it was handed to: with its answer, or
// with what is known of it without one.
func (s *shard) returned(c *call, turn uint64, out command.Outcome, fate link.Fate) {
	s.mu.Lock()
	defer s.unlock()
	if c.turn != turn || c.at == (place{}) {
		return
	}
	r, l, at := s.router, c.lane, c.at
	c.at = place{}
	l.placed--
	if at.link == nil {
		r.own.add(-1)
	}
	f := out.Failure
	if at.link == nil && comesAgain(f) {
		c.cmd.Lane.Refuse(behind(f))
	}
	switch {
	case c.answered:
		l.remove(c) // it was too late
	case fate == link.Answered && (f == nil || !f.Elsewhere):
		s.answer(c, out, false)
	case c.refused != nil:
		s.note(c, fate, f)
		s.answer(c, command.Failed(c.refused), false)
	default:
		s.again(c, at, fate, f)
	}
	if l.placed == 0 {
		l.broken = false
	}
	s.pump(l)
	s.tidy(l)
}

// again puts a call back that was not answered by whom it was handed to.
func (s *shard) again(c *call, at place, fate link.Fate, f *command.Failure) {
	r, l := s.router, c.lane
	s.note(c, fate, f)
	if fate != link.NotExecuted {
		c.tried = append(c.tried, at.node)
		c.declined = f
		c.cmd.Attempt++
	}
	l.broken = l.placed > 0
	if l.key.peer != nil && at.link == nil {
		s.answer(c, command.Failed(f), false) // the sender finds another node
		return
	}
	now := time.Now()
	c.search = now.Add(r.cfg.Search)
	c.timer.Reset(min(r.cfg.Search, c.cmd.Deadline.Sub(now)))
}

// note counts a node that may have executed a call, for all that is known. One
// that handed it on and lost sight of it declines it with the advice to use the
// same key.
func (s *shard) note(c *call, fate link.Fate, f *command.Failure) {
	if fate == link.Unknown || f != nil && f.Retry == command.RetrySameKey {
		c.unknown++
		s.router.count.unknown.Add(1)
	}
}

// expire answers a call whose time is over.
func (r *Router) expire(s *shard, c *call) {
	s.mu.Lock()
	defer s.unlock()
	if c.answered {
		return
	}
	now, l := time.Now(), c.lane
	searching := c.at == (place{}) && l.placed == 0
	switch {
	case searching && (!now.Before(c.search) || !now.Before(c.cmd.Deadline)):
		s.answer(c, command.Failed(r.unreachable(c)), false)
	case !now.Before(c.cmd.Deadline):
		s.answer(c, command.Failed(r.late(c)), false)
	case searching:
		c.timer.Reset(min(c.search.Sub(now), c.cmd.Deadline.Sub(now)))
		return
	default:
		c.timer.Reset(c.cmd.Deadline.Sub(now))
		return
	}
	s.pump(l)
	s.tidy(l)
}

// final is a failure as the sender of a call gets it.
func (r *Router) final(c *call, f *command.Failure) *command.Failure {
	g := *f
	if g.Key == "" {
		g.Key = c.cmd.Key
	}
	if c.unknown > 0 && g.Retry == command.RetryLater {
		g.Retry = command.RetrySameKey
	}
	if c.lane.key.peer != nil {
		if g.Elsewhere {
			r.count.elsewhere.Add(1)
		}
		return &g
	}
	g.Elsewhere = false
	switch g.Code {
	case command.Busy:
		r.count.busy.Add(1)
	case command.Unavailable:
		r.count.unavailable.Add(1)
	case command.Timeout:
		r.count.timeout.Add(1)
	}
	return &g
}

const (
	// warnEvery bounds how often an operator is told that commands find nobody.
	warnEvery = 10 * time.Second
	// answeredAfter is how long no command must have been answered unavailable
	// for an outage to be over.
	answeredAfter = 5 * time.Second
)

// tellUnavailable logs that commands are answered unavailable, now and then.
func (r *Router) tellUnavailable(f *command.Failure) {
	now, last := time.Now().UnixNano(), r.warned.Load()
	r.refusedAt.Store(now)
	if r.closed.Load() || last != 0 && now-last < int64(warnEvery) || !r.warned.CompareAndSwap(last, now) {
		return
	}
	facts := []any{"why", f.Message, "retry", string(f.Retry), "so_far", r.count.unavailable.Load()}
	if f.Cause != "" {
		facts = append(facts, "err", f.Cause)
	}
	r.cfg.Logger.Warn("commands are answered unavailable", facts...)
}

// tellAnswered logs that the commands after those of tellUnavailable are executed.
func (r *Router) tellAnswered() {
	warned := r.warned.Load()
	if warned == 0 || time.Now().UnixNano()-r.refusedAt.Load() < int64(answeredAfter) || !r.warned.CompareAndSwap(warned, 0) {
		return
	}
	r.cfg.Logger.Info("commands are answered again", "so_far", r.count.unavailable.Load())
}

// unreachable is the failure of a call that found nobody to execute it.
func (r *Router) unreachable(c *call) *command.Failure {
	f := &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: r.why(c.cmd.Stream)}
	switch {
	case lasting(c.declined) && !r.closed.Load():
		f.Message, f.After, f.Cause = c.declined.Message, c.declined.After, c.declined.Cause
	case c.unknown > 0:
		f.Message = fmt.Sprintf("the node that %v was sent to fell silent, and no other one answered: send the command again with its key to find out", c.cmd.Stream)
	}
	return f
}

// late is the failure of a call whose deadline has passed.
func (r *Router) late(c *call) *command.Failure {
	if c.at == (place{}) && c.unknown == 0 {
		return &command.Failure{
			Code: command.Timeout, Retry: command.RetryLater,
			Message: "the time for this command ran out before it could be executed",
		}
	}
	return &command.Failure{
		Code: command.Timeout, Retry: command.RetrySameKey,
		Message: "no answer in time: send the command again with its key to find out whether it was executed",
	}
}

func busy(format string, args ...any) *command.Failure {
	return &command.Failure{
		Code: command.Busy, Retry: command.RetryLater,
		Message: fmt.Sprintf(format, args...) + ": send it again later",
	}
}

func elsewhere(message string) *command.Failure {
	return &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: message, Elsewhere: true}
}

func tooLarge(format string, args ...any) *command.Failure {
	return &command.Failure{Code: command.TooLarge, Retry: command.RetryNo, Message: fmt.Sprintf(format, args...)}
}
