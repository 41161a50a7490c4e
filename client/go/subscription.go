package ganglion

import (
	"context"
	"fmt"
	"iter"
	"unicode/utf8"
)

// SubscribeOption is an option of a subscription. If there are several From
// options, the last applies.
type SubscribeOption func(*subscribeOptions)

type subscribeOptions struct {
	start     start
	fromStart bool
	states    stateMode // after events
	buffer    int
	marks     bool
}

// FromNow begins with the next event. It is the default.
func FromNow() SubscribeOption { return from(start{}) }

// FromStart begins with the first event of the stream or category.
func FromStart() SubscribeOption {
	return func(o *subscribeOptions) { o.start, o.fromStart = start{}, true }
}

// FromVersion begins with the event after this version of a stream.
func FromVersion(after uint64) SubscribeOption { return from(start{After: &after}) }

// FromCursor begins after a cursor of an earlier subscription to the same stream
// or category, from [Event.Cursor] or [Subscription.Cursor]. Store [Client.Log]
// with it.
func FromCursor(cursor string) SubscribeOption { return from(start{Cursor: cursor}) }

// FromLast begins with the newest n events of a stream.
func FromLast(n uint64) SubscribeOption { return from(start{Last: n}) }

// FromState begins with the state of a stream, and continues with the events
// after it. Only Follow accepts it.
func FromState() SubscribeOption { return from(start{State: stateFirst}) }

func from(s start) SubscribeOption {
	return func(o *subscribeOptions) { o.start, o.fromStart = s, false }
}

// WithStates adds the newest state of the stream after the end of history and
// after each event, so that the application need not apply events itself. States
// are skipped if they change faster than the server or the application can pass
// them on; the one after the newest event always follows. Only Follow accepts it,
// and not with FromState. [Aggregate.States] yields the states without the events.
func WithStates() SubscribeOption {
	return func(o *subscribeOptions) { o.states = stateEach }
}

// WithBuffer bounds the events that wait for the application, 1,000 by default.
// At the bound the subscription pauses. After a pause, the client requests the
// events again that were in flight, which costs a round trip. So a small buffer
// makes a long history slow.
func WithBuffer(events int) SubscribeOption {
	return func(o *subscribeOptions) { o.buffer = events }
}

func withMarks(o *subscribeOptions) { o.marks = true }

// Kind is the kind of an [Item].
type Kind int

const (
	KindEvent Kind = iota
	KindState      // a state that FromState or WithStates asked for
	KindLive       // all events before it were history
)

// Item is an event, a state or a mark of a subscription. Kind says which member
// is set.
type Item[S, E any] struct {
	Kind  Kind
	Event Event[E]
	State State[S]
}

// Subscription delivers events in order, each once, across reconnects. Only one
// goroutine at a time may call Next or Items.
type Subscription[S, E any] struct {
	follower *follower
	events   map[string]E
}

func follow[S, E any](c *Client, t topic, events map[string]E, opts []SubscribeOption) *Subscription[S, E] {
	o := subscribeOptions{buffer: defaultBuffer}
	for _, set := range opts {
		set(&o)
	}
	switch {
	case o.fromStart && t.Category != "":
		o.start.Cursor = "0"
	case o.fromStart:
		o.start.After = new(uint64)
	}
	var invalid *Error
	switch {
	case !utf8.ValidString(t.Stream + t.Category):
		invalid = &Error{Code: CodeBadRequest, Message: fmt.Sprintf("%q is not UTF-8", t.Stream+t.Category), Retry: RetryNo}
	case (o.start.State != "" || o.states == stateEach) && !o.marks:
		invalid = &Error{Code: CodeBadRequest, Message: "Subscribe yields events only: use Follow with FromState or WithStates", Retry: RetryNo}
	case o.states != "" && o.start.State != "":
		invalid = &Error{Code: CodeBadRequest, Message: "FromState and WithStates exclude each other: WithStates sends the state too", Retry: RetryNo}
	case o.states != "" && t.Category != "":
		invalid = &Error{Code: CodeBadRequest, Message: "a category has no state: use WithStates with an aggregate", Retry: RetryNo}
	}
	if o.states != "" {
		o.start.State = o.states
	}
	return &Subscription[S, E]{follower: c.follow(t, o, invalid), events: events}
}

// Next waits for the next item and returns it. When ctx ends, Next returns its
// cause and the subscription continues. Any other error ends the subscription, and
// every later call returns it.
func (s *Subscription[S, E]) Next(ctx context.Context) (Item[S, E], error) {
	for {
		i, ok, err := s.follower.next()
		switch {
		case ok:
			return s.item(i)
		case err != nil:
			return Item[S, E]{}, err
		}
		select {
		case <-s.follower.ready:
		case <-ctx.Done():
			return Item[S, E]{}, context.Cause(ctx)
		}
	}
}

func (s *Subscription[S, E]) item(i item) (x Item[S, E], err error) {
	x.Kind = i.kind
	switch i.kind {
	case KindEvent:
		x.Event, err = eventOf(i, s.events)
	case KindState:
		x.State, err = stateOf[S](i)
	}
	if err != nil {
		s.follower.rejectNewest(err)
	}
	return x, err
}

// Items yields the results of [Subscription.Next] until ctx or the subscription
// ends. It yields the error last, unless Close ended the subscription.
func (s *Subscription[S, E]) Items(ctx context.Context) iter.Seq2[Item[S, E], error] {
	return func(yield func(Item[S, E], error) bool) {
		for {
			i, err := s.Next(ctx)
			if err == error(errUnsubscribed) {
				return
			}
			if !yield(i, err) || err != nil {
				return
			}
		}
	}
}

// Cursor returns a cursor for [FromCursor]. The application has received every
// event up to it. It is empty until the server has confirmed the start of the
// subscription.
func (s *Subscription[S, E]) Cursor() string { return s.follower.cursor() }

// errUnsubscribed ends a subscription that the application closed.
var errUnsubscribed = &Error{Code: CodeClosed, Message: "the subscription was closed", Retry: RetryNo}

// Close ends the subscription and delivers nothing more.
func (s *Subscription[S, E]) Close() { s.follower.close(errUnsubscribed) }

// events yields the events of a subscription and closes it after the loop.
func events[S, E any](ctx context.Context, opts []SubscribeOption, follow func([]SubscribeOption) *Subscription[S, E]) iter.Seq2[Event[E], error] {
	return func(yield func(Event[E], error) bool) {
		s := follow(opts)
		defer s.Close()
		for {
			i, err := s.Next(ctx)
			if !yield(i.Event, err) || err != nil {
				return
			}
		}
	}
}
