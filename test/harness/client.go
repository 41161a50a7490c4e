package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// Frame is any frame that a gateway sends.
type Frame struct {
	Op       string          `json:"op"`
	ID       string          `json:"id"`
	Sub      string          `json:"sub"`
	Key      string          `json:"key"`
	Stream   string          `json:"stream"`
	Version  uint64          `json:"version"`
	Position uint64          `json:"position"`
	Replayed bool            `json:"replayed"`
	Event    string          `json:"event"`
	Cause    string          `json:"cause"`
	By       string          `json:"by"`
	Cursor   string          `json:"cursor"`
	Log      string          `json:"log"`
	Node     string          `json:"node"`
	Code     string          `json:"code"`
	Reason   string          `json:"reason"`
	Message  string          `json:"message"`
	Retry    string          `json:"retry"`
	Field    string          `json:"field"`
	AfterMS  int             `json:"after_ms"`
	Data     json.RawMessage `json:"data"`
	Rows     []Row           `json:"rows"`
	Rank     string          `json:"rank"`
	Gone     bool            `json:"gone"`
	Segment  string          `json:"segment"`
	Epoch    uint64          `json:"epoch"`
	Keys     []string        `json:"keys"`
	// Behind, in a heartbeat, has the subscriptions that are still catching up.
	Behind []struct {
		Sub    string `json:"sub"`
		Cursor string `json:"cursor"`
	} `json:"behind"`
}

// Row is a row of an answer to a query.
type Row struct {
	Key      string          `json:"key"`
	Rank     string          `json:"rank"`
	Position uint64          `json:"position"`
	Data     json.RawMessage `json:"data"`
}

// Session is a WebSocket connection with the protocol ganglion.v1. It is safe
// for concurrent use.
type Session struct {
	Welcome Frame

	conn *websocket.Conn
	bye  atomic.Bool   // after a goodbye frame
	done chan struct{} // closed when the connection has ended
	err  error         // the reason, after done is closed

	mu      sync.Mutex
	waiting map[string]chan Frame // by request id: gets the reply
	subs    map[string]func(Frame)
	next    int
}

// Dial connects and says hello.
func Dial(ctx context.Context, url, client string, hello map[string]any) (*Session, error) {
	return DialThrough(ctx, nil, url, client, hello)
}

// DialThrough is Dial with the connections of an HTTP client, nil for the default one.
func DialThrough(ctx context.Context, through *http.Client, url, client string, hello map[string]any) (*Session, error) {
	conn, _, err := websocket.Dial(ctx, url+"/v1/ws", &websocket.DialOptions{
		HTTPClient:   through,
		Subprotocols: []string{"ganglion.v1"},
		HTTPHeader:   http.Header{"Authorization": {"Bearer dev:" + client}},
	})
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1)
	s := &Session{conn: conn, done: make(chan struct{}), waiting: map[string]chan Frame{}, subs: map[string]func(Frame){}}
	go s.read()
	if s.Welcome, err = s.Call(ctx, merge(map[string]any{"op": "hello"}, hello)); err != nil {
		s.Close()
		return nil, err
	}
	if s.Welcome.Op != "welcome" {
		s.Close()
		return nil, fmt.Errorf("the reply to hello is %s %s: %s", s.Welcome.Op, s.Welcome.Code, s.Welcome.Message)
	}
	return s, nil
}

func merge(a, b map[string]any) map[string]any {
	for k, v := range b {
		a[k] = v
	}
	return a
}

// Close cuts the connection and waits until the reader has ended.
func (s *Session) Close() {
	s.conn.CloseNow()
	<-s.done
}

// Done returns a channel that is closed when the connection has ended. [Session.Err]
// then returns the reason.
func (s *Session) Done() <-chan struct{} { return s.done }

// Leaving reports whether the gateway has sent goodbye. It still replies to open
// requests; send new ones to another gateway.
func (s *Session) Leaving() bool { return s.bye.Load() }

// Err waits for the end of the connection and returns its reason.
func (s *Session) Err() error { <-s.done; return s.err }

func (s *Session) read() {
	defer close(s.done)
	for {
		_, message, err := s.conn.Read(context.Background())
		if err != nil {
			s.err = err
			return
		}
		for text := range bytes.SplitSeq(message, []byte("\n")) {
			var f Frame
			if err := json.Unmarshal(text, &f); err != nil {
				s.err = fmt.Errorf("a frame is not JSON: %q: %w", text, err)
				s.conn.CloseNow()
				return
			}
			s.dispatch(f)
		}
	}
}

func (s *Session) dispatch(f Frame) {
	if f.Op == "goodbye" {
		s.bye.Store(true)
	}
	s.mu.Lock()
	reply, handler := s.waiting[f.ID], s.subs[f.Sub]
	delete(s.waiting, f.ID)
	if f.Op == "heartbeat" || f.Op == "goodbye" {
		handler = nil
		for id, h := range s.subs {
			g := f
			for _, b := range f.Behind { // its events up to f.Cursor are not all sent
				if b.Sub == id {
					g.Cursor = b.Cursor
				}
			}
			defer h(g)
		}
	}
	s.mu.Unlock()
	switch {
	case f.ID != "" && reply != nil:
		reply <- f
	case handler != nil:
		handler(f)
	}
}

// Start sends a request and returns a channel that gets its reply.
func (s *Session) Start(ctx context.Context, frame map[string]any) (<-chan Frame, error) {
	reply := make(chan Frame, 1)
	s.mu.Lock()
	s.next++
	id, given := frame["id"].(string)
	if !given {
		id = "r" + strconv.Itoa(s.next)
		frame["id"] = id
	}
	s.waiting[id] = reply
	text, err := json.Marshal(frame)
	if err == nil {
		err = s.conn.Write(ctx, websocket.MessageText, text) // under the lock, so that requests are sent in the order of calls
	}
	s.mu.Unlock()
	return reply, err
}

// Call sends a request and waits for its reply.
func (s *Session) Call(ctx context.Context, frame map[string]any) (Frame, error) {
	reply, err := s.Start(ctx, frame)
	if err != nil {
		return Frame{}, err
	}
	select {
	case f := <-reply:
		return f, nil
	case <-s.done:
		select {
		case f := <-reply:
			return f, nil
		default:
			return Frame{}, s.err
		}
	case <-ctx.Done():
		return Frame{}, ctx.Err()
	}
}

// Send sends a frame that has no reply.
func (s *Session) Send(ctx context.Context, frame map[string]any) error {
	text, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.Write(ctx, websocket.MessageText, text)
}

// Consume makes the session a member of a consumer group. The reader calls handler with
// its frames.
func (s *Session) Consume(ctx context.Context, id, group, member string, window int, handler func(Frame)) (Frame, error) {
	s.mu.Lock()
	s.subs[id] = handler
	s.mu.Unlock()
	return s.Call(ctx, map[string]any{"op": "consume", "id": id, "group": group, "member": member, "window": window})
}

// Subscribe starts a subscription. The reader calls handler with its frames.
func (s *Session) Subscribe(ctx context.Context, id string, frame map[string]any, handler func(Frame)) (Frame, error) {
	s.mu.Lock()
	s.subs[id] = handler
	s.mu.Unlock()
	return s.Call(ctx, merge(map[string]any{"op": "subscribe", "id": id}, frame))
}

// Client uses several gateways as the protocol describes. Like a client library,
// it handles lost connections and unknown outcomes.
type Client struct {
	ID   string
	URLs []string

	// Retries counts repeated commands. Errors counts the replies that asked for
	// a repetition, and LastError is the last of them.
	Retries, Errors atomic.Int64
	LastError       atomic.Pointer[ErrRefused]

	mu      sync.Mutex
	session *Session
	at      int
}

// Connected returns the open session, or connects to the next gateway.
func (c *Client) Connected(ctx context.Context) (*Session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		select {
		case <-c.session.Done():
			c.session = nil
		default:
			return c.session, nil
		}
	}
	for {
		url := c.URLs[c.at%len(c.URLs)]
		c.at++
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		s, err := Dial(attempt, url, c.ID, nil)
		cancel()
		if err == nil {
			c.session = s
			return s, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no gateway accepts a session: %w", err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Leave cuts the current session. The next command connects to another gateway.
func (c *Client) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		c.session.Close()
		c.session = nil
	}
}

// leave cuts a session, and forgets it if it is the current one.
func (c *Client) leave(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		c.session = nil
	}
	s.Close()
}

// replyWithin is the time without a reply after which a client leaves its gateway:
// longer than the default timeout of commands.
const replyWithin = 7 * time.Second

// ErrRefused is an error reply for which a retry is useless.
type ErrRefused struct{ Frame Frame }

func (e *ErrRefused) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Frame.Code, e.Frame.Reason, e.Frame.Message)
}

// Do sends a command with the same key until its outcome is known. It retries
// immediately after a lost connection or retry "same_key", and after 5 ms for
// retry "later".
func (c *Client) Do(ctx context.Context, aggregate, command, key string, data any) (Frame, error) {
	return c.DoFrame(ctx, map[string]any{"aggregate": aggregate, "command": command, "key": key, "data": data})
}

// DoFrame is like [Client.Do] for a command frame with more fields. It sets op and
// id.
func (c *Client) DoFrame(ctx context.Context, frame map[string]any) (Frame, error) {
	var last error // of the previous attempt
	for attempt := 0; ; attempt++ {
		if attempt > 0 {
			c.Retries.Add(1)
		}
		s, err := c.Connected(ctx)
		if err != nil {
			return Frame{}, errors.Join(err, last)
		}
		attempt, cancel := context.WithTimeout(ctx, replyWithin)
		f, err := s.Call(attempt, merge(map[string]any{"op": "command"}, frame))
		cancel()
		if err != nil {
			c.leave(s) // the gateway may hang
		}
		switch {
		case ctx.Err() != nil:
			return Frame{}, errors.Join(ctx.Err(), last)
		case err != nil:
			last = err
			continue
		case f.Op == "result":
			return f, nil
		case f.Op == "error" && f.Retry == "same_key":
			last = c.askedAgain(f)
		case f.Op == "error" && f.Retry == "later":
			last = c.askedAgain(f)
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return Frame{}, err
			}
		default:
			return f, &ErrRefused{f}
		}
	}
}

// askedAgain records an error that asks for a retry.
func (c *Client) askedAgain(f Frame) error {
	err := &ErrRefused{f}
	c.Errors.Add(1)
	c.LastError.Store(err)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Follower is a subscription that continues on other gateways: it resumes from its
// last cursor. It checks the order of the events that it receives.
type Follower struct {
	ID     string
	URLs   []string
	Target map[string]any // {"stream": …} or {"category": …}
	Each   func(Frame)    // every event, once, in order

	// Log is the log id that the follower knows, "" before its first welcome.
	Log string
	// Reconnects counts connections after the first.
	Reconnects int
	// Cursor is the last received cursor.
	Cursor string

	live     bool // the subscription of this connection is live
	position uint64
	versions map[string]uint64
}

// Follow receives events until ctx ends, the subscription is refused or a promise
// is broken. A value on move makes it connect to the next gateway.
func (f *Follower) Follow(ctx context.Context, move <-chan struct{}) error {
	if f.Cursor == "" {
		f.Cursor = "0"
	}
	f.versions = map[string]uint64{}
	for at := 0; ; at++ {
		err := f.once(ctx, f.URLs[at%len(f.URLs)], move)
		var wrong *Violation
		var refused *ErrRefused
		switch {
		case ctx.Err() != nil && !errors.As(err, &wrong):
			return nil
		case errors.As(err, &wrong) || errors.As(err, &refused):
			return err
		}
		f.Reconnects++
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil
		}
	}
}

// Violation is a promise that the gateway broke.
type Violation struct{ What string }

func (v *Violation) Error() string { return v.What }

func (f *Follower) once(ctx context.Context, url string, move <-chan struct{}) error {
	attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	hello := map[string]any{}
	if f.Log != "" {
		hello["log"] = f.Log
	}
	f.live = false
	s, err := Dial(attempt, url, f.ID, hello)
	if err != nil {
		return err
	}
	defer s.Close()
	if f.Log == "" {
		f.Log = s.Welcome.Log
	}
	failed := make(chan error, 1)
	handler := func(frame Frame) {
		if err := f.check(frame); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}
	answer, err := s.Subscribe(attempt, "s", merge(map[string]any{"cursor": f.Cursor}, f.Target), handler)
	switch {
	case err != nil:
		return err
	case answer.Op == "error" && answer.Retry == "no":
		return &ErrRefused{answer}
	case answer.Op != "subscribed":
		return fmt.Errorf("the reply to subscribe is %s %s: %s", answer.Op, answer.Code, answer.Message)
	}
	select {
	case err := <-failed:
		return err
	case <-s.Done():
		return s.Err()
	case <-move:
		return errors.New("moved to the next gateway")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// check checks a frame against the previous ones: positions increase, and the
// versions of a stream have no gaps and no repeats.
func (f *Follower) check(frame Frame) error {
	switch frame.Op {
	case "live":
		f.Cursor, f.live = frame.Cursor, true
		return nil
	case "heartbeat":
		if f.live { // an earlier heartbeat does not cover this subscription
			f.Cursor = frame.Cursor
		}
		return nil
	case "event":
	case "unsubscribed":
		return &ErrRefused{frame}
	default:
		return nil
	}
	if frame.Position <= f.position {
		return &Violation{fmt.Sprintf("position %d follows %d", frame.Position, f.position)}
	}
	if last := f.versions[frame.Stream]; frame.Version != last+1 {
		return &Violation{fmt.Sprintf("%s: version %d follows %d", frame.Stream, frame.Version, last)}
	}
	f.position, f.versions[frame.Stream] = frame.Position, frame.Version
	f.Cursor = strconv.FormatUint(frame.Position, 10)
	f.Each(frame)
	return nil
}

// WS returns the WebSocket URL for the URL of a node.
func WS(url string) string { return "ws" + strings.TrimPrefix(url, "http") }
