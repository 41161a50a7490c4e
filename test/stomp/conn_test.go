package stomp

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-stomp/stomp/v3/frame"
	"github.com/google/uuid"
)

// patience bounds every wait, also on a busy machine.
const patience = time.Minute

// versions are the subprotocols that clients offer.
var versions = []string{"v12.stomp", "v11.stomp", "v10.stomp"}

// conn is a connection that sends bytes as the test writes them, and reads frames
// with the reader of go-stomp. Only the test's goroutine calls its methods.
type conn struct {
	t        *testing.T
	ws       *websocket.Conn
	frames   chan *frame.Frame // closed at the end of the connection
	beats    chan struct{}     // signals that heart-beats have arrived
	waiting  []*frame.Frame    // that take has skipped
	receipts int
	ended    atomic.Pointer[error]
}

// dial opens a WebSocket. The end of the test closes it.
func dial(t *testing.T, s server) *conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, s.url, &websocket.DialOptions{Subprotocols: versions})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	c := &conn{t: t, ws: ws, frames: make(chan *frame.Frame, 1024), beats: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.read()
	}()
	t.Cleanup(func() {
		_ = ws.CloseNow() // the server may have closed it
		for range c.frames {
		}
		<-done
	})
	return c
}

// read reads frames until the connection ends.
func (c *conn) read() {
	in, out := io.Pipe()
	go func() {
		for {
			_, message, err := c.ws.Read(context.Background())
			if err != nil {
				out.CloseWithError(err)
				return
			}
			if _, err := out.Write(message); err != nil {
				return // the frames could not be read
			}
		}
	}()
	defer close(c.frames)
	for r := frame.NewReaderSize(in, 64<<10); ; {
		f, err := r.Read()
		switch {
		case err != nil:
			c.ended.Store(&err)
			in.CloseWithError(err)
			return
		case f == nil:
			select {
			case c.beats <- struct{}{}:
			default:
			}
		default:
			c.frames <- f
		}
	}
}

// connect opens a session of STOMP 1.2 without heart-beats.
func connect(t *testing.T, s server) *conn {
	t.Helper()
	c := dial(t, s)
	c.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:%s\npasscode:%s\nheart-beat:0,0\n\n\x00", s.login, s.passcode)
	c.take("CONNECTED")
	return c
}

// send sends a text message.
func (c *conn) send(format string, args ...any) {
	c.t.Helper()
	c.write(websocket.MessageText, fmt.Sprintf(format, args...))
}

func (c *conn) write(kind websocket.MessageType, message string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := c.ws.Write(ctx, kind, []byte(message)); err != nil {
		c.t.Fatal(err)
	}
}

// take returns the next frame with the command and the headers, which are given as
// name:value. It keeps other frames for later calls. An ERROR that the test does not
// wait for fails it, and so does a message about a SEND that a gateway has rejected.
func (c *conn) take(command string, headers ...string) *frame.Frame {
	c.t.Helper()
	for i, f := range c.waiting {
		if matches(f, command, headers) {
			c.waiting = append(c.waiting[:i:i], c.waiting[i+1:]...)
			return f
		}
	}
	deadline := time.After(patience)
	for {
		select {
		case f, ok := <-c.frames:
			switch {
			case !ok:
				c.t.Fatalf("the connection ended before %s %q: %v", command, headers, *c.ended.Load())
			case matches(f, command, headers):
				return f
			case f.Command == "ERROR", f.Header.Get("destination") == "/user/queue/errors":
				c.t.Fatalf("got an error instead of %s %q:\n%s", command, headers, text(f))
			}
			c.waiting = append(c.waiting, f)
		case <-deadline:
			c.t.Fatalf("no %s %q after %v", command, headers, patience)
		}
	}
}

func matches(f *frame.Frame, command string, headers []string) bool {
	if f.Command != command {
		return false
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		if f.Header.Get(name) != value {
			return false
		}
	}
	return true
}

// message takes the next MESSAGE of a subscription, and checks its body.
func (c *conn) message(subscription, body string) *frame.Frame {
	c.t.Helper()
	f := c.take("MESSAGE", "subscription:"+subscription)
	if string(f.Body) != body {
		c.t.Fatalf("the message of %s is\n%s\nwant the body %q", subscription, text(f), body)
	}
	return f
}

// noMessage checks that no further MESSAGE of a subscription has arrived. Call it
// after [conn.fence].
func (c *conn) noMessage(subscription string) {
	c.t.Helper()
	if n := c.count(subscription); n > 0 {
		c.t.Errorf("%d unexpected messages of %s have arrived", n, subscription)
	}
}

// count returns the number of messages of a subscription that have arrived before
// the last frame that was taken.
func (c *conn) count(subscription string) (n int) {
	for _, f := range c.waiting {
		if matches(f, "MESSAGE", []string{"subscription:" + subscription}) {
			n++
		}
	}
	return n
}

// fence sends a message to another topic and waits for it: what the server sent
// before it has arrived.
func (c *conn) fence() {
	c.t.Helper()
	topic := newTopic()
	c.subscribe(topic, topic, "")
	c.publish(topic, "")
	c.message(topic, "")
}

// subscribe subscribes with further header lines, and waits for the receipt.
func (c *conn) subscribe(id, topic, headers string) {
	c.t.Helper()
	c.receipts++
	receipt := fmt.Sprint("r", c.receipts)
	c.send("SUBSCRIBE\nid:%s\ndestination:%s\nreceipt:%s\n%s\n\x00", id, topic, receipt, headers)
	c.take("RECEIPT", "receipt-id:"+receipt)
}

// publish sends a message to a topic.
func (c *conn) publish(topic, body string) {
	c.t.Helper()
	c.send("SEND\ndestination:%s\n\n%s\x00", topic, body)
}

// end waits until the server has closed the connection.
func (c *conn) end() {
	c.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-c.frames:
			if !ok {
				return
			}
		case <-deadline:
			c.t.Fatalf("the server does not close the connection after %v", patience)
		}
	}
}

// beat waits until a heart-beat has arrived.
func (c *conn) beat() {
	c.t.Helper()
	select {
	case <-c.beats:
	case <-time.After(patience):
		c.t.Fatalf("no heart-beat after %v", patience)
	}
}

// newTopic returns the destination of a topic that no other test uses.
func newTopic() string { return "/topic/t" + strings.ReplaceAll(uuid.NewString(), "-", "") }

func text(f *frame.Frame) string {
	var b strings.Builder
	b.WriteString(f.Command + "\n")
	for i := range f.Header.Len() {
		name, value := f.Header.GetAt(i)
		fmt.Fprintf(&b, "%s:%s\n", name, value)
	}
	fmt.Fprintf(&b, "\n%.200q", f.Body)
	return b.String()
}
