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

// Type binds a type of aggregate to Go types: S for its state, E for its events.
//
// If the aggregate has one type of event, E can be that type. If it has several,
// E is an interface that they share, such as any, and Events maps stored names to
// Go types. The application then switches on the type of Event.Data.
type Type[S, E any] struct {
	// Name is the aggregate's type, such as "auction".
	Name string
	// Events maps each stored name, such as "bid_placed", to a value of the Go
	// type of its data. An event with another name has the zero value in Data,
	// and its JSON in Raw. If Events is nil, the data of every event is decoded
	// into E.
	Events map[string]E
}

// Aggregate returns the aggregate with this id.
func (t Type[S, E]) Aggregate(c *Client, id string) *Aggregate[S, E] {
	return &Aggregate[S, E]{c: c, typ: t, stream: t.Name + "/" + id}
}

// Category returns all aggregates of the type.
func (t Type[S, E]) Category(c *Client) *Category[S, E] { return &Category[S, E]{c: c, typ: t} }

// Aggregate is one aggregate. It need not have events yet.
type Aggregate[S, E any] struct {
	c      *Client
	typ    Type[S, E]
	stream string
}

// Result is the outcome of a command that was executed.
type Result struct {
	// Key is the command's key, which its events have as Cause.
	Key string
	// Version is the version of the stream after the command, and Position the
	// position in the log.
	Version, Position uint64
	// Replayed means that an earlier command with this key was executed, and that
	// this is its result.
	Replayed bool
	// Data is the aggregate's answer to the command, if it gives one.
	Data json.RawMessage
}

// State is the public state of an aggregate.
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
	// Raw is the JSON of Data.
	Raw json.RawMessage
	// Version counts the events of the stream: 1, 2, 3, … Position is the
	// event's place in the log.
	Version, Position uint64
	Time              time.Time
	// Cause is the key of the command that caused the event. By is the client
	// that sent the command, if the aggregate publishes it.
	Cause, By string

	cursor string
}

// ID returns the aggregate's id: Stream without its type.
func (e Event[E]) ID() string {
	_, id, _ := strings.Cut(e.Stream, "/")
	return id
}

// Cursor returns the cursor after this event, for [FromCursor].
func (e Event[E]) Cursor() string { return e.cursor }

// SendOption is an option of [Aggregate.Send] and [Aggregate.Start].
type SendOption interface{ applySend(*commandFrame) }

type sendOption func(*commandFrame)

func (set sendOption) applySend(f *commandFrame) { set(f) }

// WithKey sets the command's idempotency key. A second command with the same key
// gets the answer to the first. The default is a new key from [NewKey].
func WithKey(key string) SendOption { return sendOption(func(f *commandFrame) { f.Key = key }) }

// WithExpect lets the command succeed only if the aggregate is at this version.
// Otherwise the error is [ErrConflict].
func WithExpect(version uint64) SendOption {
	return sendOption(func(f *commandFrame) { f.Expect = &version })
}

// TimeoutOption is an option of commands and queries.
type TimeoutOption time.Duration

// WithTimeout bounds the server's time for one attempt, in whole milliseconds up
// to 30 s. It is 5 s by default. The context bounds all attempts together.
func WithTimeout(d time.Duration) TimeoutOption { return TimeoutOption(d) }

func (o TimeoutOption) milliseconds() int64       { return time.Duration(o).Milliseconds() }
func (o TimeoutOption) applySend(f *commandFrame) { f.TimeoutMS = o.milliseconds() }
func (o TimeoutOption) applyQuery(f *queryFrame)  { f.TimeoutMS = o.milliseconds() }

// WithTrace sets the W3C traceparent of the command.
func WithTrace(traceparent string) SendOption {
	return sendOption(func(f *commandFrame) { f.Trace = traceparent })
}

// Send sends a command and waits for its outcome. It waits for a connection, and
// sends the command again until the outcome is known; the command is executed
// once. data is any value that encoding/json encodes as an object; nil is {}.
// Every error is an [*Error], such as [ErrRejected] if a business rule rejects the
// command.
//
// When ctx ends, Send stops waiting. A command that was not sent by then is never
// sent. One that was sent may still be executed: the error's Retry is
// RetrySameKey.
func (a *Aggregate[S, E]) Send(ctx context.Context, command string, data any, opts ...SendOption) (Result, error) {
	return a.Start(ctx, command, data, opts...).Wait()
}

// Start sends a command as [Aggregate.Send] does, without waiting for its
// outcome. Commands to one aggregate are executed in the order of the calls. The
// exception is a command that moves to another gateway because the first does not
// know its name.
func (a *Aggregate[S, E]) Start(ctx context.Context, command string, data any, opts ...SendOption) *Sending {
	if data == nil {
		data = struct{}{}
	}
	f := commandFrame{Op: "command", Aggregate: a.stream, Command: command, Data: data}
	for _, o := range opts {
		o.applySend(&f)
	}
	if f.Key == "" {
		f.Key = NewKey()
	}
	timeout := defaultTimeout
	if f.TimeoutMS > 0 {
		timeout = time.Duration(f.TimeoutMS) * time.Millisecond
	}
	return &Sending{Key: f.Key, request: a.c.startRequest(ctx, a.stream, a.stream, f.Key, timeout, func(id string) any {
		f.ID = id
		return f
	})}
}

// Sending is a command whose outcome may not be known yet.
type Sending struct {
	// Key is the command's key, which its events have as Cause. An application
	// can show the expected result under this key, and withdraw it if the command
	// fails.
	Key string

	request *request
}

// Done returns a channel that is closed once the outcome is known.
func (s *Sending) Done() <-chan struct{} { return s.request.done }

// Wait waits for the outcome and returns the results of [Aggregate.Send].
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

// GetOption is an option of [Aggregate.Get].
type GetOption interface{ applyGet(*getFrame) }

type getOption func(*getFrame)

func (set getOption) applyGet(f *getFrame) { set(f) }

// AtLeastOption is an option of reads and queries.
type AtLeastOption uint64

// AtLeast asks for a state, or for rows, at or past this position. With the
// position of a [Result], a client reads its own writes.
func AtLeast(position uint64) AtLeastOption { return AtLeastOption(position) }

func (o AtLeastOption) applyGet(f *getFrame)     { f.AtLeast = uint64(o) }
func (o AtLeastOption) applyQuery(f *queryFrame) { f.AtLeast = uint64(o) }
func (o AtLeastOption) applyLive(q *liveQuery)   { q.atLeast = uint64(o) }

// Strong makes the read linearizable: the server compares the state with the log
// first.
func Strong() GetOption { return getOption(func(f *getFrame) { f.Strong = true }) }

// Get reads the state of the aggregate. It waits for a connection. Every error of
// the server and the connection is an [*Error].
func (a *Aggregate[S, E]) Get(ctx context.Context, opts ...GetOption) (State[S], error) {
	f := getFrame{Op: "get", Aggregate: a.stream}
	for _, o := range opts {
		o.applyGet(&f)
	}
	r := a.c.startRequest(ctx, "", a.stream, "", defaultTimeout, func(id string) any {
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
		return State[S]{}, fmt.Errorf("ganglion: can't decode the state of %s at version %d: %w", i.Stream, i.Version, err)
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
		return Event[E]{}, fmt.Errorf("ganglion: can't decode event %s of %s, version %d: %w", i.Event, i.Stream, i.Version, err)
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

// decodeLike decodes data into a new value of the sample's dynamic type.
func decodeLike[E any](data json.RawMessage, sample E) (e E, err error) {
	v := reflect.New(reflect.TypeOf(sample))
	if err := json.Unmarshal(data, v.Interface()); err != nil {
		return e, err
	}
	return v.Elem().Interface().(E), nil
}

// Subscribe yields the aggregate's events in order, each once, across reconnects.
// A From option sets where it begins; the default is [FromNow]. It ends when the
// application leaves the loop, or after it yields an error: the cause of ctx, a
// refusal by the server, [ErrGap], [ErrClosed], or a failure to decode the data
// into the event's Go type.
//
// A slow loop pauses the subscription and loses nothing.
func (a *Aggregate[S, E]) Subscribe(ctx context.Context, opts ...SubscribeOption) iter.Seq2[Event[E], error] {
	return events(ctx, opts, a.follow)
}

// States yields the newest state of the aggregate, and then the states that
// follow, in the order of their versions, across reconnects. It skips states that
// change faster than the server or the loop can pass them on; the newest always
// follows. It ends as [Aggregate.Subscribe] does, except that it continues in
// another log, whose versions may be lower.
func (a *Aggregate[S, E]) States(ctx context.Context) iter.Seq2[State[S], error] {
	return func(yield func(State[S], error) bool) {
		s := a.follow([]SubscribeOption{func(o *subscribeOptions) { o.states = stateOnly }})
		defer s.Close()
		for {
			i, err := s.Next(ctx)
			if !yield(i.State, err) || err != nil {
				return
			}
		}
	}
}

// Follow subscribes like [Aggregate.Subscribe]. It also delivers the state, if
// [FromState] or [WithStates] is set, and the end of history, and its cursor advances while the
// stream is quiet. It begins before the first call of Next. The caller must close
// the subscription.
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

// Subscribe yields the events of all aggregates of the type; see
// [Aggregate.Subscribe].
func (c *Category[S, E]) Subscribe(ctx context.Context, opts ...SubscribeOption) iter.Seq2[Event[E], error] {
	return events(ctx, opts, c.follow)
}

// Follow subscribes to all aggregates of the type; see [Aggregate.Follow].
func (c *Category[S, E]) Follow(opts ...SubscribeOption) *Subscription[S, E] {
	return c.follow(append(opts[:len(opts):len(opts)], withMarks))
}

func (c *Category[S, E]) follow(opts []SubscribeOption) *Subscription[S, E] {
	return follow[S](c.c, topic{Category: c.typ.Name}, c.typ.Events, opts)
}
