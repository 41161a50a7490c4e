package history

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/queue"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/time/rate"
)

// Bounds of [SharedStates].
const (
	// stateMemory bounds the states that are kept for other readers, in bytes.
	stateMemory = 16 << 20
	// stateReads bounds the concurrent reads.
	stateReads = 16
	// stateEvery is the least time between two reads of one stream: readers of
	// a busy stream get at most 50 states a second.
	stateEvery = 20 * time.Millisecond
	// stateAge is how long a state may be shown to further readers. An owner
	// with a newer program may show the same version in another form.
	stateAge = 10 * time.Second
	// stateRetry is the longest pause before a failed read is tried again.
	stateRetry = 2 * time.Second
)

// SharedState is the public state of an aggregate, encoded once for all
// readers. It is immutable.
type SharedState struct {
	Version eventstore.Version
	Tail    []byte // the state frame without its head

	stream eventstore.StreamID
	began  time.Time // the read
}

// StateReader waits for a newer state.
type StateReader interface {
	// IsWaiting reports whether the reader still wants the state.
	IsWaiting() bool
	// Refresh makes the reader ask again.
	Refresh()
}

// SharedStates has the newest states of the streams whose states are
// subscribed to. It asks a stream's owner once for all readers, and keeps asking
// while the owner can't answer. It is safe for concurrent use.
type SharedStates struct {
	ctx     context.Context // ends when no client is left
	read    func(context.Context, command.Get) (command.State, error)
	log     *slog.Logger
	warning rate.Sometimes
	count   atomic.Uint64

	mu      sync.Mutex
	streams map[eventstore.StreamID]*list.Element
	kept    list.List // of *SharedState, the most recently used first
	bytes   int       // in kept
	pending map[eventstore.StreamID]*sharedRead
	wanted  queue.Fair[*sharedRead] // their turn has not come
	readers int                     // goroutines
	epoch   uint64                  // of Clear
	stopped bool
	done    sync.WaitGroup // readers
}

// sharedRead is a read of one state for all readers that wait for it.
type sharedRead struct {
	stream  eventstore.StreamID
	client  string // that caused it
	want    Place  // the newest that a reader has asked for
	pause   time.Duration
	waiting []StateReader
}

// NewSharedStates returns a SharedStates. read asks an aggregate's owner; its
// error is a *command.Failure. Reads end with ctx.
func NewSharedStates(ctx context.Context, read func(context.Context, command.Get) (command.State, error), log *slog.Logger) *SharedStates {
	return &SharedStates{
		ctx: ctx, read: read, log: log, warning: rate.Sometimes{Interval: time.Minute},
		streams: make(map[eventstore.StreamID]*list.Element),
		pending: make(map[eventstore.StreamID]*sharedRead),
	}
}

// Reads returns the number of requests to owners.
func (ss *SharedStates) Reads() uint64 { return ss.count.Load() }

// Get returns the newest known state of a stream, or nil. isNewest reports
// whether that includes the event at the reader's place. If it does not, Get
// reads a newer one and then calls r.Refresh. r is nil if it waits already.
func (ss *SharedStates) Get(r StateReader, client string, stream eventstore.StreamID, want Place) (state *SharedState, isNewest bool) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	var delay time.Duration
	if el := ss.streams[stream]; el != nil {
		state = el.Value.(*SharedState)
		age := time.Since(state.began)
		delay = stateEvery - age
		ss.kept.MoveToFront(el)
		switch {
		case state.Version < want.Version:
		case age < stateAge:
			return state, true
		default:
			state = nil
		}
	}
	if r == nil || ss.stopped {
		return state, false
	}
	read := ss.pending[stream]
	if read == nil {
		read = &sharedRead{stream: stream, client: client}
		ss.pending[stream] = read
		ss.pushAfter(read, delay)
	}
	read.waiting = append(read.waiting, r)
	if want.Version >= read.want.Version {
		read.want = want
	}
	return state, false
}

// pushAfter makes a read due after a delay. The caller holds ss.mu.
func (ss *SharedStates) pushAfter(r *sharedRead, delay time.Duration) {
	if delay <= 0 {
		ss.push(r)
		return
	}
	time.AfterFunc(delay, func() {
		ss.mu.Lock()
		defer ss.mu.Unlock()
		ss.push(r)
	})
}

// push makes a read due. The caller holds ss.mu.
func (ss *SharedStates) push(r *sharedRead) {
	if ss.stopped {
		return
	}
	ss.wanted.Push(r.client, r)
	if ss.readers < stateReads {
		ss.readers++
		ss.done.Add(1)
		go ss.readWanted()
	}
}

// readWanted reads states until no more are wanted.
func (ss *SharedStates) readWanted() {
	defer ss.done.Done()
	for {
		ss.mu.Lock()
		if ss.wanted.Len() == 0 || ss.stopped {
			ss.readers--
			ss.mu.Unlock()
			return
		}
		r, epoch := ss.wanted.Pop(), ss.epoch
		want := r.want
		ss.mu.Unlock()
		state, err := ss.ask(r.stream, want)
		if err != nil {
			ss.retry(r, err)
			continue
		}
		ss.finish(r, state, epoch)
	}
}

// ask reads a state from its owner. The owner answers from memory; only if it
// does not know of the wanted event yet, it is asked to compare its state with
// the log.
func (ss *SharedStates) ask(stream eventstore.StreamID, want Place) (*SharedState, error) {
	ctx, cancel := context.WithTimeout(ss.ctx, frame.DefaultTimeout)
	defer cancel()
	get := command.Get{Stream: stream}
	get.Deadline, _ = ctx.Deadline()
	began := time.Now()
	ss.count.Add(1)
	state, err := ss.read(ctx, get)
	if err == nil && state.Version < want.Version {
		get.AtLeast = want.At
		ss.count.Add(1)
		state, err = ss.read(ctx, get)
	}
	if err != nil {
		return nil, err
	}
	f := frame.State{Version: state.Version, Position: state.Position, Data: state.Data}
	return &SharedState{Version: state.Version, Tail: f.AppendTail(make([]byte, 0, 64+len(state.Data))), stream: stream, began: began}, nil
}

// finish keeps a state and tells the readers that wait for it. A reader that
// wants a newer one asks again.
func (ss *SharedStates) finish(r *sharedRead, state *SharedState, epoch uint64) {
	ss.mu.Lock()
	ss.forget(r)
	if epoch == ss.epoch {
		ss.keep(state)
	}
	waiting := r.waiting
	ss.mu.Unlock()
	for _, reader := range waiting {
		reader.Refresh()
	}
}

// retry reads again after a pause, if a reader still waits.
func (ss *SharedStates) retry(r *sharedRead, err error) {
	if f := (*command.Failure)(nil); !errors.As(err, &f) || f.Code == command.CodeInternal {
		ss.warning.Do(func() { ss.log.Warn("reading a state for subscriptions failed", "stream", r.stream, "err", err) })
	}
	ss.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	ss.mu.Unlock()
	var still []StateReader // IsWaiting takes a lock that comes before ss.mu
	for _, reader := range waiting {
		if reader.IsWaiting() {
			still = append(still, reader)
		}
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	r.waiting = append(still, r.waiting...)
	if len(r.waiting) == 0 {
		ss.forget(r)
		return
	}
	r.pause = min(2*r.pause+50*time.Millisecond, stateRetry)
	ss.pushAfter(r, r.pause)
}

// forget makes the next reader of the stream cause another read. The caller
// holds ss.mu.
func (ss *SharedStates) forget(r *sharedRead) {
	if ss.pending[r.stream] == r {
		delete(ss.pending, r.stream)
	}
}

// keep keeps a state for other readers, and drops the least recently used ones
// past the bound. The caller holds ss.mu.
func (ss *SharedStates) keep(state *SharedState) {
	if el := ss.streams[state.stream]; el != nil {
		if el.Value.(*SharedState).Version > state.Version {
			return
		}
		ss.drop(el)
	}
	ss.streams[state.stream] = ss.kept.PushFront(state)
	ss.bytes += state.size()
	for ss.bytes > stateMemory && ss.kept.Len() > 1 {
		ss.drop(ss.kept.Back())
	}
}

// drop drops a kept state. The caller holds ss.mu.
func (ss *SharedStates) drop(el *list.Element) {
	state := ss.kept.Remove(el).(*SharedState)
	delete(ss.streams, state.stream)
	ss.bytes -= state.size()
}

// stateOverhead is the size of a kept state without its frame, in bytes: the
// struct, its element of the list and its place in the map.
const stateOverhead = 256

func (s *SharedState) size() int { return len(s.Tail) + stateOverhead }

// Clear drops all states, since the log has changed. Reads in progress continue
// for the readers that wait for them, and later readers do not join them.
func (ss *SharedStates) Clear() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	clear(ss.streams)
	clear(ss.pending)
	ss.kept.Init()
	ss.bytes = 0
	ss.epoch++
}

// Stop waits until no read is in progress. The context must have ended.
func (ss *SharedStates) Stop() {
	ss.mu.Lock()
	ss.stopped = true
	ss.mu.Unlock()
	ss.done.Wait()
}
