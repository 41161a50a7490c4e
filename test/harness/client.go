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
	// Behind are a heartbeat's subscriptions that still catch up.
	Behind []struct {
		Sub    string `json:"sub"`
		Cursor string `json:"cursor"`
	} `json:"behind"`
}

// Session is one WebSocket connection that speaks ganglion.v1. It is safe for
// concurrent use.
type Session struct {
	Welcome Frame

	conn *websocket.Conn
	bye  atomic.Bool   // a goodbye has come
	done chan struct{} // closed when the reader ended
	err  error         // why, once done is closed

	mu      sync.Mutex
	waiting map[string]chan Frame // by id: replies
	subs    map[string]func(Frame)
	next    int
}

// Dial connects and says hello.
func Dial(ctx context.Context, url, client string, hello map[string]any) (*Session, error) {
	conn, _, err := websocket.Dial(ctx, url+"/v1/ws", &websocket.DialOptions{
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
		return nil, fmt.Errorf("hello was answered by %s %s: %s", s.Welcome.Op, s.Welcome.Code, s.Welcome.Message)
	}
	return s, nil
}

func merge(a, b map[string]any) map[string]any {
	for k, v := range b {
		a[k] = v
	}
	return a
}

// Close cuts the connection and waits for the reader.
func (s *Session) Close() {
	s.conn.CloseNow()
	<-s.done
}

// Done is closed when the connection has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Leaving tells whether the gateway has said goodbye: it answers what it has,
// and new requests go elsewhere.
func (s *Session) Leaving() bool { return s.bye.Load() }

// Err is why the connection ended.
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
				s.err = fmt.Errorf("a frame is no JSON: %q: %w", text, err)
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
			for _, b := range f.Behind { // not everything was sent to this one
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

// Start sends a request and returns where its reply will arrive.
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
		err = s.conn.Write(ctx, websocket.MessageText, text) // under the lock: requests leave in the order of the calls
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

// Subscribe begins a subscription; handler gets its frames, on the reader.
func (s *Session) Subscribe(ctx context.Context, id string, frame map[string]any, handler func(Frame)) (Frame, error) {
	s.mu.Lock()
	s.subs[id] = handler
	s.mu.Unlock()
	return s.Call(ctx, merge(map[string]any{"op": "subscribe", "id": id}, frame))
}

// Client follows the protocol across gateways: what a client library does
// about lost connections and unknown outcomes.
type Client struct {
	ID   string
	URLs []string

	// Retries counts commands that were sent again, Errors the answers that
	// asked for it.
	Retries, Errors atomic.Int64

	mu      sync.Mutex
	session *Session
	at      int
}

// Connected returns a session, dialling the next gateway if there is none.
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
			return nil, fmt.Errorf("no gateway: %w", err)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Leave cuts the current session; the next command connects elsewhere.
func (c *Client) Leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		c.session.Close()
		c.session = nil
	}
}

// leave cuts a session, if it is still the current one.
func (c *Client) leave(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == s {
		c.session = nil
	}
	s.Close()
}

// answerWithin is how long a client waits for an answer before it takes its
// gateway for dead: longer than a command may take by default.
const answerWithin = 7 * time.Second

// ErrRefused is an answer that no retry changes.
type ErrRefused struct{ Frame Frame }

func (e *ErrRefused) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Frame.Code, e.Frame.Reason, e.Frame.Message)
}

// Do sends a command until its outcome is known, always with the same key, as
// the protocol says: after a lost connection or retry "same_key" at once,
// after "later" a moment later.
func (c *Client) Do(ctx context.Context, aggregate, command, key string, data any) (Frame, error) {
	return c.DoFrame(ctx, map[string]any{"aggregate": aggregate, "command": command, "key": key, "data": data})
}

// DoFrame does what Do does with a command frame that says more; op and id are
// set here.
func (c *Client) DoFrame(ctx context.Context, frame map[string]any) (Frame, error) {
	var last error // why the attempt before failed
	for attempt := 0; ; attempt++ {
		if attempt > 0 {
			c.Retries.Add(1)
		}
		s, err := c.Connected(ctx)
		if err != nil {
			return Frame{}, errors.Join(err, last)
		}
		attempt, cancel := context.WithTimeout(ctx, answerWithin)
		f, err := s.Call(attempt, merge(map[string]any{"op": "command"}, frame))
		cancel()
		if err != nil {
			c.leave(s) // it may be a gateway that hangs
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
			c.Errors.Add(1)
			last = &ErrRefused{f}
		case f.Op == "error" && f.Retry == "later":
			c.Errors.Add(1)
			last = &ErrRefused{f}
			if err := pause(ctx, 5*time.Millisecond); err != nil {
				return Frame{}, err
			}
		default:
			return f, &ErrRefused{f}
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Follower is a subscription that survives its gateways: it resumes from its
// last cursor, and checks what it is given.
type Follower struct {
	ID     string
	URLs   []string
	Target map[string]any // {"stream": …} or {"category": …}
	Each   func(Frame)    // every event, once, in order

	// Log is the log id that the follower knows, "" before its first welcome.
	Log string
	// Reconnects counts connections after the first.
	Reconnects int
	// Cursor is the last one that the follower was given.
	Cursor string

	live     bool // the subscription of this connection is
	position uint64
	versions map[string]uint64
}

// Follow runs until ctx ends or the subscription is refused. A value on move
// makes it leave for the next gateway.
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
		if err := f.take(frame); err != nil {
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
		return fmt.Errorf("subscribe was answered by %s %s: %s", answer.Op, answer.Code, answer.Message)
	}
	select {
	case err := <-failed:
		return err
	case <-s.Done():
		return s.Err()
	case <-move:
		return errors.New("moving on")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take checks one frame against what came before: positions rise, versions
// have no hole, nothing comes twice.
func (f *Follower) take(frame Frame) error {
	switch frame.Op {
	case "live":
		f.Cursor, f.live = frame.Cursor, true
		return nil
	case "heartbeat":
		if f.live { // else it does not vouch for this subscription
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
		return &Violation{fmt.Sprintf("position %d came after %d", frame.Position, f.position)}
	}
	if last := f.versions[frame.Stream]; frame.Version != last+1 {
		return &Violation{fmt.Sprintf("%s: version %d came after %d", frame.Stream, frame.Version, last)}
	}
	f.position, f.versions[frame.Stream] = frame.Position, frame.Version
	f.Cursor = strconv.FormatUint(frame.Position, 10)
	f.Each(frame)
	return nil
}

// WS makes the WebSocket URL of a node's URL.
func WS(url string) string { return "ws" + strings.TrimPrefix(url, "http") }
