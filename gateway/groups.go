package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/consumer"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// pollers are the members of consumer groups over HTTP. A member stays between its
// calls, for as long as it may hold an event. It is safe for concurrent use.
type pollers struct {
	consumers *consumer.Gateway
	limits    *limits.Limits
	counters  *limits.Counters

	mu       sync.Mutex
	all      map[pollerID]*poller
	byClient map[string]int
}

type pollerID struct{ client, group, member string }

// poller is one member. Its calls are served one after another, in their order.
// pollers.mu guards calls, newest and idle.
type poller struct {
	id     pollerID
	wake   chan struct{} // signalled when the member may have something
	calls  int           // in progress
	newest *call
	idle   *time.Timer // ends the membership; nil while a call is in progress

	// member is nil before the first call. The call that is served changes it, with
	// pollers.mu held.
	member *consumer.Member
}

// call is a call of a member.
type call struct {
	*poller
	before *call         // nil for the first
	newer  chan struct{} // closed when the member makes another call, which ends the wait of this one
	done   chan struct{} // closed at the end
}

func newPollers(consumers *consumer.Gateway, l *limits.Limits, counters *limits.Counters) *pollers {
	return &pollers{consumers: consumers, limits: l, counters: counters, all: make(map[pollerID]*poller), byClient: make(map[string]int)}
}

// enter begins a call of a member. It waits for the end of the one before, which does
// not wait for events any more. The caller must call leave at the end.
func (ps *pollers) enter(id pollerID) (*call, *command.Failure) {
	c, failure := ps.add(id)
	if failure == nil && c.before != nil {
		<-c.before.done
		c.before = nil
	}
	return c, failure
}

func (ps *pollers) add(id pollerID) (*call, *command.Failure) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.all[id]
	if p == nil {
		if ps.byClient[id.client] >= ps.limits.SessionsPerClient {
			ps.counters.Reached(limits.SessionsPerClient)
			return nil, command.RateLimited(time.Second, "this client has %d members of consumer groups over HTTP at this gateway, which is the maximum: "+
				"use the same member for each call of a process", ps.limits.SessionsPerClient)
		}
		p = &poller{id: id, wake: make(chan struct{}, 1)}
		ps.all[id] = p
		ps.byClient[id.client]++
	}
	if p.idle != nil {
		p.idle.Stop()
		p.idle = nil
	}
	p.calls++
	c := &call{poller: p, before: p.newest, newer: make(chan struct{}), done: make(chan struct{})}
	if c.before != nil {
		close(c.before.newer)
	}
	p.newest = c
	return c, nil
}

// leave ends a call. Without another one, the membership ends after the group's
// AckWithin.
func (ps *pollers) leave(c *call) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := c.poller
	close(c.done)
	if p.calls--; p.calls > 0 {
		return
	}
	p.newest = nil
	if p.member == nil || p.member.HasEnded() {
		ps.remove(p)
		return
	}
	p.member.Rest()
	var idle *time.Timer
	idle = time.AfterFunc(p.member.AckWithin(), func() {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		if p.idle == idle {
			ps.remove(p)
		}
	})
	p.idle = idle
}

// remove ends a membership. The caller holds ps.mu.
func (ps *pollers) remove(p *poller) {
	if ps.all[p.id] != p {
		return
	}
	delete(ps.all, p.id)
	if ps.byClient[p.id.client]--; ps.byClient[p.id.client] == 0 {
		delete(ps.byClient, p.id.client)
	}
	if p.member != nil {
		p.member.Close()
	}
}

// endAll ends all memberships. Calls in progress return the failure.
func (ps *pollers) endAll(failure *command.Failure) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.all {
		if p.member != nil {
			p.member.End(failure)
		}
		if p.idle != nil {
			p.idle.Stop()
			ps.remove(p)
		}
	}
}

// join makes the client of a call a member, unless it is one.
func (ps *pollers) join(ctx context.Context, p *poller, claims map[string]any) *command.Failure {
	if p.member != nil && !p.member.HasEnded() {
		return p.member.Renew(p.id.client, claims)
	}
	m, failure := ps.consumers.Join(ctx, consumer.Request{
		Client: p.id.client, Claims: claims, Group: p.id.group, Name: p.id.member, Window: frame.DefaultConsumeWindow,
	}, func() {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	})
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.member = m
	return failure
}

// serveNext acknowledges events of a consumer group, and responds with the next ones.
func (g *Gateway) serveNext(w http.ResponseWriter, r *http.Request, identity Identity) {
	next, failure := g.readNext(w, r)
	if failure == nil {
		failure = failureOf(g.Refusing())
	}
	var c *call
	if failure == nil {
		c, failure = g.pollers.enter(pollerID{identity.Client, r.PathValue("group"), next.Member})
	}
	if failure != nil {
		writeFailure(w, "", "", failure)
		return
	}
	defer g.pollers.leave(c)
	if failure = g.pollers.join(r.Context(), c.poller, identity.Claims); failure == nil {
		failure = failureOf(g.Refusing()) // the state may have changed in the meantime
	}
	if failure != nil {
		if c.member != nil {
			c.member.Close()
		}
		writeFailure(w, "", "", failure)
		return
	}
	b, failure := c.next(r.Context(), next)
	switch {
	case failure != nil:
		writeFailure(w, "", "", failure)
	case r.Context().Err() != nil && len(b.events) > 0:
		c.member.Close() // the client has gone, and its next session gets the events again
	default:
		g.respondBatch(w, identity, c.member, b)
	}
}

// readNext reads the body of a request.
func (g *Gateway) readNext(w http.ResponseWriter, r *http.Request) (frame.Next, *command.Failure) {
	if r.URL.RawQuery != "" {
		return frame.Next{}, command.BadRequest("", "this path has no parameters: put member, acks, parks, max and wait_ms into the body")
	}
	body, failure := g.readBody(w, r)
	if failure != nil {
		return frame.Next{}, failure
	}
	next, err := frame.ParseNext(body)
	var bad *frame.Error
	switch {
	case err == nil:
		return next, nil
	case errors.As(err, &bad):
		return next, bad.Failure()
	}
	return next, command.BadRequest("", "the body is not JSON in UTF-8: send a JSON object with the member's name")
}

// next acknowledges and parks what a call names, and waits for the next events.
func (c *call) next(ctx context.Context, next frame.Next) (*batch, *command.Failure) {
	b := &batch{most: next.MaxOrDefault()}
	c.member.SetWindow(b.most)
	if failure := settle(ctx, c.member, next, b); failure != nil {
		return nil, failure
	}
	timer := time.NewTimer(next.Wait())
	defer timer.Stop()
	for isLast := false; ; {
		more, failure := c.member.Next(b)
		switch {
		case failure != nil:
			return nil, failure
		case isLast && !more, b.isWorthSending():
			return b, nil
		case more: // it has looked at many events that concern others
			continue
		}
		select {
		case <-c.wake:
		case <-timer.C:
			isLast = true
		case <-c.newer:
			return b, nil
		case <-ctx.Done():
			return b, nil
		}
	}
}

// settle acknowledges and parks what a call names.
func settle(ctx context.Context, m *consumer.Member, next frame.Next, b *batch) *command.Failure {
	for i, a := range next.Acks {
		isOver, failure := m.Ack(a.Segment, a.Epoch, a.Cursor)
		if failure != nil {
			return within("acks", i, failure)
		}
		if isOver {
			b.revoked = append(b.revoked, frame.Revoked{Segment: a.Segment, Epoch: a.Epoch})
		}
	}
	for i, f := range next.Parks {
		isOver, failure := m.Park(ctx, f)
		if failure != nil {
			return within("parks", i, failure)
		}
		if isOver {
			b.revoked = append(b.revoked, frame.Revoked{Segment: f.Segment, Epoch: f.Epoch})
		}
	}
	return nil
}

// within names the element of a list that a failure is about. The elements before it
// have been carried out.
func within(list string, i int, f *command.Failure) *command.Failure {
	at := list + "[" + strconv.Itoa(i) + "]"
	f.Message = at + ": " + f.Message
	if f.Field != "" {
		f.Field = at + "." + f.Field
	}
	return f
}

// batchBytes is the size past which a response has no further event.
const batchBytes = 1 << 20

// batch is a response as a [consumer.Sink].
type batch struct {
	most    int // events
	bytes   int
	events  []polled
	revoked []frame.Revoked
	isNews  bool // a segment is being revoked
}

// polled is an event of a segment.
type polled struct {
	segment string
	epoch   uint64
	json    json.RawMessage
}

// heldBy returns the events of segments that the member still has.
func (b *batch) heldBy(segments []frame.Held) (events []json.RawMessage) {
	epochs := make(map[string]uint64, len(segments))
	for _, s := range segments {
		epochs[s.Segment] = s.Epoch
	}
	for _, e := range b.events {
		if epochs[e.segment] == e.epoch {
			events = append(events, e.json)
		}
	}
	return events
}

func (b *batch) isWorthSending() bool { return len(b.events) > 0 || len(b.revoked) > 0 || b.isNews }

// Frame implements [consumer.Sink].
func (b *batch) Frame(f frame.Frame) {
	switch f := f.(type) {
	case frame.Revoked:
		b.revoked = append(b.revoked, f)
	case frame.Revoking:
		b.isNews = true
	}
}

// Event implements [consumer.Sink].
func (b *batch) Event(of *consumer.Segment, e *history.Entry) bool {
	if len(b.events) >= b.most || b.bytes >= batchBytes {
		return false
	}
	event := frame.AppendString([]byte(`{"segment":`), of.Name)
	event = append(append(event, ','), e.Tail...)
	b.events = append(b.events, polled{of.Name, of.Epoch, event})
	b.bytes += len(event)
	return true
}

// respondBatch responds with what a call has got. If the client does not take it, the
// membership ends, and the events are sent again.
func (g *Gateway) respondBatch(w http.ResponseWriter, identity Identity, m *consumer.Member, b *batch) {
	held := m.Held()
	body := frame.Batch{
		Log: m.Log(), AckWithinMS: m.AckWithin().Milliseconds(), Segments: held, Revoked: b.revoked, Events: b.heldBy(held),
	}.Append(nil)
	out := g.responses.begin(w, identity)
	defer out.finish()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	body = append(body, '\n')
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if out.write(body) != nil && len(b.events) > 0 {
		m.Close()
	}
}
