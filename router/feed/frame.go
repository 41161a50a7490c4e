package feed

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// maxPosition is the highest position that a peer may name: the bits above it
// are kept for the number of a log, which is 0 today.
const maxPosition = 1<<48 - 1

// errRefused reports a batch that no honest publisher sends.
var errRefused = errors.New("feed: refused")

// frame is a dense run of commits in a publisher's ring: the unit of pushing.
// It is immutable, apart from its encoding, which the first stream that needs
// it makes for all of them.
type frame struct {
	from, to eventstore.Position
	commits  []eventstore.Commit // nil: too large to be pushed, to be read from the log
	bytes    int

	encode sync.Once
	wire   []byte
}

// frames cuts a batch into frames: at 256 KiB, and wherever it is not dense.
// A commit that alone is larger (hosts accept none that is) becomes a frame
// without commits, so that no message is ever too large to be received.
func frames(batch []eventstore.Commit) []*frame {
	var fs []*frame
	start, size := 0, 0
	cut := func(end int) {
		if end == start {
			return
		}
		run := batch[start:end:end]
		fs = append(fs, &frame{from: run[0].First(), to: run[len(run)-1].Position, commits: run, bytes: size})
		start, size = end, 0
	}
	for i := range batch {
		c := &batch[i]
		n := weight(c)
		if size+n > frameBytes || i > start && c.First() != batch[i-1].Position+1 {
			cut(i)
		}
		if n > frameBytes {
			fs = append(fs, &frame{from: c.First(), to: c.Position, bytes: minWeight})
			start = i + 1
			continue
		}
		size += n
	}
	cut(len(batch))
	return fs
}

const (
	minWeight   = 160 // a commit without its strings
	eventWeight = 64  // an event without its
)

// weight is about what a commit takes in memory, in bytes, and at least what
// it takes on the wire.
func weight(c *eventstore.Commit) int {
	n := minWeight + len(c.Stream.Type) + len(c.Stream.ID) + len(c.Key) + len(c.Meta.Client) + len(c.Meta.Trace)
	for i := range c.Events {
		n += eventWeight + len(c.Events[i].Type) + len(c.Events[i].Data)
	}
	return n
}

// encoded returns the frame as a FeedBatch of one frame. Such encodings can be
// put one behind the other: to protocol buffers that is a FeedBatch of them all.
func (f *frame) encoded() []byte {
	f.encode.Do(func() {
		if f.commits != nil {
			wire, err := proto.Marshal(batchOf(&peer.FeedFrame{Body: &peer.FeedFrame_Commits{Commits: message(f)}}))
			if err == nil {
				f.wire = wire
				return
			}
			// Text that is not UTF-8 can't be pushed. It can be read.
		}
		f.wire = encodeSkip(f.from, f.to)
	})
	return f.wire
}

func batchOf(f *peer.FeedFrame) *peer.FeedBatch {
	return &peer.FeedBatch{Frames: []*peer.FeedFrame{f}}
}

// message turns a frame into its message. The parts are allocated together:
// the store's goroutine does not wait for this, but the streams do.
func message(f *frame) *peer.Commits {
	events := 0
	for i := range f.commits {
		events += len(f.commits[i].Events)
	}
	commits, refs := make([]peer.Commit, len(f.commits)), make([]*peer.Commit, len(f.commits))
	evs, evRefs := make([]peer.Event, events), make([]*peer.Event, events)
	for i := range f.commits {
		c := &f.commits[i]
		n := len(c.Events)
		for j := range c.Events {
			e := &evs[j]
			e.Type, e.Data = c.Events[j].Type, c.Events[j].Data
			e.Form = uint32(c.Events[j].Form)
			evRefs[j] = e
		}
		m := &commits[i]
		m.Type, m.Id = c.Stream.Type, c.Stream.ID
		m.Version, m.Position = uint64(c.Version), uint64(c.Position)
		m.Key, m.AtUs = c.Key, c.At.UnixMicro()
		m.Client, m.Trace = c.Meta.Client, c.Meta.Trace
		m.Events = evRefs[:n:n]
		refs[i] = m
		evs, evRefs = evs[n:], evRefs[n:]
	}
	return &peer.Commits{From: uint64(f.from), To: uint64(f.to), Commits: refs}
}

func encodeSkip(from, to eventstore.Position) []byte {
	return mustEncode(&peer.FeedFrame{Body: &peer.FeedFrame_Skip{Skip: &peer.Skip{From: uint64(from), To: uint64(to)}}})
}

func encodeHead(p eventstore.Position) []byte {
	return mustEncode(&peer.FeedFrame{Body: &peer.FeedFrame_Head{Head: uint64(p)}})
}

func encodeBye() []byte {
	return mustEncode(&peer.FeedFrame{Body: &peer.FeedFrame_Bye{Bye: true}})
}

func encodeLog(log string) []byte { return marshal(&peer.FeedBatch{Log: log}) }

func mustEncode(f *peer.FeedFrame) []byte { return marshal(batchOf(f)) }

// marshal encodes a batch of numbers and ids, which can't fail.
func marshal(m *peer.FeedBatch) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic("feed: " + err.Error())
	}
	return b
}

// decode takes over what a batch says. What a refused frame said is left out,
// and the error, which is an errRefused, says why; the frames before it count.
func decode(b *peer.FeedBatch, a *arrival) error {
	a.log = b.GetLog()
	for _, f := range b.GetFrames() {
		switch body := f.GetBody().(type) {
		case *peer.FeedFrame_Commits:
			r, err := decodeCommits(body.Commits)
			if err != nil {
				return err
			}
			r.src = a.src
			a.runs = append(a.runs, r)
		case *peer.FeedFrame_Skip:
			from, to := body.Skip.GetFrom(), body.Skip.GetTo()
			if from == 0 || to < from || to > maxPosition {
				return fmt.Errorf("%w: a skip from %d to %d", errRefused, from, to)
			}
			a.skip = max(a.skip, eventstore.Position(to))
		case *peer.FeedFrame_Head:
			if body.Head > maxPosition {
				return fmt.Errorf("%w: a head of %d", errRefused, body.Head)
			}
			a.head = max(a.head, eventstore.Position(body.Head))
		case *peer.FeedFrame_Bye:
			a.bye = a.bye || body.Bye
		default: // a kind of frame that a newer publisher knows
		}
	}
	return nil
}

// decodeCommits checks a run of commits and takes it over. A run that passes
// is dense, from its first position to its last.
func decodeCommits(m *peer.Commits) (run, error) {
	refuse := func(format string, args ...any) (run, error) {
		return run{}, fmt.Errorf("%w: commits %d to %d: %s", errRefused, m.GetFrom(), m.GetTo(), fmt.Sprintf(format, args...))
	}
	from, to := m.GetFrom(), m.GetTo()
	if from == 0 || to < from || to > maxPosition {
		return refuse("impossible positions")
	}
	events := 0
	for _, c := range m.GetCommits() {
		events += len(c.GetEvents())
	}
	if uint64(events) != to-from+1 {
		return refuse("it has %d events", events)
	}
	r := run{
		from:    eventstore.Position(from),
		to:      eventstore.Position(to),
		events:  events,
		commits: make([]eventstore.Commit, len(m.GetCommits())),
	}
	all := make([]eventstore.Event, events)
	next := from // the position that the next event must have
	for i, c := range m.GetCommits() {
		n := len(c.GetEvents())
		next += uint64(n)
		if n == 0 || c.GetPosition() != next-1 {
			return refuse("commit %d of %d events ends at %d, not at %d", i, n, c.GetPosition(), next-1)
		}
		if c.GetVersion() < uint64(n) {
			return refuse("commit %d of %d events is at version %d", i, n, c.GetVersion())
		}
		s := eventstore.StreamID{Type: c.GetType(), ID: c.GetId()}
		if err := s.Validate(); err != nil {
			return refuse("commit %d: %v", i, err)
		}
		if c.GetKey() == "" {
			return refuse("commit %d has no key", i)
		}
		evs := all[:n:n]
		all = all[n:]
		for j, e := range c.GetEvents() {
			if e.GetType() == "" || e.GetForm() > math.MaxInt32 {
				return refuse("commit %d, event %d: type %q, form %d", i, j, e.GetType(), e.GetForm())
			}
			evs[j] = eventstore.Event{Type: e.GetType(), Form: int(e.GetForm()), Data: e.GetData()}
		}
		r.commits[i] = eventstore.Commit{
			Position: eventstore.Position(c.GetPosition()),
			Stream:   s,
			Version:  eventstore.Version(c.GetVersion()),
			Key:      c.GetKey(),
			At:       time.UnixMicro(c.GetAtUs()).UTC(),
			Meta:     eventstore.Meta{Client: c.GetClient(), Trace: c.GetTrace()},
			Events:   evs,
		}
		r.bytes += weight(&r.commits[i])
	}
	return r, nil
}
