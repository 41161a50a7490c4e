package ganglion

import (
	"context"
	"fmt"
	"iter"
	"unicode/utf8"
)

// SubscribeOption is an option of a subscription. Of several that say where
// to begin, the last holds.
type SubscribeOption func(*subscribeOptions)

type subscribeOptions struct {
	start     start
	fromStart bool
	buffer    int
	marks     bool
}

// FromNow begins with the first event that is yet to come. It is the default.
func FromNow() SubscribeOption { return from(start{}) }

// FromStart begins with the first event there is.
func FromStart() SubscribeOption {
	return func(o *subscribeOptions) { o.start, o.fromStart = start{}, true }
}

// FromVersion begins after a version of a stream: with the next one.
func FromVersion(after uint64) SubscribeOption { return from(start{After: &after}) }

// FromCursor begins after a cursor of an earlier subscription to the same,
// such as Event.Cursor or Subscription.Cursor. Keep Client.Log with it.
func FromCursor(cursor string) SubscribeOption { return from(start{Cursor: cursor}) }

// FromLast begins with the newest n events of a stream.
func FromLast(n uint64) SubscribeOption { return from(start{Last: n}) }

// FromState begins with the state of a stream, and goes on with the events
// after it. It is for Follow.
func FromState() SubscribeOption { return from(start{State: true}) }

func from(s start) SubscribeOption {
	return func(o *subscribeOptions) { o.start, o.fromStart = s, false }
}

// WithBuffer is how many events may wait for the application; past it reading
// pauses. 1,000 by default. Each pause costs a round trip, and what was on its
// way is sent again: a small buffer makes a long history slow.
func WithBuffer(events int) SubscribeOption {
	return func(o *subscribeOptions) { o.buffer = events }
}

func withMarks(o *subscribeOptions) { o.marks = true }

// Kind says what an Item is.
type Kind int

const (
	KindEvent Kind = iota
	KindState      // the state that FromState asked for
	KindLive       // all before this was history, all after it is new
)

// Item is what a subscription hands over: the member that its Kind says.
type Item[S, E any] struct {
	Kind  Kind
	Event Event[E]
	State State[S]
}

// Subscription hands over events in order, each once, whatever happens to
// connections. Next and Items are for one goroutine at a time.
type Subscription[S, E any] struct {
	feed   *feed
	events map[string]E
}

func follow[S, E any](c *Client, t topic, events map[string]E, opts []SubscribeOption) *Subscription[S, E] {
	o := subscribeOptions{buffer: bufferEvents}
	for _, set := range opts {
		set(&o)
	}
	switch {
	case o.fromStart && t.Category != "":
		o.start.Cursor = "0"
	case o.fromStart:
		o.start.After = new(uint64)
	}
	var wrong *Error
	switch {
	case !utf8.ValidString(t.Stream + t.Category):
		wrong = &Error{Code: CodeBadRequest, Message: fmt.Sprintf("%q is not UTF-8", t.Stream+t.Category), Retry: RetryNo}
	case o.start.State && !o.marks:
		wrong = &Error{Code: CodeBadRequest, Message: "Subscribe yields events only: Follow hands over the state of FromState", Retry: RetryNo}
	}
	return &Subscription[S, E]{feed: c.follow(t, o, wrong), events: events}
}

// Next returns the next item, once there is one. After an error that is not
// of its context there are no more, and every call returns it.
func (s *Subscription[S, E]) Next(ctx context.Context) (Item[S, E], error) {
	for {
		i, ok, err := s.feed.take()
		switch {
		case ok:
			return s.item(i)
		case err != nil:
			return Item[S, E]{}, err
		}
		select {
		case <-s.feed.ready:
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
		s.feed.refuse(err)
	}
	return x, err
}

// Items yields what Next returns, until ctx or the subscription ends, with
// the error as the last; without one if it was closed by Close.
func (s *Subscription[S, E]) Items(ctx context.Context) iter.Seq2[Item[S, E], error] {
	return func(yield func(Item[S, E], error) bool) {
		for {
			i, err := s.Next(ctx)
			if err == error(errLeft) {
				return
			}
			if !yield(i, err) || err != nil {
				return
			}
		}
	}
}

// Cursor returns where to go on with FromCursor: everything up to there was
// handed to the application. It is empty before the server has said where the
// subscription began.
func (s *Subscription[S, E]) Cursor() string { return s.feed.cursor() }

// errLeft ends a subscription that the application has closed.
var errLeft = &Error{Code: CodeClosed, Message: "the subscription was closed", Retry: RetryNo}

// Close ends the subscription: nothing more is handed over.
func (s *Subscription[S, E]) Close() { s.feed.close(errLeft) }

// events is the loop over a subscription's events.
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
