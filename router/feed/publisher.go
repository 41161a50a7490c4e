package feed

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// PublisherConfig configures a Publisher.
type PublisherConfig struct {
	// Logger defaults to one that discards everything.
	Logger *slog.Logger

	frames, bytes int // the ring's bounds; smaller ones in tests
}

// Publisher pushes what its node commits to every subscriber. Its memory is
// one ring for all of them: 4096 frames or 8 MiB of commits, and as much again
// for their encodings, which are made when the first stream asks and shared by
// all. A stream holds a cursor into the ring and one batch.
//
// It is safe for concurrent use, except that calls of Publish follow each
// other, in the order of the log.
type Publisher struct {
	log *slog.Logger

	mu          sync.Mutex
	ring        []*frame            // frame number n is at n % len(ring)
	first, next uint64              // the numbers of the oldest frame and of the one to come
	bytes       int                 // of the frames in the ring
	maxBytes    int                 //
	logID       string              // the incarnation of the log that all frames and the head belong to
	head        eventstore.Position // of the last event published; 0: none yet
	bye         bool
	wake        chan struct{} // closed when there is something new
	waiting     bool          // somebody waits on wake

	stats PublisherStats
}

// PublisherStats counts what a Publisher has done since it was made.
type PublisherStats struct {
	Head        eventstore.Position `json:"head"`        // the last position that was published
	Subscribers int                 `json:"subscribers"` // streams open now, the local one included
	Frames      uint64              `json:"frames"`      // published
	Events      uint64              `json:"events"`      // published
	Skips       uint64              `json:"skips"`       // times that a subscriber fell out of the ring
	RingBytes   int                 `json:"ring_bytes"`  // in the ring now
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

// Publish takes over a batch that this node has committed. It is an
// eventstore.Committed: batches come in the order of the log, and it never
// blocks, whatever the subscribers do. The batch is shared from then on:
// nobody changes it.
func (p *Publisher) Publish(log string, batch []eventstore.Commit) {
	fs := frames(batch)
	if len(fs) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(log)
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

// notify wakes whoever waits for news.
func (p *Publisher) notify() {
	if p.waiting {
		close(p.wake)
		p.wake, p.waiting = make(chan struct{}), false
	}
}

// Bye says that everything this node has committed and ever will commit has
// been published: every stream ends once it has sent that.
func (p *Publisher) Bye() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bye = true
	p.notify()
}

// reset forgets what was published of other incarnations than log.
func (p *Publisher) reset(log string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.follow(log)
}

// follow forgets what was published of other incarnations than log. The caller
// holds p.mu.
func (p *Publisher) follow(log string) {
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

// cursor is one subscriber's place in the ring. It is used by one goroutine.
type cursor struct {
	p    *Publisher
	next uint64              // the number of the frame that it takes next
	seen eventstore.Position // the last position that it took, or skipped
	buf  []*frame
}

// subscribe returns a cursor at the ring's head: what is published from now
// on. It must be closed.
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

// draw is what a cursor took from the ring.
type draw struct {
	log                string              // the incarnation that all of it belongs to
	frames             []*frame            // valid until the next take
	skipFrom, skipTo   eventstore.Position // what was missed; 0: nothing
	head               eventstore.Position
	caughtUp, finished bool            // nothing is left now; nothing ever will be
	wake               <-chan struct{} // closed at news; nil unless caught up
}

// take returns what the cursor has not seen, as much as fits into one batch.
// A cursor that fell out of the ring goes to its head.
func (c *cursor) take() draw {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	d := draw{log: p.logID, head: p.head}
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

// Feed serves one subscriber: the events that this node commits from now on,
// its head at least every 100 ms, and BYE at the end. It is the method of
// peer.PeerServer, and blocks until the stream ends.
func (p *Publisher) Feed(req *peer.FeedRequest, stream grpc.ServerStreamingServer[peer.FeedBatch]) error {
	c := p.subscribe()
	defer c.close()
	p.log.Debug("a feed stream opened", "member", req.GetNode())
	defer p.log.Debug("a feed stream ended", "member", req.GetNode())

	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	due := true // the head comes first, so that the subscriber knows what it missed
	var wire []byte
	for {
		d := c.take()
		wire = wire[:0]
		if d.skipTo != 0 {
			wire = append(wire, encodeSkip(d.skipFrom, d.skipTo)...)
		}
		for _, f := range d.frames {
			wire = append(wire, f.encoded()...)
		}
		// A head is news of everything up to it: it comes behind all of it.
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
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

// preencoded returns a batch whose encoding is wire, without encoding it again
// for every subscriber: protocol buffers send on what they do not know as it
// is, and a message's fields may come in any number of pieces.
func preencoded(wire []byte) *peer.FeedBatch {
	b := new(peer.FeedBatch)
	b.ProtoReflect().SetUnknown(wire)
	return b
}
