package ganglion

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"sync"
	"unicode/utf8"
)

// processMember names this process in its consumer groups.
var processMember = sync.OnceValue(NewKey)

// GroupEvent is an event that a consumer group delivered to this process. Its data is
// JSON.
//
// For an effect that must happen once, store Log, Stream and Version with the effect,
// in one transaction, and skip an event whose Version is not higher than the stored
// one. That also refuses a process that was declared gone and still runs.
type GroupEvent struct {
	Event[json.RawMessage]
	// Group is the consumer group.
	Group string
	// Log is the id of the log. Versions of another log are those of other events.
	Log string
	// Attempt counts the calls of the handler for this event in this process: 1, 2, …
	// It is 0 for Consume.
	Attempt int
}

// CommandKey returns the key for the n-th command that the application sends because
// of this event: the same one whenever and wherever the event is delivered, so the
// command is executed once.
func (e GroupEvent) CommandKey(n int) string {
	return fmt.Sprintf("%s:%d:%d", e.Group, e.Position, n)
}

// ConsumeOption is an option of [Client.Consume] and [Client.Handle].
type ConsumeOption func(*consumeOptions)

type consumeOptions struct {
	member      string
	window      int
	concurrency int
}

// WithMember names this process among the members of the group that have the same
// client id: 1 to 64 printable ASCII characters. A newer member of the same name takes
// the place of an older one, which ends with [ErrReplaced].
//
// Defaults to a name that all calls of this process share, so a second call for the
// same group replaces the first.
func WithMember(name string) ConsumeOption {
	return func(o *consumeOptions) { o.member = name }
}

// WithWindow bounds the events of each segment that are delivered and not
// acknowledged, from 1 to 1,000. The client holds no other events. It is 100 by
// default.
func WithWindow(events int) ConsumeOption {
	return func(o *consumeOptions) { o.window = events }
}

// WithConcurrency bounds the concurrent calls of a handler. It is 16 by default, and
// Consume ignores it.
func WithConcurrency(calls int) ConsumeOption {
	return func(o *consumeOptions) { o.concurrency = calls }
}

func consumeOptionsOf(group string, opts []ConsumeOption) (consumeOptions, *Error) {
	o := consumeOptions{concurrency: 16}
	for _, set := range opts {
		set(&o)
	}
	if o.member == "" {
		o.member = processMember()
	}
	var invalid string
	switch {
	case !utf8.ValidString(group):
		invalid = fmt.Sprintf("%q is not UTF-8", group)
	case len(o.member) > 64 || strings.ContainsFunc(o.member, func(r rune) bool { return r < ' ' || r > '~' }):
		invalid = fmt.Sprintf("the member %q is invalid: use 1 to 64 printable ASCII characters", o.member)
	case o.window < 0 || o.window > 1000:
		invalid = fmt.Sprintf("the window is %d: it must be from 1 to 1,000", o.window)
	case o.concurrency < 1:
		invalid = fmt.Sprintf("the concurrency is %d: it must be positive", o.concurrency)
	default:
		return o, nil
	}
	return o, &Error{Code: CodeBadRequest, Message: invalid, Retry: RetryNo}
}

// Consume makes this process a member of a consumer group, and yields the events of
// the segments that the server assigns to it, in order per stream, at least once. The
// application acknowledges each one with [Delivery.Ack]. [Client.Handle] adds retries
// and parking.
//
// The member keeps its segments as long as the loop receives or acknowledges events.
// A loop that does neither for the time that the group allows loses them, and other
// members get its events again.
//
// Consume reconnects, to any gateway, and continues. It ends when the application
// leaves the loop, which leaves the group, or after it yields an error: the cause of
// ctx, a refusal by the server, [ErrReplaced] or [ErrClosed].
func (c *Client) Consume(ctx context.Context, group string, opts ...ConsumeOption) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		k := c.consume(ctx, group, false, opts)
		defer k.close()
		for {
			d, err := k.next(ctx)
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// Delivery is an event that the application must acknowledge or park. Its methods are
// safe for concurrent use.
type Delivery struct {
	GroupEvent
	assignment *assignment

	// Guarded by the client's lock.
	state  deliveryState
	reason string // of the park
	tries  int    // of the park
}

type deliveryState int

const (
	isOpen    deliveryState = iota
	isHandled               // acknowledged, or behind a parked event of its stream
	isParking               // the answer to park is pending
)

// Context returns a context that ends, with the cause [ErrRevoked], when the event's
// segment is revoked or the connection is lost. The event will then be delivered
// again, perhaps to another member, so stop working on it. It also ends with the
// context of Consume.
func (d *Delivery) Context() context.Context { return d.assignment.ctx }

// Ack acknowledges the event. Acknowledgements take effect in order: that of an event
// waits for those of the earlier events of its segment. The client sends them in
// batches, after 50 ms or half a window of events. Ack does nothing after the context of the
// delivery has ended, or after Park.
func (d *Delivery) Ack() { d.assignment.consumer.ack(d) }

// Park sets the event's stream aside: its events from this one on wait until an
// operator retries or skips them. Events of the stream that were delivered already
// count as handled, and the loop does not receive them. The reason, of which the
// server gets 1,024 bytes, is for the operator. Park does not wait for the server; the
// client repeats it until the server has parked the stream or revoked the segment.
func (d *Delivery) Park(reason string) { d.assignment.consumer.park(d, reason) }
