package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/time/rate"
)

// session is one connection, of a WebSocket or of Server-Sent Events: a
// goroutine that reads, and a shard that writes.
//
// What waits for the socket is bounded. What is owed (answers and the like) is
// bounded by the requests that may be open and by bytes; past that the reader
// stops reading. Events don't wait here: the cursors of the subscriptions
// say what comes next, and a message is made of them when the socket takes
// one.
type session struct {
	g      *Gateway
	id     string
	wire   wire
	input  *bufio.Reader // what the wire reads from
	socket *socket
	shard  *shard
	ctx    context.Context // ends with the session, and once its close frame was written
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	counted   string // as whose session it counts; guarded by g.mu, like the next three
	entered   bool   // it is counted as one that said hello
	seat      seat   // among those that have not, or the anonymous ones
	displaced bool   // it is closed in favour of another
	renewed   bool   // its goroutine is the second; that goroutine's own

	slots chan struct{} // one for each request that is open or whose answer is unwritten
	room  chan struct{} // signalled when a message has been written

	urgent, bulk bool   // in the shard's queues; guarded by shard.mu
	turn         uint64 // the last one that wrote here; the shard's goroutine's own

	mu       sync.Mutex
	identity Identity
	renewals int // how often identity was renewed
	greeted  bool
	otherLog string // the log that the client said it knows, if it is not this one; set by hello
	leaving  string // why it was sent away, "" if it was not
	closing  bool   // nothing is queued any more
	ended    bool   // nothing is written any more
	paused   bool   // the reader waits: silence is not the client's
	open     map[string]*request
	subs     map[string]*subscription
	rate     *bucket       // of commands
	auths    *rate.Limiter // nil before the first auth
	evicted  bool          // it owed too much

	queue    []item
	busy     []*subscription // have, or may have, something for the next message
	owed     int             // bytes in queue and rest
	asks     []*ask          // wait for room
	reserved int             // room for the answers to those that are under way

	lastState int     // bytes of the last answer to one of them
	rest      *[]byte // of a message that found the socket full
	writing   bool    // a goroutine writes rest
	beatDue   bool
	pingDue   bool
	pongDue   []byte

	goodbyeDue bool                // the next heartbeat is the last
	owedTo     eventstore.Position // the head when it was sent away

	// What is in the message that is being written.
	slotsDue, eventsDue int
	closeDue            bool

	heartbeat *time.Timer
	hello     *time.Timer
	expiry    *time.Timer
}

// request is one that has not been answered. Its address identifies it, so it
// must have a size.
type request struct{ _ byte }

func newSession(g *Gateway, identity Identity) *session {
	s := &session{
		g: g, id: newID(), identity: identity,
		slots: make(chan struct{}, g.cfg.Limits.OpenRequests),
		room:  make(chan struct{}, 1),
		shard: g.nextShard(),
		open:  make(map[string]*request),
		subs:  make(map[string]*subscription),
		rate:  newBucket(g.cfg.Limits.CommandsPerSecond),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// start serves the session until it has ended.
func (s *session) start() {
	s.mu.Lock()
	if s.greeted {
		s.heartbeat = time.AfterFunc(s.g.cfg.Heartbeat, s.beat)
	} else {
		s.hello = time.AfterFunc(s.g.cfg.Limits.HelloTimeout, s.noHello)
	}
	s.setExpiry()
	s.mu.Unlock()
	s.endIfRevoked()
	go s.run()
}

// run reads, and ends the session when there is nothing more to be read. To
// wait for the first bytes of a message takes little stack, to handle it takes
// a lot. Most sessions say hello and then nothing, so that a new goroutine
// takes over after that: an idle session has a small stack from the beginning,
// not only after the garbage collector has looked at it twice.
func (s *session) run() {
	for {
		_, _ = s.input.Peek(1) // what is wrong, read finds out
		again, code, reason := s.wire.read(s)
		if again && !s.renewed && s.isGreeted() {
			s.renewed = true
			go s.run()
			return
		}
		if !again {
			s.finish(code, reason)
			return
		}
	}
}

func (s *session) isGreeted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.greeted
}

// finish closes the session, with a code if that is not 0, and cleans up.
func (s *session) finish(code int, reason string) {
	defer s.g.tasks.Done()
	defer s.g.dismiss(s)
	if code != 0 {
		s.closeAfter(code, reason)
	}
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing { // until the client has answered that, or its time is over
		s.wire.ignore(s)
	}
	s.end()
	s.tasks.Wait()

	s.mu.Lock()
	for _, sub := range s.subs {
		s.forget(sub)
	}
	s.owe(-s.owed)
	s.queue, s.busy, s.asks = nil, nil, nil
	for _, t := range []*time.Timer{s.heartbeat, s.hello, s.expiry} {
		if t != nil {
			t.Stop()
		}
	}
	s.mu.Unlock()
	s.wire.release()
}

// end stops the session without ceremony. It may be called more than once.
func (s *session) end() {
	s.mu.Lock()
	s.ended, s.closing = true, true
	s.mu.Unlock()
	s.cancel()
	_ = s.socket.Close()
}

// spawn runs f beside the session, which waits for it. The caller holds s.mu.
func (s *session) spawn(f func()) {
	if s.ended {
		return
	}
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		f()
	}()
}

func (s *session) client() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity.Client
}

// read handles the frames that the client has sent.
func (w webSocket) read(s *session) (again bool, code int, reason string) {
	for {
		typ, r, err := w.conn.Reader(context.Background())
		if err != nil {
			return false, 0, ""
		}
		if typ == websocket.MessageBinary {
			_, _ = io.Copy(io.Discard, r)
			return false, frame.CloseBinary, "binary messages are not part of " + frame.Subprotocol
		}
		most := s.g.cfg.Limits.FrameBytes
		message, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
		if err != nil {
			return false, 0, ""
		}
		if len(message) > most {
			s.g.reached(limitFrameBytes)
			return false, frame.CloseTooLarge, fmt.Sprintf("a message has more than %d bytes, welcome.limits.frame_bytes: send smaller ones", most)
		}
		for line := range frame.Lines(message) {
			if !s.acquire() {
				return false, 0, ""
			}
			f, err := frame.ParseRequestWithin(line, s.g.cfg.Limits.Subscriptions)
			switch {
			case errors.Is(err, frame.ErrNotJSON):
				return false, frame.CloseBadFrame, "bad frame: not JSON in UTF-8, one object a line"
			case err != nil:
				if s.refuse(err) == command.RateLimited {
					s.g.reached(limitSubscriptions)
					return false, frame.CloseTooMany, "hello asks for more subscriptions than a session may have"
				}
			default:
				s.handle(f)
			}
		}
		if s.input.Buffered() == 0 {
			return true, 0, ""
		}
	}
}

// ignore reads and drops what else the client sends: a socket that is closed
// with unread input resets the connection, and the client might not see why it
// was closed.
func (w webSocket) ignore(s *session) {
	for {
		_, r, err := w.conn.Reader(context.Background())
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		switch {
		case err == nil:
		case websocket.CloseStatus(err) != -1:
			return
		default: // the library reads no more, after what was no WebSocket
			_, _ = io.Copy(io.Discard, io.LimitReader(s.socket.Conn, 64<<20))
			return
		}
	}
}

// acquire waits until another request may be open. It returns false once no
// more are taken.
func (s *session) acquire() bool {
	select {
	case s.slots <- struct{}{}:
	default:
		s.g.reached(limitOpenRequests)
		s.setPaused(true)
		defer s.setPaused(false)
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return false
		}
	}
	s.mu.Lock()
	for !s.hasRoom() && !s.closing {
		s.paused = true
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.ctx.Done():
		}
		s.mu.Lock()
		s.paused = false
		s.socket.heard()
		if s.ctx.Err() != nil {
			break
		}
	}
	closing, leaving := s.closing, s.leaving
	s.mu.Unlock()
	if leaving != "" && !closing { // what is owed is still to be written
		<-s.ctx.Done()
		return false
	}
	return !closing
}

func (s *session) setPaused(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = paused
	s.socket.heard()
}

// answer enqueues a frame that settles what a slot was taken for.
func (s *session) answer(f frame.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(item{frame: f.Append(nil), slot: true})
}

// refuse answers a frame that is not valid, and returns the code of the answer.
// If the frame's id names an open request, the answer must not settle that.
func (s *session) refuse(err error) command.Code {
	var bad *frame.Error
	if !errors.As(err, &bad) {
		bad = &frame.Error{Code: command.Internal, Message: "internal error"}
	}
	s.mu.Lock()
	taken := s.taken(bad.ID)
	s.mu.Unlock()
	f := frame.Fault{ID: bad.ID, Key: bad.Key, Code: bad.Code, Message: bad.Message, Field: bad.Field, Retry: command.RetryNo}
	if taken {
		f.ID, f.Key = "", ""
		f.Message = "frame with the id " + bad.ID + ", which is in use: " + bad.Message
	}
	s.answer(f)
	return bad.Code
}

// taken tells whether an id is in use. The caller holds s.mu.
func (s *session) taken(id string) bool {
	_, open := s.open[id]
	_, sub := s.subs[id]
	return open || sub
}

// claim registers a request under its id. If the id is in use it answers so,
// and returns nil.
func (s *session) claim(f frame.Request) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := f.RequestID()
	if s.taken(id) {
		s.enqueue(item{frame: duplicate(id).Append(nil), slot: true})
		return nil
	}
	r := &request{}
	s.open[id] = r
	return r
}

func duplicate(id string) frame.Fault {
	return frame.Fault{
		Code: command.BadRequest, Field: "id", Retry: command.RetryNo,
		Message: "the id \"" + id + "\" is in use by an open request or a subscription: choose another",
	}
}

// settle answers a request, unless it was answered already.
func (s *session) settle(id string, r *request, f frame.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked(id, r, f)
}

// settleLocked is settle for callers that hold s.mu.
func (s *session) settleLocked(id string, r *request, f frame.Frame) {
	if s.open[id] != r {
		return
	}
	delete(s.open, id)
	s.enqueue(item{frame: f.Append(nil), slot: true})
	s.settled()
}

func (s *session) noHello() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.greeted {
		s.g.reached(limitHelloTimeout)
		s.part(frame.CloseNoHello, "no hello in time")
	}
}

// beat sends a heartbeat, or ends a session that has been silent for three.
func (s *session) beat() {
	interval := s.g.cfg.Heartbeat
	s.mu.Lock()
	dead := s.socket.silent() >= 3*interval && !s.paused
	over := s.closing
	if !over {
		s.heartbeat.Reset(interval)
	}
	if !over && !dead {
		s.beatDue, s.pingDue = true, true
		s.kick()
		if len(s.subs) > 0 {
			s.spawn(s.recheck)
		}
	}
	s.mu.Unlock()
	if dead && !over {
		s.g.cfg.Logger.Info("session ended: silent for three heartbeats", "session", s.id)
		s.closeAfter(frame.CloseGoingAway, "silent for three heartbeats")
	}
}

// expiryWarning is how long before the end of its token a session is warned,
// unless the token lives for less than twice that: then half of its life is
// left.
const expiryWarning = time.Minute

// identify gives the session an identity. A renewal that brings no other end
// leaves the timer alone: a client that sends the token it has again, such as
// one from a cache, is not warned again. The caller holds s.mu.
func (s *session) identify(identity Identity) {
	same := s.expiry != nil && identity.Expires.Equal(s.identity.Expires)
	s.identity = identity
	if !same {
		s.setExpiry()
	}
}

// setExpiry arms the timer for the warning before the end of the identity, and
// then for that end. The caller holds s.mu.
func (s *session) setExpiry() {
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	expires := s.identity.Expires
	if expires.IsZero() {
		return
	}
	left := time.Until(expires)
	warn := max(0, left-min(expiryWarning, left/2))
	var timer *time.Timer
	timer = time.AfterFunc(warn, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.expiry != timer {
			return // renewed
		}
		if left := time.Until(expires); left > 0 {
			s.say(frame.Expiring{InMS: left.Milliseconds()})
			timer.Reset(left)
			return
		}
		s.part(frame.CloseUnauthenticated, "the token has expired")
	})
	s.expiry = timer
}
