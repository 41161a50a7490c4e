package session

import (
	"slices"

	"github.com/ganglion-es/ganglion/gateway/internal/consumer"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// This file has the memberships of consumer groups in the order of the calls: consume,
// begin, and appendConsumed in a turn of the shard; then ack and park.

// maxConsumptions bounds the memberships of a session.
const maxConsumptions = 16

// consumption is the session's membership of a consumer group.
type consumption struct {
	source
	group  string
	member *consumer.Member // nil until it has joined; guarded by Session.mu
}

// consumptions are the memberships of a session.
type consumptions struct {
	sources[*consumption]
	left []string // ids of the last ones that have ended; guarded by Session.mu
}

// remove removes a membership that has ended.
func (cs *consumptions) remove(c *consumption) {
	cs.sources.remove(c)
	if cs.left = append(cs.left, c.id); len(cs.left) > maxConsumptions {
		cs.left = slices.Delete(cs.left, 0, 1)
	}
}

// consume makes the session a member of a group.
func (s reader) consume(f frame.Consume, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failure *command.Failure
	switch {
	case len(s.consumers.byID) >= maxConsumptions:
		s.server.Counters.Reached(limits.Subscriptions)
		failure = command.RateLimited(0, "a session may be in at most %d consumer groups: unsubscribe from one first", maxConsumptions)
		failure.Retry = command.RetryNo
	case s.countSubscriptions() >= s.server.Limits.Subscriptions:
		failure = s.tooManySubscriptions()
	}
	if failure != nil {
		s.replyLocked(r, wire.Fault(r.id, "", failure))
		return
	}
	c := &consumption{source: source{session: s.Session, id: r.id, request: r}, group: f.Group}
	s.consumers.add(c)
	identity, renewals := s.client.identity, s.client.renewals
	request := consumer.Request{
		Sub: r.id, Client: identity.Client, Claims: identity.Claims, Group: f.Group, Name: f.Member, Window: f.WindowOrDefault(),
		IsInProcess: identity.IsInProcess(),
	}
	s.spawn(func() {
		m, failure := s.server.Consumers.Join(s.ctx, request, c.wake)
		s.beginConsuming(c, m, request.Window, renewals, failure)
	})
}

// beginConsuming replies to a consume, and starts the membership if the client has
// joined.
func (s reader) beginConsuming(c *consumption, m *consumer.Member, window, renewals int, failure *command.Failure) {
	s.mu.Lock()
	r := c.request
	switch {
	case c.hasEnded: // by unsubscribe, or with the session
		if m != nil {
			m.Close()
		}
		s.requests.remove(r)
		s.requests.free(1)
		s.sayGoodbyeIfDone()
	case failure != nil:
		s.consumers.remove(c)
		s.replyLocked(r, wire.Fault(r.id, "", failure))
	default:
		c.member = m
		s.requests.remove(r)
		s.add(frame.Consuming{ID: r.id, Window: window, AckWithinMS: m.AckWithin().Milliseconds()}, true)
		s.consumers.start(c)
		s.sayGoodbyeIfDone()
	}
	isOld := c.member != nil && s.client.renewals != renewals
	s.mu.Unlock()
	if isOld { // the client has renewed its token in the meantime
		s.renewConsumers()
	}
}

// endConsumption ends a membership. Later messages have no frames of it. The caller
// holds s.mu.
func (s *Session) endConsumption(c *consumption) { s.dropConsumption(c, (*consumer.Member).Close) }

// leaveGroup is endConsumption for an end in order, whatever is pending.
func (s *Session) leaveGroup(c *consumption) { s.dropConsumption(c, (*consumer.Member).Leave) }

func (s *Session) dropConsumption(c *consumption, end func(*consumer.Member)) {
	if c.hasEnded {
		return
	}
	s.consumers.remove(c)
	if c.member != nil {
		end(c.member)
	}
}

// draft is a message as a [consumer.Sink].
type draft struct {
	writer
	*outbox.Draft
}

// Frame implements [consumer.Sink].
func (d draft) Frame(f frame.Frame) { d.Append(d.wire.Frame(f)) }

// Event implements [consumer.Sink].
func (d draft) Event(of *consumer.Segment, e *history.Entry) bool {
	if !d.Fits(of.Head, e) {
		return false
	}
	d.AppendEvent(of.Head, e)
	d.out.CountEvents(1)
	return true
}

// appendConsumed appends frames of memberships to a message, those of one after those
// of another. The caller holds s.mu.
func (s writer) appendConsumed(d *outbox.Draft) {
	for range len(s.consumers.ready) {
		if d.IsFull() {
			return
		}
		c := s.consumers.next()
		if c.hasEnded {
			continue
		}
		more, failure := c.member.Next(draft{s, d})
		switch {
		case failure != nil:
			s.withdrawConsumption(c, failure)
		case more:
			s.consumers.markReady(c) // behind the others
		}
	}
}

// withdrawConsumption ends a membership for a reason that the client is told. The caller
// holds s.mu.
func (s *Session) withdrawConsumption(c *consumption, failure *command.Failure) {
	if c.hasEnded {
		return
	}
	s.endConsumption(c)
	s.push(frame.Unsubscribed{Sub: c.id, Code: failure.Code, Message: failure.Message})
}

// renewConsumers applies the access rules of the groups to the session's identity, as
// renewQueries does.
func (s *Session) renewConsumers() {
	s.consumers.renewing.Lock()
	defer s.consumers.renewing.Unlock()
	s.mu.Lock()
	client := s.client
	all := slices.DeleteFunc(s.consumers.list(), func(c *consumption) bool { return c.member == nil })
	s.mu.Unlock()
	for _, c := range all { // the application's rules run without s.mu
		if failure := c.member.Renew(client.identity.Client, client.identity.Claims); failure != nil {
			s.mu.Lock()
			if s.client.renewals == client.renewals { // else renewConsumers is called again
				s.withdrawConsumption(c, failure)
			}
			s.mu.Unlock()
		}
	}
}

// ack acknowledges events. It frees the slot of the request, unless the frame has an
// answer.
func (s reader) ack(f frame.Ack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.client.saidHello {
		s.add(wire.Fault("", "", helloFirst()), true)
		return
	}
	isOver, failure := false, (*command.Failure)(nil)
	if c, failed := s.consumption(f.Sub); c != nil {
		isOver, failure = c.member.Ack(f.Segment, f.Epoch, f.Cursor)
	} else {
		isOver, failure = failed == nil, failed
	}
	switch {
	case failure != nil:
		s.add(wire.Fault("", "", failure), true)
	case isOver:
		s.add(frame.Revoked{Sub: f.Sub, Segment: f.Segment, Epoch: f.Epoch}, true)
	default:
		s.requests.free(1)
	}
}

// consumption returns the membership that a frame names. It returns nil and no failure
// if the membership has ended. The caller holds s.mu.
func (s reader) consumption(id string) (*consumption, *command.Failure) {
	c := s.consumers.byID[id]
	switch {
	case c != nil && c.member != nil:
		return c, nil
	case slices.Contains(s.consumers.left, id):
		return nil, nil
	}
	return nil, command.BadRequest("sub", "the session consumes no group under the id %s: give the id of a consume that consuming has answered", command.Quote(id))
}

// park sets the sequence of an event aside.
func (s reader) park(f frame.Park, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, failure := s.consumption(f.Sub)
	switch {
	case failure != nil:
		s.replyLocked(r, wire.Fault(r.id, "", failure))
	case c == nil:
		s.replyOver(f, r)
	default:
		s.spawn(func() {
			isOver, failure := c.member.Park(s.ctx, f)
			s.mu.Lock()
			defer s.mu.Unlock()
			switch {
			case isOver:
				s.replyOver(f, r)
			case failure != nil:
				s.replyLocked(r, wire.Fault(r.id, "", failure))
			default:
				s.replyLocked(r, frame.Result{ID: r.id, Position: f.Position})
			}
		})
	}
}

// replyOver replies to a park whose epoch is over. The caller holds s.mu.
func (s reader) replyOver(f frame.Park, r *request) {
	s.push(frame.Revoked{Sub: f.Sub, Segment: f.Segment, Epoch: f.Epoch})
	s.replyLocked(r, wire.Fault(r.id, "", &command.Failure{
		Code: command.CodeConflict, Retry: command.RetryNo,
		Message: "the segment was revoked, and its pending events go to another member: drop them",
	}))
}
