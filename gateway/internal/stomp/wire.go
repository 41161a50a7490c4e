// Package stomp serves STOMP 1.0, 1.1 and 1.2 over WebSockets.
//
// [Wire] is the protocol of a session, as those of package wire: it turns the client's
// frames into requests of ganglion.v1, which the session handles as any others, and the
// session's frames into STOMP frames. requests.go has the way in, replies.go the way
// out, events.go the events; codec.go and append.go the frames themselves.
package stomp

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Subprotocols are the WebSocket subprotocols of STOMP, the preferred one first.
func Subprotocols() []string { return []string{"v12.stomp", "v11.stomp", "v10.stomp"} }

// Limits of frames, besides the limit of a message that every session has.
const (
	maxHeaders = 64
	// A token of up to 8 KiB must fit into CONNECT, beside its other headers.
	maxHeaderBytes = 12 << 10
	// A session may have this many transactions, whose frames together have at most
	// the bytes of one message.
	maxTransactions = 16
)

// Prefetch is the window of a subscription that acknowledges events and does not
// choose one by prefetch-count. MaxPrefetch is the largest.
const (
	Prefetch    = 256
	MaxPrefetch = 4096
)

// Config is what the wires of a gateway share.
type Config struct {
	Server  string // name and version
	HasType func(string) bool
	// TrustsLogin is set if a login without a token names the client.
	TrustsLogin bool
	// Heartbeat is the interval of heart-beats.
	Heartbeat time.Duration
}

// Wire is the STOMP of one session. The methods of [wire.Wire] are called as described
// there. Its mutex is acquired below Session.mu, and never held while a method of the
// Handler is called.
type Wire struct {
	cfg  *Config
	conn *websocket.Conn

	// Of the goroutine that calls Read.
	decoder     Decoder
	isConnected bool // CONNECT was accepted or is being answered
	hasLeft     bool // DISCONNECT was received
	held        transactions

	interval   atomic.Int64 // of the client's heart-beats, in ns, if only messages are signs of life; 0 otherwise
	heard      atomic.Int64 // when the last message came, in ns since began
	hasFilters atomic.Bool  // some subscription wants only one event
	messages   atomic.Uint64

	mu          sync.Mutex
	version     Version
	wantsBeats  bool
	client, log string
	requests    uint64
	pending     map[string]*pending // by the id of the request
	subs        map[string]*subscription
	refs        map[string]*subscription // those of subs that the session has, by its id
	own         map[string]*subscription // those of subs that are queues of the connection, by name
	locating    int                      // SUBSCRIBEs without an answer
	located     chan struct{}            // closed when locating falls to 0; nil if no frame waits
	failure     *refusal                 // for the ERROR of the next Close
	hasFailed   bool                     // an ERROR was sent
	leaving     *pending                 // DISCONNECT, until the other requests are answered
	isOver      bool                     // the RECEIPT of DISCONNECT was sent
}

// New returns a Wire over a connection.
func New(cfg *Config, conn *websocket.Conn) *Wire {
	return &Wire{
		cfg: cfg, conn: conn, pending: make(map[string]*pending),
		subs: make(map[string]*subscription), refs: make(map[string]*subscription), own: make(map[string]*subscription),
	}
}

// Protocol implements [wire.Wire].
func (*Wire) Protocol() string { return "stomp" }

// buffers are buffers for the client's messages.
var buffers = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// Read implements [wire.Wire].
func (w *Wire) Read(in *socket.Conn, h wire.Handler) (more bool, code int, reason string) {
	w.decoder.Limits = Limits{Headers: maxHeaders, HeaderBytes: maxHeaderBytes, BodyBytes: h.Limits().FrameBytes}
	for {
		_, r, err := w.conn.Reader(context.Background()) // text and binary messages are the same
		if err != nil {
			return false, 0, ""
		}
		w.heard.Store(int64(time.Since(began)))
		more, failure := w.readMessage(r, h)
		switch {
		case failure != nil:
			w.mu.Lock()
			w.failure = failure
			w.mu.Unlock()
			return false, failure.closeCode(), failure.short()
		case !more:
			return false, 0, ""
		case in.Input.Buffered() == 0:
			return true, 0, ""
		}
	}
}

// readMessage handles the frames of a message, of which the first may have begun in an
// earlier one, and the last may end in a later one.
func (w *Wire) readMessage(r io.Reader, h wire.Handler) (more bool, failure *refusal) {
	buffer := buffers.Get().(*[4 << 10]byte)
	defer buffers.Put(buffer)
	for {
		n, err := r.Read(buffer[:])
		for data := buffer[:n]; len(data) > 0; {
			f, rest, broken := w.decoder.Decode(data)
			if broken != nil {
				return false, broke(broken, h)
			}
			if data = rest; f == nil {
				break
			}
			if more, failure := w.handle(f, h); !more {
				return false, failure
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil:
			return false, nil
		}
	}
}

// broke returns the refusal of a frame that can't be read.
func broke(err error, h wire.Handler) *refusal {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Message: "internal error"}
	}
	if e.TooLarge {
		h.Reached(limits.FrameBytes)
		return &refusal{failure: command.TooLarge("%s", e.Message), receipt: e.Receipt}
	}
	return &refusal{failure: command.BadRequest("", "%s", e.Message), receipt: e.Receipt}
}

// Ignore implements [wire.Wire].
func (w *Wire) Ignore(in *socket.Conn) { wire.WebSocket{Conn: w.conn}.Ignore(in) }

// Release implements [wire.Wire].
func (w *Wire) Release() { _ = w.conn.CloseNow() }

// Separator implements [wire.Wire]: a NUL ends each frame.
func (*Wire) Separator() string { return "" }

// strictBelow is the interval of heart-beats below which the client's WebSocket library
// cannot answer for it. Browsers let the timers of a hidden tab run once a minute, so with
// longer ones its answers to pings are a sign of life too.
const strictBelow = 5 * time.Second

// began is the time from which heard counts. It has a monotonic clock, so no client
// looks silent after the machine's clock was set forward.
var began = time.Now()

// Silence implements [wire.Wire]. The session compares it with the gateway's interval,
// so the silence of a client that beats less often counts for less.
func (w *Wire) Silence(quiet time.Duration) time.Duration {
	interval := w.interval.Load()
	if interval == 0 {
		return quiet
	}
	silent := int64(time.Since(began)) - w.heard.Load()
	return time.Duration(float64(silent) / float64(interval) * float64(w.cfg.Heartbeat))
}

// Ping implements [wire.Wire].
func (*Wire) Ping() []byte { return socket.Ping() }

// Message implements [wire.Wire]. A message with a body that is not text is binary.
func (*Wire) Message(b []byte) []byte {
	if utf8.Valid(b[wire.HeaderRoom:]) {
		return socket.Text(b)
	}
	return socket.Binary(b)
}

// Close implements [wire.Wire]: an ERROR, unless one was sent before or the client has
// said DISCONNECT, and the close frame.
func (w *Wire) Close(code int, reason string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	ending := socket.Close(code, reason)
	if w.hasFailed || w.isOver {
		return ending
	}
	r := w.failure
	if r == nil {
		r = &refusal{failure: closed(code, reason)}
	}
	w.hasFailed = true
	return append(w.Message(w.appendError(make([]byte, wire.HeaderRoom), r)), ending...)
}

// closed returns what an ERROR says of the end of a session.
func closed(code int, reason string) *command.Failure {
	switch code {
	case frame.CloseUnauthenticated:
		return command.Unauthenticated("%s", reason)
	case frame.CloseForbidden:
		return command.Forbidden("%s", reason)
	case frame.CloseGoingAway, frame.CloseDraining, frame.CloseOverloaded, frame.CloseTooMany, frame.CloseLost:
		return command.Unavailable("%s: connect again, to any gateway", reason)
	}
	return command.BadRequest("", "%s", reason)
}

// refusal is what an ERROR says.
type refusal struct {
	failure *command.Failure
	receipt string // of the refused frame
	cursor  string // from which a subscription that was ended can be continued
	version bool   // state the versions that are served
}

// closeCode returns the close code that follows an ERROR.
func (r *refusal) closeCode() int {
	switch r.failure.Code {
	case command.CodeUnauthenticated:
		return frame.CloseUnauthenticated
	case command.CodeForbidden:
		return frame.CloseForbidden
	case command.CodeTooLarge:
		return frame.CloseTooLarge
	case command.CodeRateLimited:
		return frame.CloseTooMany
	case command.CodeUnavailable:
		return frame.CloseLost
	}
	return frame.CloseBadFrame
}

// short returns the reason of a close frame.
func (r *refusal) short() string {
	const most = 123
	s := r.failure.Message
	if len(s) > most {
		s = s[:most]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return s
}

// appendError appends an ERROR. The caller holds w.mu.
func (w *Wire) appendError(b []byte, r *refusal) []byte {
	b = AppendCommand(b, "ERROR")
	add := func(name, value string) {
		if value != "" {
			b = AppendHeader(b, w.version, name, value)
		}
	}
	add("message", string(r.failure.Code))
	add("receipt-id", r.receipt)
	w.addFailure(add, r.failure)
	add("cursor", r.cursor)
	if r.version {
		add("version", "1.0,1.1,1.2")
	}
	add("content-type", "text/plain")
	return AppendBody(b, []byte(r.failure.Message))
}

// addFailure adds the headers of a failure.
func (w *Wire) addFailure(add func(name, value string), f *command.Failure) {
	add("code", string(f.Code))
	add("reason", f.Reason)
	retry := f.Retry
	if retry == "" {
		retry = command.RetryNo
	}
	add("retry", string(retry))
	if f.After > 0 {
		add("after-ms", strconv.FormatInt(f.After.Milliseconds(), 10))
	}
	add("field", f.Field)
}
