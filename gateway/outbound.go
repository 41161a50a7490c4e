package gateway

import (
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

const (
	// messageBytes is where one WebSocket message ends and the next begins.
	messageBytes = 32 << 10
	// leastBytes is the same while the gateway is crowded.
	leastBytes = 4 << 10
	// closeGrace is how long a client may take to answer a close frame.
	closeGrace = 5 * time.Second
)

// item is a frame that is owed, or the end. Events are never queued: they
// wait in the hub's window, or in the log.
type item struct {
	frame []byte
	slot  bool   // writing it makes place for another request
	close []byte // a close frame or the like, after which nothing is written
}

// enqueue adds an item. The caller holds s.mu.
func (s *session) enqueue(it item) {
	if s.closing {
		if it.slot {
			<-s.slots
		}
		return
	}
	if it.close != nil {
		s.closing = true
	}
	s.owe(len(it.frame))
	s.queue = append(s.queue, it)
	s.kick()
}

// owe counts bytes that wait for the socket.
func (s *session) owe(bytes int) {
	s.owed += bytes
	s.g.owe(bytes)
}

// kick has the session written to, unless that is under way. The caller holds
// s.mu.
func (s *session) kick() {
	if !s.writing && !s.ended {
		s.shard.flush(s)
	}
}

// messageLimit is how large a message may become now.
func (g *Gateway) messageLimit() int {
	if g.crowded() {
		return leastBytes
	}
	return min(messageBytes, g.cfg.QueueBytes)
}

// hasRoom tells whether the client may send another request: it takes the
// answers to those before. The caller holds s.mu.
func (s *session) hasRoom() bool {
	return s.owed <= s.g.cfg.QueueBytes && !(s.writing && s.g.crowded())
}

// say enqueues a frame that nobody asked for. The caller holds s.mu.
func (s *session) say(f frame.Frame) { s.enqueue(item{frame: s.wire.frame(f)}) }

// part ends the session once all that it is owed has been written. The caller
// holds s.mu.
func (s *session) part(code int, reason string) { s.enqueue(item{close: s.wire.close(code, reason)}) }

// closeAfter is part for those who don't hold s.mu.
func (s *session) closeAfter(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part(code, reason)
}

// closeWith ends the session with a close frame of the WebSocket library,
// which answers a client's or refuses what it sent. It returns when that or
// another close frame was written, or the session has ended.
func (s *session) closeWith(frame []byte) {
	s.mu.Lock()
	s.enqueue(item{close: frame})
	s.mu.Unlock()
	<-s.ctx.Done()
}

// pong answers a ping of the WebSocket; only the newest is owed an answer.
func (s *session) pong(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pongDue = pongFrame(payload)
	s.kick()
}

// work makes sure that the next message has what a subscription has not got
// yet. The caller holds s.mu.
func (s *session) work(sub *subscription) {
	if !sub.busy && !sub.ended {
		sub.busy = true
		s.busy = append(s.busy, sub)
	}
}

// rests undoes work for the subscription at i. The caller holds s.mu.
func (s *session) rests(i int) {
	s.busy[i].busy = false
	last := len(s.busy) - 1
	copy(s.busy[i:], s.busy[i+1:])
	s.busy[last] = nil
	s.busy = s.busy[:last]
}

// flush writes the next message, if anything waits for the session. It never
// blocks: what a full socket does not take is left to a goroutine.
func (s *session) flush(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing || s.ended {
		return
	}
	message, more := s.fill(t)
	if len(message) > 0 && !s.send(message) {
		return
	}
	if more {
		s.shard.flushBulk(s)
	}
}

// send writes a message without blocking. It returns false if the socket is
// full, or the session has ended.
func (s *session) send(message []byte) bool {
	n, err := s.socket.try(message)
	switch {
	case err != nil:
		s.ended, s.closing = true, true
		s.cancel()
		_ = s.socket.Close() // does not block: try fails for bare sockets only
		return false
	case n == len(message):
		s.written()
		return true
	}
	s.rest = buffers.Get().(*[]byte)
	*s.rest = append((*s.rest)[:0], message[n:]...)
	s.owe(len(*s.rest))
	s.writing = true
	s.g.full.Add(1)
	for _, sub := range s.busy {
		sub.unpin() // who knows when its turn comes
	}
	s.tasks.Add(1)
	go s.sendRest()
	return false
}

// buffers hold what full sockets did not take.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// sendRest writes the rest of a message, however long the client takes.
func (s *session) sendRest() {
	defer s.tasks.Done()
	err := s.socket.write(*s.rest)
	if ending := s.socket.ending.Load(); ending != nil && s.socket.stalled {
		_, _ = s.socket.Conn.Write(*ending)
	} else if s.socket.stalled {
		s.g.cfg.Logger.Info("session closed: the client read nothing for too long", "session", s.id, "client", s.client())
		_, _ = s.socket.Conn.Write(s.wire.close(frame.CloseReadNothing, "read nothing for too long"))
	}
	if s.socket.stalled || err != nil {
		s.end()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.owe(-len(*s.rest))
	if cap(*s.rest) <= 2*messageBytes {
		buffers.Put(s.rest)
	}
	s.rest, s.writing = nil, false
	s.g.full.Add(-1)
	if s.ended {
		return
	}
	// An eviction came too late to interrupt the write: its close frame is due.
	if ending := s.socket.ending.Load(); ending != nil {
		_ = s.socket.SetWriteDeadline(time.Time{}) // giveUp's has passed and fails try
		s.queue = append(s.queue, item{close: *ending})
	}
	s.written()
	s.kick()
}

// written settles what was in the message that has been written.
func (s *session) written() {
	for ; s.slotsDue > 0; s.slotsDue-- {
		<-s.slots
	}
	if s.eventsDue > 0 {
		s.g.stats.delivered.Add(uint64(s.eventsDue))
		s.eventsDue = 0
	}
	select {
	case s.room <- struct{}{}:
	default:
	}
	if len(s.asks) > 0 {
		s.askNext()
	}
	if s.closeDue {
		s.closeDue = false
		s.cancel()
		s.socket.finish(closeGrace)
	}
}

// fill makes the next message: control frames, what is owed, and then events,
// each subscription's from its cursor on. It tells whether there may be more.
func (s *session) fill(t *turn) (message []byte, more bool) {
	message, more, ok := s.repeat(t)
	if ok {
		return message, more
	}
	d := draft{wire: s.wire, b: append(t.scratch[:0], make([]byte, headerRoom)...), limit: headerRoom + t.limit}
	n := 0
	for ; n < len(s.queue) && s.queue[n].close == nil && len(d.b) < d.limit; n++ {
		d.append(s.queue[n].frame)
		s.owe(-len(s.queue[n].frame))
		if s.queue[n].slot {
			s.slotsDue++
		}
	}
	var ending []byte
	if n < len(s.queue) && s.queue[n].close != nil {
		ending, s.closeDue = s.queue[n].close, true
		n++
	}
	s.dequeue(n)
	if len(s.queue) == 0 && !s.closing {
		s.fillEvents(t, &d)
		more = len(s.busy) > 0
	}
	more = more || len(s.queue) > 0
	t.scratch = d.b
	return s.seal(&d, ending), more
}

// seal puts a message together.
func (s *session) seal(d *draft, ending []byte) []byte {
	message := d.b[len(d.b):]
	if len(d.b) > headerRoom {
		message = s.wire.message(d.b)
	}
	if s.pongDue != nil || s.pingDue {
		control := s.pongDue
		if s.pingDue {
			control = append(control, s.wire.ping()...)
		}
		s.pongDue, s.pingDue = nil, false
		message = append(control, message...)
	}
	return append(message, ending...)
}

// dequeue drops the first items of the queue.
func (s *session) dequeue(n int) {
	rest := copy(s.queue, s.queue[n:])
	clear(s.queue[rest:])
	s.queue = s.queue[:rest]
	if rest == 0 && cap(s.queue) > 8 {
		s.queue = nil // an idle session keeps no memory of its busy days
	}
}

// repeat returns a message that another session got, if it is what this one
// is to get.
func (s *session) repeat(t *turn) (message []byte, more, ok bool) {
	if len(s.queue) > 0 || s.closing || s.pongDue != nil || s.pingDue || s.beatDue || len(s.busy) != 1 || s.busy[0].ended {
		return nil, false, false
	}
	sub := s.busy[0]
	entries, covered := t.of(sub.topic).after(sub.at, sub.version, t.head)
	if !covered || len(entries) == 0 {
		return nil, false, false
	}
	m := t.recall(sub, entries[0])
	if m == nil {
		return nil, false, false
	}
	sub.advance(m.last)
	s.eventsDue += m.count
	if m.all && sub.live {
		s.rests(0)
	}
	return m.message, len(s.busy) > 0, true
}

// fillEvents adds events to a message, and the heartbeat that is due: with
// it, what the cursor vouches for is in this message or in one before.
func (s *session) fillEvents(t *turn, d *draft) {
	if s.beatDue {
		s.shard.due(s.subs, s.work)
	}
	alone := len(d.b) == headerRoom && len(s.busy) == 1 && !s.beatDue && s.pongDue == nil && !s.pingDue
	for len(s.busy) > 0 && len(d.b) < d.limit {
		sub := s.busy[0]
		why := s.pull(t, sub, d)
		if alone && d.plain && d.count > 0 {
			t.remember(memo{topic: sub.topic, head: sub.head, first: d.first, last: d.last, count: d.count, all: why == rests, message: s.seal(d, nil)})
		}
		s.rests(0)
		if why == hasMore {
			s.work(sub) // behind the others
			break
		}
	}
	if s.goodbyeDue && s.owesEvents() {
		return // the heartbeat waits for them
	}
	if s.beatDue { // at the end of a message also when there is more to come
		s.beatDue = false
		d.append(s.wire.frame(s.heartbeatFrame(t.head)))
	}
	if s.goodbyeDue {
		s.sayGoodbye()
	}
}

// heartbeatFrame says up to where everything has been written.
func (s *session) heartbeatFrame(head eventstore.Position) frame.Heartbeat {
	f := frame.Heartbeat{Cursor: cursor(head)}
	for _, sub := range s.subs {
		if sub.started && (!sub.live || sub.busy || sub.at > head) {
			f.Behind = append(f.Behind, frame.Behind{Sub: sub.id, Cursor: sub.cursor()})
		}
	}
	return f
}

// draft is a message in the making.
type draft struct {
	wire  wire
	b     []byte // room for the header, and the frames
	limit int    // of len(b); one frame may pass it

	// If all of it is events of one subscription, one after another in the
	// window, plain is set and these are said of them.
	plain       bool
	first, last *entry
	count       int
}

func (d *draft) append(frame []byte) {
	if len(d.b) > headerRoom {
		d.b = append(d.b, d.wire.separator()...)
	}
	d.b = append(d.b, frame...)
	d.plain = false
}

// fits tells whether an event has place in the message.
func (d *draft) fits(sub *subscription, e *entry) bool {
	return len(d.b) == headerRoom || len(d.b)+1+len(sub.head)+len(e.tail) <= d.limit
}

func (d *draft) event(sub *subscription, e *entry) {
	if len(d.b) > headerRoom {
		d.b = append(d.b, d.wire.separator()...)
	}
	d.b = d.wire.event(d.b, sub.head, e)
}
