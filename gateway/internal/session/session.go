// Package session serves one client over one connection.
//
// A [Session] has a goroutine that reads, and a shard of the hub that writes.
// [wire.Wire.Read] parses the client's messages and calls Handle of the
// session's reader for each request; frames.go has the next steps, in the order
// of the calls. Each reply is one call of reply or fail. In its turns, the shard
// calls Write of the session's writer; events.go has the next steps, and
// queries.go those of live queries, consumers.go those of consumer groups.
//
// The outbound memory of a session is bounded. Pending replies are bounded by
// the number of open requests and by bytes; past either bound the reader stops
// reading. Events are not queued: the cursors of the subscriptions say which
// come next, and a message is built when the socket has room for one.
//
// # Owners
//
// Session.mu guards the outbox (pending frames, the state of writing), the
// deadlines (timers), subs, queries, consumers, stateReads and departure. requests.slots and
// room are channels. member belongs to the shard.
//
// # Locks
//
// These are the locks of package gateway and of the packages below it. A
// goroutine that holds one of them acquires only locks that are below it here:
//
//	liveQueries.renewing, consumptions.renewing
//	└─ Session.mu
//	     ├─ consumer.Member.mu
//	     │    ├─ history.Pages.mu
//	     │    └─ locks of group.Membership
//	     ├─ history.Pages.mu
//	     ├─ history.SharedStates.mu
//	     └─ locks of ask.Live
//
// and below all of these, hub.Shard.mu and then hub.Hub.mu.
//
// Session.mu is held during Next, Cursor and Close of an [ask.Live], which do not
// block. They and their callers may hold locks of their own while they call wake,
// which therefore acquires hub.Shard.mu and nothing above it. Renew blocks, and is
// called with liveQueries.renewing alone. The same holds for a [consumer.Member]: Park
// and Renew block, and its other methods do not.
//
// In package gateway, the lock of the members over HTTP is above consumer.Member.mu.
// All other locks are acquired alone: in package gateway those of the roster,
// of the HTTP requests and of each HTTP response; in package limits those of
// Places, ClientPlaces and Buckets. No lock is held while the application's
// code, the router or the store is called, except that Renew runs access rules of
// queries and groups under liveQueries.renewing and consumptions.renewing. In particular, Send is called without a lock,
// since the router may reply before Send returns.
package session

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/consumer"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/questions"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Server is what the sessions of a gateway share.
type Server struct {
	Node, Version string
	Heartbeat     time.Duration
	Limits        limits.Limits
	Counters      *limits.Counters
	Logger        *slog.Logger
	Socket        socket.Options

	Auth      access.Authenticator
	Gate      *access.Gate
	Send      func(command.Command, func(command.Outcome)) // to the router
	Asker     *questions.Asker
	Consumers *consumer.Gateway
	Log       *history.Log
	States    *history.States
	Shared    *history.SharedStates
	Hub       *hub.Hub
	Out       *outbox.Shared
	Roster    Roster

	Demotions atomic.Uint64 // subscriptions that fell behind the window
	Revoked   atomic.Uint64 // sessions closed because their token was revoked
}

// Roster counts sessions.
type Roster interface {
	// Enter counts a session that says hello, as a client's or as anonymous. It
	// returns a failure if there is no room for the session.
	Enter(s *Session, client string) *command.Failure
	// Remove is called when a session has ended.
	Remove(s *Session)
}

// Session is one connection of a client.
type Session struct {
	id     string
	opened int64 // Unix time in seconds
	server *Server
	conn   *socket.Conn
	wire   wire.Wire
	member hub.Member
	ctx    context.Context // ends when the session has ended or has written its close frame
	cancel context.CancelFunc
	tasks  sync.WaitGroup // goroutines other than the reader
	room   chan struct{}  // signalled when a message was written

	requests requests
	hasWoken atomic.Bool // some source may have isWoken

	mu        sync.Mutex
	client    client
	out       outbox.Outbox
	deadlines deadlines
	subs      subs
	queries   liveQueries
	consumers consumptions
	states    stateReads
	departure departure
}

// client is what the session knows about its client.
type client struct {
	identity  access.Identity
	renewals  int // of the identity
	saidHello bool
	otherLog  string // the log that it named in hello, if it is not this one
}

// New returns a session without a connection.
func New(server *Server, identity access.Identity) *Session {
	s := &Session{
		id: access.NewID(), opened: time.Now().Unix(), server: server, client: client{identity: identity},
		room:     make(chan struct{}, 1),
		requests: newRequests(&server.Limits),
		subs:     subs{byID: make(map[string]*subscription)},
	}
	s.out.Init(&s.mu, writer{s}, server.Out)
	server.Hub.Enroll(&s.member, writer{s})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// ID returns the session's id.
func (s *Session) ID() string { return s.id }

// Identity returns the identity of the session's client.
func (s *Session) Identity() access.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client.identity
}

// HasSaidHello reports whether the client has said hello.
func (s *Session) HasSaidHello() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client.saidHello
}

// Hijack takes over the connection of a request. accept must call Hijack of its
// argument, and returns the wire.
func (s *Session) Hijack(w http.ResponseWriter, accept func(http.ResponseWriter) (wire.Wire, error)) error {
	h := &socket.Hijacker{ResponseWriter: w, Options: s.server.Socket}
	h.Options.OnControl = s.closeWith
	over, err := accept(h)
	if err != nil {
		s.cancel()
		return err
	}
	s.attach(h.Conn, over)
	return nil
}

func (s *Session) attach(conn *socket.Conn, w wire.Wire) {
	s.conn, s.wire = conn, w
	s.out.Attach(conn, w)
}

// Start serves the session until it has ended, and then removes it from the
// roster. It does not block.
func (s *Session) Start() {
	s.mu.Lock()
	if s.client.saidHello {
		s.deadlines.heartbeat = time.AfterFunc(s.server.Heartbeat, s.onHeartbeat)
	} else {
		s.deadlines.hello = time.AfterFunc(s.server.Limits.HelloTimeout, s.onHelloTimeout)
	}
	s.armExpiry()
	s.mu.Unlock()
	s.CloseIfRevoked()
	go s.readUntilEnd(false)
}

// readUntilEnd reads messages, and ends the session after the last one. Waiting
// for a message needs a small stack, handling one a large stack. Most sessions
// say hello and then nothing, so a new goroutine continues after hello: an idle
// session has a small stack immediately, and not only after two cycles of the
// garbage collector.
func (s *Session) readUntilEnd(isSecond bool) {
	for {
		_, _ = s.conn.Input.Peek(1) // wait for input; Read will return the error, if any
		more, code, reason := s.wire.Read(s.conn, reader{s})
		if !more {
			s.finish(code, reason)
			return
		}
		if !isSecond && s.HasSaidHello() {
			go s.readUntilEnd(true)
			return
		}
	}
}

// finish closes the session, with a close frame if code is not 0, and cleans
// up.
func (s *Session) finish(code int, reason string) {
	defer s.server.Roster.Remove(s)
	if code != 0 {
		s.CloseAfterFlush(code, reason)
	}
	s.mu.Lock()
	isClosing := s.out.IsClosing()
	s.mu.Unlock()
	if isClosing { // until the client has answered the close frame, or its time is over
		s.wire.Ignore(s.conn)
	}
	s.End()
	s.tasks.Wait()

	s.mu.Lock()
	for _, sub := range s.subs.byID {
		s.subs.remove(sub)
	}
	for _, q := range s.queries.list() {
		s.endQuery(q)
	}
	for _, c := range s.consumers.list() {
		s.endConsumption(c)
	}
	s.subs.ready, s.states.waiting = nil, nil
	s.out.Discard()
	s.deadlines.stop()
	s.mu.Unlock()
	s.wire.Release()
}

// End ends the session without a close frame. It can be called more than once.
func (s *Session) End() {
	s.mu.Lock()
	s.out.End()
	s.mu.Unlock()
	s.cancel()
	_ = s.conn.Close()
}

// CloseAfterFlush closes the session with a code after the pending frames.
func (s *Session) CloseAfterFlush(code int, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeAfterFlush(code, reason)
}

// Pong answers a ping of the WebSocket.
func (s *Session) Pong(payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Pong(payload)
}

// closeAfterFlush is CloseAfterFlush for callers that hold s.mu.
func (s *Session) closeAfterFlush(code int, reason string) {
	s.out.Close(s.wire.Close(code, reason))
}

// closeWith closes the session with a close frame of the WebSocket library,
// which answers the client's or refuses its input. It returns when a close frame
// was written or the session has ended.
func (s *Session) closeWith(frame []byte) {
	s.mu.Lock()
	s.out.Close(frame)
	s.mu.Unlock()
	<-s.ctx.Done()
}

// Kick closes the session with 4004, so that its client does not reconnect. It
// returns false if the session was already closing.
func (s *Session) Kick() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.IsClosing() {
		return false
	}
	s.closeAfterFlush(frame.CloseForbidden, "closed by an operator")
	return true
}

// Reject closes the connection of a session that was never admitted. It writes
// before and the close frame itself, since no shard serves the session. If code
// is 0, it writes nothing.
func (s *Session) Reject(code int, reason string, before []byte) {
	s.mu.Lock()
	s.out.End()
	s.mu.Unlock()
	s.cancel()
	if code != 0 {
		s.conn.SetGrace(outbox.CloseGrace)
		if err := s.conn.WriteAll(append(before, s.wire.Close(code, reason)...)); err == nil {
			s.conn.Finish(outbox.CloseGrace)
			s.wire.Ignore(s.conn)
		}
	}
	_ = s.conn.Close()
	s.wire.Release()
}

// spawn runs f in a goroutine, for which the session waits when it ends. The
// caller holds s.mu.
func (s *Session) spawn(f func()) {
	if s.out.HasEnded() {
		return
	}
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		f()
	}()
}

// Held implements [limits.Holder].
func (s *Session) Held() (bytes int, anonymous, closing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes, closing = s.out.Held()
	return bytes, s.client.identity.IsAnonymous(), closing
}

// Evict implements [limits.Holder]: it drops the pending frames and closes the
// session.
func (s *Session) Evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := s.out.Bytes()
	replies, ok := s.out.Evict(frame.CloseOverloaded, "this gateway's send buffers are full and you read too slowly: retry later")
	if !ok {
		return
	}
	s.requests.free(replies)
	s.states.waiting = nil
	s.server.Logger.Info("session closed: it held too much of the outbound buffers", "session", s.id, "client", s.client.identity.Client, "bytes", bytes)
}
