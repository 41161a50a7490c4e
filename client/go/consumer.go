package ganglion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// ackDelay bounds the time for which an acknowledgement waits for others.
	ackDelay = 50 * time.Millisecond
	// ackEvents bounds the acknowledged events that wait.
	ackEvents = 100
	// defaultWindow and defaultAckWithin apply if the server does not say.
	defaultWindow    = 100
	defaultAckWithin = 30 * time.Second
	// maxReasonBytes bounds the reason of a park.
	maxReasonBytes = 1024
	// maxParkBackoff bounds the pause before a refused park is sent again.
	maxParkBackoff = time.Minute
)

// consumer is a member of a consumer group: its assignments, and the events that the
// application has not received or acknowledged.
type consumer struct {
	subscriber
	group  string
	member string
	window int // that the application asks for; 0 for the server's default
	ctx    context.Context

	// isHandler means that running handlers keep the segments. Otherwise, the
	// application does by receiving and acknowledging events.
	isHandler bool

	paused    bool          // the application was too slow; it joins again once it receives
	allowed   int           // the window that applies
	ackWithin time.Duration // a member that is silent for longer loses its segments
	assigned  map[string]*assignment
	queue     []*Delivery // that the application has not received
	active    bool        // the application received or acknowledged an event since the last sign of life
	ackTimer  *timer      // until waiting acknowledgements are sent
	signTimer *timer      // until the next sign of life
}

// assignment is a segment of the group that this member has, under an epoch.
type assignment struct {
	consumer   *consumer
	segment    string
	epoch      uint64
	log        string
	cursor     string          // every event up to it is acknowledged
	position   uint64          // of the newest event that arrived
	events     []*Delivery     // not acknowledged, in order
	waiting    int             // events up to cursor that the server does not know as acknowledged
	isRevoking bool            // the server waits for the acknowledgements
	isQuiet    bool            // no ack was sent since the last sign of life
	parking    map[string]bool // streams for which the answer to park is pending

	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (c *Client) consume(ctx context.Context, group string, isHandler bool, opts []ConsumeOption) *consumer {
	o, invalid := consumeOptionsOf(group, opts)
	k := &consumer{
		group: group, member: o.member, window: o.window, ctx: ctx, isHandler: isHandler,
		allowed: cmp.Or(o.window, defaultWindow), ackWithin: defaultAckWithin, assigned: map[string]*assignment{},
	}
	c.subscribe(&k.subscriber, k, invalid)
	return k
}

func (k *consumer) isPaused() bool               { return k.paused }
func (k *consumer) isResuming() bool             { return false } // the server knows where the group is
func (k *consumer) startOver()                   {}
func (k *consumer) handleUnsubscribed(string)    {}
func (k *consumer) handleHeartbeat(string, bool) {}
func (k *consumer) interrupted()                 { k.revokeAll() }
func (k *consumer) finished()                    { k.revokeAll() }

// isTransient reports whether the member was too slow. It may join again: a handler
// immediately, and another application once it receives events, so that one that
// hangs does not hold up the group again.
func (k *consumer) isTransient(e *Error) bool {
	if e.Code != CodeTimeout {
		return false
	}
	k.paused = !k.isHandler
	k.signal()
	return true
}

func (k *consumer) request() subscribeFrame {
	return subscribeFrame{Op: "consume", Group: k.group, Member: k.member, Window: k.window}
}

func (k *consumer) handleSubscribed(a *gatewayFrame) {
	k.allowed = cmp.Or(a.Window, k.allowed)
	k.ackWithin = cmp.Or(time.Duration(a.AckWithinMS)*time.Millisecond, k.ackWithin)
	k.live = true
	k.c.updateStatus()
}

func (k *consumer) handle(a *gatewayFrame) {
	as := k.assigned[a.Segment]
	switch a.Op {
	case "assigned":
		k.assign(a)
	case "event":
		if as != nil { // events may still arrive after the end of an assignment
			k.deliver(as, a)
		}
	case "revoking":
		if as != nil && as.epoch == a.Epoch {
			as.isRevoking = true
			if as.waiting > 0 {
				k.sendAck(as)
			}
		}
	case "revoked":
		if as != nil && as.epoch == a.Epoch {
			k.revoke(as)
		}
	}
}

func (k *consumer) assign(a *gatewayFrame) {
	if old := k.assigned[a.Segment]; old != nil {
		k.revoke(old)
	}
	as := &assignment{consumer: k, segment: a.Segment, epoch: a.Epoch, log: a.Log, cursor: a.Cursor, isQuiet: true, parking: map[string]bool{}}
	as.ctx, as.cancel = context.WithCancelCause(k.ctx)
	k.assigned[a.Segment] = as
}

// deliver queues an event for the application.
func (k *consumer) deliver(as *assignment, a *gatewayFrame) {
	switch {
	case a.Position <= as.position:
		k.c.report(&Error{
			Code: CodeProtocol, Version: a.Version, Retry: RetryNo,
			Message: fmt.Sprintf("the server sent version %d of %s, position %d, again: dropped", a.Version, a.Stream, a.Position),
		})
		return
	case len(as.events) >= 2*k.allowed: // a park makes room at the server first
		k.endForApplication(&Error{
			Code: CodeProtocol, Retry: RetryNo,
			Message: fmt.Sprintf("the server sent more than %d events of segment %s of group %s without an acknowledgement", k.allowed, as.segment, k.group),
		})
		return
	}
	as.position = a.Position
	i := a.item
	i.Cursor = strconv.FormatUint(a.Position, 10)
	event, _ := eventOf[json.RawMessage](i, nil) // JSON needs no decoding
	d := &Delivery{GroupEvent: GroupEvent{Event: event, Group: k.group, Log: as.log}, assignment: as}
	as.events = append(as.events, d)
	if as.parking[d.Stream] {
		d.state = isHandled // once the server has parked its stream
	} else {
		k.queue = append(k.queue, d)
		k.signal()
	}
	if k.signTimer == nil {
		k.signTimer = k.c.after(k.ackWithin/4, k.watchAssignments)
	}
}

// revoke ends an assignment. The application does not receive its events any more.
func (k *consumer) revoke(as *assignment) {
	delete(k.assigned, as.segment)
	as.cancel(ErrRevoked)
	as.events = nil
	k.queue = slices.DeleteFunc(k.queue, func(d *Delivery) bool { return d.assignment == as })
}

func (k *consumer) revokeAll() {
	k.ackTimer.stop()
	k.signTimer.stop()
	k.ackTimer, k.signTimer = nil, nil
	for _, as := range k.assigned {
		k.revoke(as)
	}
	maps.DeleteFunc(k.c.parks, func(_ string, d *Delivery) bool { return d.assignment.consumer == k })
}

// isOver reports whether the delivery's assignment has ended.
func (d *Delivery) isOver() bool {
	return d.assignment.consumer.assigned[d.assignment.segment] != d.assignment
}

func (k *consumer) ack(d *Delivery) {
	k.c.mu.Lock()
	defer k.c.unlock()
	if d.state != isOpen || d.isOver() {
		return
	}
	d.state, k.active = isHandled, true
	k.advance(d.assignment)
}

// advance acknowledges the events before the first that is not handled.
func (k *consumer) advance(as *assignment) {
	n := 0
	for n < len(as.events) && as.events[n].state == isHandled {
		n++
	}
	if n == 0 {
		return
	}
	as.cursor = as.events[n-1].Cursor()
	clear(as.events[:n]) // release their data
	as.events = as.events[n:]
	as.waiting += n
	switch {
	case as.waiting >= max(1, min(ackEvents, k.allowed/2)), as.isRevoking && len(as.events) == 0:
		k.sendAck(as)
	case k.ackTimer == nil:
		k.ackTimer = k.c.after(ackDelay, k.sendAcks)
	}
}

// sendAcks sends the acknowledgements that wait.
func (k *consumer) sendAcks() {
	k.ackTimer.stop()
	k.ackTimer = nil
	for _, as := range k.bySegment() {
		if as.waiting > 0 {
			k.sendAck(as)
		}
	}
}

func (k *consumer) sendAck(as *assignment) {
	as.waiting, as.isQuiet = 0, false
	k.c.enqueue(encode(segmentFrame{Op: "ack", Sub: k.id, Segment: as.segment, Epoch: as.epoch, Cursor: as.cursor}))
}

func (k *consumer) bySegment() []*assignment {
	all := make([]*assignment, 0, len(k.assigned))
	for _, as := range k.assigned {
		all = append(all, as)
	}
	slices.SortFunc(all, func(a, b *assignment) int { return cmp.Compare(a.segment, b.segment) })
	return all
}

// watchAssignments gives a sign of life four times within the time in which the server
// expects one: it acknowledges the same cursor again, for each assignment that holds
// events. Without events there is nothing to watch.
func (k *consumer) watchAssignments() {
	k.signTimer = nil
	holds := false
	for _, as := range k.bySegment() {
		if len(as.events) == 0 {
			continue
		}
		holds = true
		if as.isQuiet && (k.isHandler || k.active) {
			k.sendAck(as)
		}
		as.isQuiet = true
	}
	k.active = false
	if holds {
		k.signTimer = k.c.after(k.ackWithin/4, k.watchAssignments)
	}
}

func (k *consumer) park(d *Delivery, reason string) {
	k.c.mu.Lock()
	defer k.c.unlock()
	as := d.assignment
	if d.state != isOpen || d.isOver() || as.parking[d.Stream] {
		return
	}
	d.state, d.reason, k.active = isParking, boundedReason(reason), true
	as.parking[d.Stream] = true
	for _, later := range as.events {
		if later.Stream == d.Stream && later.Position > d.Position {
			later.state = isHandled
		}
	}
	k.queue = slices.DeleteFunc(k.queue, func(q *Delivery) bool { return q.assignment == as && q.Stream == d.Stream })
	k.sendPark(d)
}

// boundedReason returns the reason in the form that servers accept.
func boundedReason(reason string) string {
	reason = strings.ReplaceAll(strings.ToValidUTF8(cmp.Or(reason, "no reason given"), "?"), "\x00", "?")
	end := min(len(reason), maxReasonBytes)
	for end < len(reason) && !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end]
}

func (k *consumer) sendPark(d *Delivery) {
	id := k.c.id()
	k.c.parks[id] = d
	k.c.enqueue(encode(segmentFrame{
		Op: "park", ID: id, Sub: k.id, Segment: d.assignment.segment, Epoch: d.assignment.epoch, Position: d.Position, Reason: d.reason,
	}))
}

// handleParked handles the answer to a park. It returns false for other answers.
func (c *Client) handleParked(a *gatewayFrame) bool {
	d := c.parks[a.ID]
	if d == nil {
		return false
	}
	delete(c.parks, a.ID)
	if d.isOver() {
		return true // its answer crossed the end of the assignment
	}
	k, as := d.assignment.consumer, d.assignment
	if a.Op == "result" {
		delete(as.parking, d.Stream)
		d.state = isHandled
		k.advance(as)
		// The server no longer waits for those behind an event that is not handled.
		as.events = slices.DeleteFunc(as.events, func(x *Delivery) bool { return x.state == isHandled && x.Stream == d.Stream })
		return true
	}
	if a.Code == CodeConflict {
		return true // the epoch is over: revoked follows
	}
	e := a.failure()
	e.Retry = RetryLater
	c.report(e)
	wait, given := a.after()
	if !given {
		wait = c.backoff(d.tries, 500*time.Millisecond, maxParkBackoff)
	}
	d.tries++
	c.after(wait, func() {
		if !d.isOver() {
			k.sendPark(d)
		}
	})
	return true
}

// next waits for the next delivery.
func (k *consumer) next(ctx context.Context) (*Delivery, error) {
	for {
		d, err := k.take()
		if d != nil || err != nil {
			return d, err
		}
		select {
		case <-k.ready:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns the next delivery, or the error that ended the consumer, or neither if
// there is no delivery yet.
func (k *consumer) take() (*Delivery, error) {
	k.c.mu.Lock()
	defer k.c.unlock()
	if k.paused {
		if k.paused = false; k.wantsSubscribe() {
			k.c.sendSubscribe(&k.subscriber)
		}
	}
	if len(k.queue) == 0 {
		return nil, k.err
	}
	d := k.queue[0]
	k.queue[0] = nil // release its data
	k.queue = k.queue[1:]
	k.active = true
	return d, nil
}

// close sends the acknowledgements that wait and leaves the group.
func (k *consumer) close() {
	k.c.mu.Lock()
	defer k.c.unlock()
	k.sendAcks()
	k.endForApplication(errUnsubscribed)
}
