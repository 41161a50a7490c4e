package ganglion

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"
)

// Type says what a type of aggregate shows and emits, as Go types: S is its
// state, E its events.
//
// With one type of event E may be that type. With several E is an interface
// that they have in common, such as any, and Events tells which is which, for
// a switch on the type of Event.Data.
type Type[S, E any] struct {
	// Name is the aggregate's type, such as "auction".
	Name string
	// Events has for each stored name, such as "bid_placed", a value of the
	// type that its data is read into. An event with a name that is not here
	// has Data of the zero value and its Raw. Without Events, the data of every
	// event is read into E.
	Events map[string]E
}

// Aggregate returns one aggregate of the type.
func (t Type[S, E]) Aggregate(c *Client, id string) *Aggregate[S, E] {
	return &Aggregate[S, E]{c: c, typ: t, stream: t.Name + "/" + id}
}

// Category returns all aggregates of the type.
func (t Type[S, E]) Category(c *Client) *Category[S, E] { return &Category[S, E]{c: c, typ: t} }

// Aggregate is one aggregate, whether it has events yet or not.
type Aggregate[S, E any] struct {
	c      *Client
	typ    Type[S, E]
	stream string
}

// Result is the outcome of a command that was executed.
type Result struct {
	// Key is the command's; the events that it caused say it as their Cause.
	Key string
	// Version and Position are the stream's and the log's, after the command.
	Version, Position uint64
	// Replayed tells that this key had been executed before, and that this is
	// its first answer.
	Replayed bool
	// Data is what the command answered, if anything.
	Data json.RawMessage
}

// State is what an aggregate shows.
type State[S any] struct {
	Data              S
	Stream            string // such as auction/42
	Version, Position uint64
}

// Event is one event of a subscription.
type Event[E any] struct {
	// Stream is the aggregate's type and id, such as auction/42.
	Stream string
	// Name is the event's stored name, such as bid_placed.
	Name string
	Data E
	// Raw is Data as it came.
	Raw json.RawMessage
	// Version counts the events of the stream: 1, 2, 3, … Position is the
	// event's place in the log.
	Version, Position uint64
	Time              time.Time
	// Cause is the key of the command that caused it, By the client that did,
	// where the aggregate shows it.
	Cause, By string

	cursor string
}

// ID returns the aggregate's id: Stream without its type.
func (e Event[E]) ID() string {
	_, id, _ := strings.Cut(e.Stream, "/")
	return id
}

// Cursor returns where to go on after this event, with FromCursor.
func (e Event[E]) Cursor() string { return e.cursor }

// SendOption is an option of Send and Start.
type SendOption func(*commandFrame)

// WithKey gives the command's idempotency key. The same key again gets the
// first answer. By default each command has a NewKey.
func WithKey(key string) SendOption { return func(f *commandFrame) { f.Key = key } }

// WithExpect executes the command only if the aggregate is at this version;
// else the error is ErrConflict.
func WithExpect(version uint64) SendOption { return func(f *commandFrame) { f.Expect = &version } }

// WithTimeout is how long a server may take for one attempt, in whole
// milliseconds up to 30 s: 5 s by default. The context bounds all attempts.
func WithTimeout(d time.Duration) SendOption {
	return func(f *commandFrame) { f.TimeoutMS = d.Milliseconds() }
}

// WithTrace gives the command a W3C traceparent.
func WithTrace(traceparent string) SendOption {
	return func(f *commandFrame) { f.Trace = traceparent }
}

// Send sends a command, at once or once there is a connection, until its
// outcome is known: it happens once. data is anything that encoding/json
// writes as an object; nil is {}. Every error is an *Error: ErrRejected, if a
// business rule says no.
//
// When ctx ends, Send gives up waiting. A command that was not sent yet never
// will be; one that was may happen, and the error's Retry says so.
func (a *Aggregate[S, E]) Send(ctx context.Context, command string, data any, opts ...SendOption) (Result, error) {
	return a.Start(ctx, command, data, opts...).Wait()
}

// Start does what Send does, and does not wait for the outcome. Commands to
// one aggregate are executed in the order of the calls, unless a server had no
// time for one and for the next it had.
func (a *Aggregate[S, E]) Start(ctx context.Context, command string, data any, opts ...SendOption) *Sending {
	if data == nil {
		data = struct{}{}
	}
	f := commandFrame{Op: "command", Aggregate: a.stream, Command: command, Data: data}
	for _, set := range opts {
		set(&f)
	}
	if f.Key == "" {
		f.Key = NewKey()
	}
	timeout := defaultTimeout
	if f.TimeoutMS > 0 {
		timeout = time.Duration(f.TimeoutMS) * time.Millisecond
	}
	return &Sending{Key: f.Key, request: a.c.start(ctx, a.stream, a.stream, f.Key, timeout, func(id string) any {
		f.ID = id
		return f
	})}
}

// Sending is a command whose outcome is not known yet.
type Sending struct {
	// Key is the command's. The events that it causes say it as their Cause,
	// so that an application can show what it hopes for and take it back.
	Key string

	request *request
}

// Done is closed once the outcome is known.
func (s *Sending) Done() <-chan struct{} { return s.request.done }

// Wait waits for the outcome, which is Send's.
func (s *Sending) Wait() (Result, error) {
	<-s.request.done
	if err := s.request.err; err != nil {
		return Result{}, err
	}
	a := &s.request.result
	key := a.Key
	if key == "" {
		key = s.Key
	}
	return Result{Key: key, Version: a.Version, Position: a.Position, Replayed: a.Replayed, Data: a.Data}, nil
}

// GetOption is an option of Get.
type GetOption func(*getFrame)

// AtLeast asks for a state at or past this position, such as that of a
// Result: for reading one's own writes.
func AtLeast(position uint64) GetOption { return func(f *getFrame) { f.AtLeast = position } }

// Strong asks for a state that is compared with the log first: the read is
// linearizable.
func Strong() GetOption { return func(f *getFrame) { f.Strong = true } }

// Get reads the state, at once or once there is a connection. Every error of
// the server and the connection is an *Error.
func (a *Aggregate[S, E]) Get(ctx context.Context, opts ...GetOption) (State[S], error) {
	f := getFrame{Op: "get", Aggregate: a.stream}
	for _, set := range opts {
		set(&f)
	}
	r := a.c.start(ctx, "", a.stream, "", defaultTimeout, func(id string) any {
		f.ID = id
		return f
	})
	<-r.done
	if r.err != nil {
		return State[S]{}, r.err
	}
	i := r.result.item
	i.Stream = a.stream
	return stateOf[S](i)
}

func stateOf[S any](i item) (State[S], error) {
	data, err := decode[S](i.Data)
	if err != nil {
		return State[S]{}, fmt.Errorf("ganglion: the state of %s at version %d: %w", i.Stream, i.Version, err)
	}
	return State[S]{Data: data, Stream: i.Stream, Version: i.Version, Position: i.Position}, nil
}

func eventOf[E any](i item, events map[string]E) (Event[E], error) {
	e := Event[E]{
		Stream: i.Stream, Name: i.Event, Raw: i.Data, Version: i.Version, Position: i.Position,
		Time: i.Time, Cause: i.Cause, By: i.By, cursor: i.Cursor,
	}
	var err error
	if events == nil {
		e.Data, err = decode[E](i.Data)
	} else if sample, ok := events[i.Event]; ok {
		e.Data, err = decodeLike(i.Data, sample)
	}
	if err != nil {
		return Event[E]{}, fmt.Errorf("ganglion: event %s of %s, version %d: %w", i.Event, i.Stream, i.Version, err)
	}
	return e, nil
}

func decode[T any](data json.RawMessage) (v T, err error) {
	if raw, ok := any(&v).(*json.RawMessage); ok {
		*raw = data
		return v, nil
	}
	if len(data) == 0 {
		return v, nil
	}
	return v, json.Unmarshal(data, &v)
}

// decodeLike reads data into a new value of the sample's own type.
func decodeLike[E any](data json.RawMessage, sample E) (e E, err error) {
	v := reflect.New(reflect.TypeOf(sample))
	if err := json.Unmarshal(data, v.Interface()); err != nil {
		return e, err
	}
	return v.Elem().Interface().(E), nil
}

// Subscribe follows the aggregate: it yields its events in order, each once,
// whatever happens to connections, from where a From option says; from now on
// without one. Leaving the loop ends it. An error ends it as well, and comes
// last: what ended ctx, a refusal of the server's, ErrGap, ErrClosed, or data
// that the event's Go type does not take.
//
// A loop that is slow pauses the subscription and loses nothing.
func (a *Aggregate[S, E]) Subscribe(ctx context.Context, opts ...SubscribeOption) iter.Seq2[Event[E], error] {
	return events(ctx, opts, a.follow)
}

// Follow follows the aggregate as Subscribe does, for who wants more than the
// events: the state first, to know when history ends, or the cursor of a quiet
// stream. It begins at once. The caller closes it.
func (a *Aggregate[S, E]) Follow(opts ...SubscribeOption) *Subscription[S, E] {
	return a.follow(append(opts[:len(opts):len(opts)], withMarks))
}

func (a *Aggregate[S, E]) follow(opts []SubscribeOption) *Subscription[S, E] {
	return follow[S](a.c, topic{Stream: a.stream}, a.typ.Events, opts)
}

// Category is all aggregates of a type.
type Category[S, E any] struct {
	c   *Client
	typ Type[S, E]
}

// Subscribe follows all aggregates of the type; see Aggregate.Subscribe.
func (c *Category[S, E]) Subscribe(ctx context.Context, opts ...SubscribeOption) iter.Seq2[Event[E], error] {
	return events(ctx, opts, c.follow)
}

// Follow follows all aggregates of the type; see Aggregate.Follow.
func (c *Category[S, E]) Follow(opts ...SubscribeOption) *Subscription[S, E] {
	return c.follow(append(opts[:len(opts):len(opts)], withMarks))
}

func (c *Category[S, E]) follow(opts []SubscribeOption) *Subscription[S, E] {
	return follow[S](c.c, topic{Category: c.typ.Name}, c.typ.Events, opts)
}
