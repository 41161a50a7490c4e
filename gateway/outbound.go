package gateway

import (
	"context"
	"sync"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// messageBytes is where one WebSocket message ends and the next begins: frames
// are gathered up to it while a write is in flight.
const messageBytes = 32 << 10

// item is one thing in a session's queue: a frame that is owed, an event, or
// the end.
type item struct {
	frame []byte // a frame that is owed; nil for an event and for the end

	// sub and entry are an event; sub alone belongs to a «live» frame.
	sub   *subscription
	entry *entry

	slot  bool // writing it makes place for another request
	beat  bool // a heartbeat: dropped with the events that it vouches for
	close *closing
}

type closing struct {
	code   int
	reason string
}

func (it *item) isEvent() bool { return it.entry != nil }

func (it *item) size() int { return len(it.sub.head) + len(it.entry.tail) + 1 }

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
	if it.isEvent() {
		s.eventBytes += it.size()
	}
	s.queue = append(s.queue, it)
	s.kick()
}

// kick starts the writer unless it is at work. The caller holds s.mu.
func (s *session) kick() {
	if s.writing || s.ended {
		return
	}
	s.writing = true
	s.tasks.Add(1)
	go s.write()
}

// closeAfter ends the session once all that is queued has been written.
func (s *session) closeAfter(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(item{close: &closing{code, reason}})
}

// pushHeartbeat is called by the hub, which holds its lock.
func (s *session) pushHeartbeat(cursor string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := frame.Heartbeat{Cursor: cursor}
	for _, sub := range s.subs {
		if sub.started && !sub.live {
			f.Behind = append(f.Behind, frame.Behind{Sub: sub.id, Cursor: sub.cursor()})
		}
	}
	for i := range s.queue { // one heartbeat waits at most
		if s.queue[i].beat {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			break
		}
	}
	s.pingDue = true
	s.enqueue(item{frame: f.Append(nil), beat: true})
}

// pong answers a ping of the WebSocket; only the newest is owed an answer.
func (s *session) pong(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pongDue = pongFrame(payload)
	s.kick()
}

// messages are the buffers of writers: there is one only while there is
// something to write.
var messages = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

// write writes what is queued and ends when there is nothing left. Frames that
// come while a write is in flight go into the next message together.
func (s *session) write() {
	defer s.tasks.Done()
	buf := messages.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= 2*messageBytes {
			messages.Put(buf)
		}
	}()
	for {
		s.mu.Lock()
		if s.ended || len(s.queue) == 0 && s.pongDue == nil && !s.pingDue {
			s.writing = false
			s.mu.Unlock()
			return
		}
		var control []byte
		if s.pongDue != nil {
			control, s.pongDue = s.pongDue, nil
		}
		if s.pingDue {
			control, s.pingDue = append(control, pingFrame()...), false
		}
		message, slots, end := s.gather((*buf)[:0])
		*buf = message
		s.mu.Unlock()

		var err error
		if len(control) > 0 {
			_, err = s.socket.Write(control)
		}
		if err == nil && len(message) > 0 {
			err = s.conn.Write(context.Background(), websocket.MessageText, message)
		}
		for range slots {
			<-s.slots
		}
		switch {
		case s.socket.stalled.Load():
			s.g.cfg.Logger.Info("session closed: the client read nothing for too long", "session", s.id, "client", s.client())
			_, _ = s.socket.Write(closeFrame(frame.CloseReadNothing, "read nothing for too long"))
			s.end()
			return
		case err != nil:
			s.end()
			return
		case end != nil:
			s.cancel()
			_ = s.conn.Close(websocket.StatusCode(end.code), end.reason) // waits for the peer, 5 s at most
			s.end()
			return
		}
	}
}

// gather takes the next message off the queue. The caller holds s.mu.
func (s *session) gather(buf []byte) (message []byte, slots int, end *closing) {
	n := 0
	for ; n < len(s.queue) && len(buf) < messageBytes; n++ {
		it := &s.queue[n]
		if it.close != nil {
			if n == 0 {
				end = it.close
			}
			break // what comes before it goes out first
		}
		if len(buf) > 0 {
			buf = append(buf, '\n')
		}
		if it.isEvent() {
			buf = append(buf, it.sub.head...)
			buf = append(buf, it.entry.tail...)
			s.eventBytes -= it.size()
			s.g.stats.delivered.Add(1)
		} else {
			buf = append(buf, it.frame...)
		}
		if it.slot {
			slots++
		}
	}
	rest := copy(s.queue, s.queue[n:])
	clear(s.queue[rest:])
	s.queue = s.queue[:rest]
	if rest == 0 && cap(s.queue) > 64 {
		s.queue = nil // an idle session keeps no memory of its busy days
	}
	if s.eventBytes <= s.g.cfg.QueueBytes/2 {
		select {
		case s.room <- struct{}{}:
		default:
		}
	}
	return buf, slots, end
}

// drop takes the items out of the queue that unwanted says. The caller holds
// s.mu.
func (s *session) drop(unwanted func(*item) bool) {
	kept := s.queue[:0]
	for i := range s.queue {
		it := &s.queue[i]
		if !unwanted(it) {
			kept = append(kept, *it)
			continue
		}
		if it.isEvent() {
			s.eventBytes -= it.size()
		}
		if it.slot {
			<-s.slots
		}
	}
	clear(s.queue[len(kept):])
	s.queue = kept
}
