package feed

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// maxPosition is the highest position that a peer may send. The higher bits are
// reserved for a number of the log, which is always 0 so far.
const maxPosition = 1<<48 - 1

// errRefused reports a batch that no correct publisher sends.
var errRefused = errors.New("feed: refused")

// frame is the unit of pushing: a dense run of commits in a publisher's ring. It
// is immutable, apart from its encoding, which is made on first use.
type frame struct {
	from, to eventstore.Position
	commits  []eventstore.Commit // nil: too large to push; subscribers read it from the log
	bytes    int

	encode sync.Once
	wire   []byte
}

// frames cuts a batch into frames: where it is not dense, and so that each has at
// most 256 KiB. A larger commit, which no engine accepts, becomes a frame without
// commits, so that no message is too large to be received.
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
	minWeight   = 192 // a commit without its strings
	eventWeight = 64  // an event without its
)

// weight estimates the memory of a commit in bytes. It is at least the commit's
// size on the wire.
func weight(c *eventstore.Commit) int {
	n := minWeight + len(c.Stream.Type) + len(c.Stream.ID) + len(c.Key) + len(c.Meta.Client) + len(c.Meta.Trace)
	for i := range c.Events {
		n += eventWeight + len(c.Events[i].Type) + len(c.Events[i].Data)
	}
	return n
}

// encoded returns the encoding of a FeedBatch with this frame. Concatenated
// encodings are the encoding of a FeedBatch with all their frames.
func (f *frame) encoded() []byte {
	f.encode.Do(func() {
		if f.commits == nil {
			f.wire = encodeSkip(f.from, f.to)
		} else {
			f.wire = mustEncode(&peer.FeedFrame{Body: &peer.FeedFrame_Commits{Commits: message(f)}})
		}
	})
	return f.wire
}

func batchOf(f *peer.FeedFrame) *peer.FeedBatch {
	return &peer.FeedBatch{Frames: []*peer.FeedFrame{f}}
}

// message returns the message of a frame. It allocates all parts in four slices,
// because streams wait for the encoding.
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
		m.Client, m.Trace, m.Depth = c.Meta.Client, c.Meta.Trace, uint32(c.Meta.Depth)
		if w := c.Meta.Wake; w.Known {
			m.Wake = &peer.Wake{AtUs: w.Micros, Revision: int32(w.Revision)}
		}
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

// marshal encodes a batch, which cannot fail: no part is nil.
func marshal(m *peer.FeedBatch) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic("feed: " + err.Error())
	}
	return b
}

// decode copies a batch into an arrival. If a frame is refused, the error is an
// errRefused, and the arrival has the frames before it.
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

// decodeCommits checks and copies a run of commits. A run without an error is
// dense, from its first position to its last.
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
		if c.GetKey() == "" || c.GetDepth() > math.MaxInt32 {
			return refuse("commit %d has the key %q and the depth %d", i, c.GetKey(), c.GetDepth())
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
			Meta:     metaOf(c),
			Events:   evs,
		}
		r.bytes += weight(&r.commits[i])
	}
	return r, nil
}

func metaOf(c *peer.Commit) eventstore.Meta {
	m := eventstore.Meta{Client: c.GetClient(), Trace: c.GetTrace(), Depth: int(c.GetDepth())}
	if w := c.GetWake(); w != nil {
		m.Wake = eventstore.Wake{Known: true, Micros: w.GetAtUs(), Revision: int(w.GetRevision())}
	}
	return m
}
