package feed

import (
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// PublisherConfig configures a Publisher.
type PublisherConfig struct {
	// Logger defaults to one that discards everything.
	Logger *slog.Logger

	frames, bytes int // bounds of the ring in tests; 0: the defaults
}

// Publisher pushes the commits of its node to every subscriber. All subscribers
// share one ring of 4096 frames or 8 MiB of commits, and as much memory again for
// the frames' encodings. The first stream that needs an encoding makes it for
// all. A stream holds a cursor into the ring and one batch.
//
// It is safe for concurrent use, except that calls of Publish must follow each
// other in the order of the log.
type Publisher struct {
	log *slog.Logger

	mu          sync.Mutex
	ring        []*frame            // frame number n is at n % len(ring)
	first, next uint64              // numbers of the oldest frame and of the next one
	bytes       int                 // of the frames in the ring
	maxBytes    int                 //
	logID       string              // the incarnation of all frames and of the head
	head        eventstore.Position // of the last event published; 0: none yet
	bye         bool
	wake        chan struct{} // closed after a change
	waiting     bool          // a cursor waits on wake

	stats PublisherStats
}

// PublisherStats has a Publisher's counters since its creation, and its state.
type PublisherStats struct {
	Head        eventstore.Position `json:"head"`        // the last published position
	Subscribers int                 `json:"subscribers"` // open streams, including the local one
	Frames      uint64              `json:"frames"`      // published
	Events      uint64              `json:"events"`      // published
	Skips       uint64              `json:"skips"`       // how often a subscriber fell out of the ring
	RingBytes   int                 `json:"ring_bytes"`  // in the ring
}

// NewPublisher returns a Publisher that has published nothing.
func NewPublisher(cfg PublisherConfig) *Publisher {
	p := &Publisher{
		log:      cfg.Logger,
		ring:     make([]*frame, ringFrames),
		maxBytes: ringBytes,
		wake:     make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if cfg.frames > 0 {
		p.ring = make([]*frame, cfg.frames)
	}
	if cfg.bytes > 0 {
		p.maxBytes = cfg.bytes
	}
	return p
}

// Publish publishes a batch that this node has committed. It is an
// eventstore.Committed: its calls follow the order of the log. It does not
// block, even if subscribers are slow. The caller must not change the batch
// afterwards.
func (p *Publisher) Publish(log string, batch []eventstore.Commit) {
	fs := frames(batch)
	if len(fs) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.switchLog(log)
	for _, f := range fs {
		if p.next-p.first == uint64(len(p.ring)) {
			p.evict()
		}
		p.ring[p.next%uint64(len(p.ring))] = f
		p.next++
		p.bytes += f.bytes
		for p.bytes > p.maxBytes && p.next-p.first > 1 {
			p.evict()
		}
		p.stats.Events += uint64(f.to - f.from + 1)
	}
	p.stats.Frames += uint64(len(fs))
	p.head = fs[len(fs)-1].to
	p.notify()
}

func (p *Publisher) evict() {
	i := p.first % uint64(len(p.ring))
	p.bytes -= p.ring[i].bytes
	p.ring[i] = nil
	p.first++
}

// notify wakes the cursors that wait.
func (p *Publisher) notify() {
	if p.waiting {
		close(p.wake)
		p.wake, p.waiting = make(chan struct{}), false
	}
}

// Bye declares that this node has published all its commits and will commit
// nothing more. Every stream ends once it has sent them and BYE.
func (p *Publisher) Bye() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bye = true
	p.notify()
}

// reset drops the frames of other incarnations than log.
func (p *Publisher) reset(log string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.switchLog(log)
}

// switchLog is reset without the lock; the caller holds p.mu.
func (p *Publisher) switchLog(log string) {
	if log == p.logID {
		return
	}
	for p.first < p.next {
		p.evict()
	}
	p.logID, p.head = log, 0
}

// Stats returns the counters.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Head, s.RingBytes = p.head, p.bytes
	return s
}

// cursor is one subscriber's place in the ring. One goroutine uses it.
type cursor struct {
	p    *Publisher
	next uint64              // number of the frame that it reads next
	seen eventstore.Position // the last position that it read or skipped
	buf  []*frame
}

// subscribe returns a cursor at the ring's head. It must be closed.
func (p *Publisher) subscribe() *cursor {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stats.Subscribers++
	return &cursor{p: p, next: p.next, seen: p.head}
}

func (c *cursor) close() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.stats.Subscribers--
}

// reading is what a cursor read from the ring.
type reading struct {
	log                string              // the incarnation of all positions
	frames             []*frame            // valid until the next read
	skipFrom, skipTo   eventstore.Position // missed positions; 0: none
	head               eventstore.Position
	caughtUp, finished bool            // nothing is left to read; nothing will follow
	wake               <-chan struct{} // closed after a change; nil unless caughtUp
}

// read returns the next frames, at most one batch. A cursor that fell out of the
// ring moves to its head.
func (c *cursor) read() reading {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	d := reading{log: p.logID, head: p.head}
	if c.next < p.first {
		if p.head > 0 {
			d.skipFrom, d.skipTo = min(c.seen+1, p.head), p.head
		}
		c.next, c.seen = p.next, p.head
		p.stats.Skips++
	}
	c.buf = c.buf[:0]
	for bytes := 0; c.next < p.next && len(c.buf) < batchFrames; c.next++ {
		f := p.ring[c.next%uint64(len(p.ring))]
		bytes += f.bytes
		if bytes > batchBytes && len(c.buf) > 0 {
			break
		}
		c.buf = append(c.buf, f)
		c.seen = f.to
	}
	d.frames = c.buf
	if c.next == p.next {
		d.caughtUp, d.finished = true, p.bye
		d.wake, p.waiting = p.wake, true
	}
	return d
}

// Feed serves one subscriber, as [transport.Peer] asks for. It sends the commits
// that this node publishes from now on, the head at least every 100 ms, and BYE
// at the end. It blocks until the stream ends.
func (p *Publisher) Feed(member string, stream transport.Sender[peer.FeedBatch]) error {
	c := p.subscribe()
	defer c.close()
	p.log.Debug("a feed stream opened", "member", member)
	defer p.log.Debug("a feed stream ended", "member", member)

	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	due := true // send the head first, so that the subscriber knows what it missed
	var wire []byte
	for {
		d := c.read()
		wire = wire[:0]
		if d.skipTo != 0 {
			wire = append(wire, encodeSkip(d.skipFrom, d.skipTo)...)
		}
		for _, f := range d.frames {
			wire = append(wire, f.encoded()...)
		}
		// The head covers all positions up to it, so it follows their frames.
		if d.caughtUp && (due || d.finished) {
			wire = append(wire, encodeHead(d.head)...)
			due = false
		}
		if d.finished {
			wire = append(wire, encodeBye()...)
		}
		if len(wire) > 0 {
			wire = append(wire, encodeLog(d.log)...)
			if err := stream.Send(preencoded(wire)); err != nil {
				return err
			}
			if d.finished {
				return nil
			}
			select {
			case <-beat.C:
				due = true
			default:
			}
			continue
		}
		select {
		case <-d.wake:
		case <-beat.C:
			due = true
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// preencoded returns a batch whose encoding is wire, so that frames are not
// encoded again for every subscriber. It works because protobuf sends unknown
// fields unchanged and lets encoded fields be concatenated.
func preencoded(wire []byte) *peer.FeedBatch {
	b := new(peer.FeedBatch)
	b.ProtoReflect().SetUnknown(wire)
	return b
}
