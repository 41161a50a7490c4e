package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// client is a WebSocket client that checks every frame.
type client struct {
	t    testing.TB
	conn *websocket.Conn
	got  []frame.Frame // read but not yet checked
}

func (n *node) dial(header ...string) *client {
	n.w.t.Helper()
	c, _, err := n.tryDial(header...)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return c
}

func (n *node) tryDial(header ...string) (*client, *http.Response, error) {
	return dialWith(n.w.t, n.url, nil, header...)
}

func dialWith(t testing.TB, url string, hc *http.Client, header ...string) (*client, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}, HTTPClient: hc, Subprotocols: []string{frame.Subprotocol}}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Sec-WebSocket-Protocol" {
			opts.Subprotocols = strings.Fields(header[i+1])
			continue
		}
		opts.HTTPHeader.Set(header[i], header[i+1])
	}
	conn, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(url, "http")+"/v1/ws", opts)
	if err != nil {
		return nil, resp, err
	}
	conn.SetReadLimit(16 << 20)
	c := &client{t: t, conn: conn}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return c, resp, nil
}

// join dials and says hello.
func (n *node) join(who string) *client {
	n.w.t.Helper()
	c := n.dial()
	c.sendf(`{"op":"hello","id":"hello","client":%q}`, who)
	want[frame.Welcome](c)
	return c
}

func (c *client) sendf(format string, args ...any) {
	c.t.Helper()
	c.send(fmt.Sprintf(format, args...))
}

func (c *client) send(message string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		c.t.Fatalf("send %.100s: %v", message, err)
	}
}

// next returns the next frame.
func (c *client) next() (frame.Frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(c.got) == 0 {
		_, message, err := c.conn.Read(ctx)
		if err != nil {
			return nil, err
		}
		for line := range frame.Lines(message) {
			f, err := frame.ParseAnswer(line)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			c.got = append(c.got, f)
		}
	}
	f := c.got[0]
	c.got = c.got[1:]
	return f, nil
}

func (c *client) read() frame.Frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// want reads the next frame, which must be an F.
func want[F frame.Frame](c *client) F {
	c.t.Helper()
	f := c.read()
	w, ok := f.(F)
	if !ok {
		c.t.Fatalf("got %s, want %s", f.Append(nil), w.Op())
	}
	return w
}

func (c *client) wantFault(id string, code command.Code) frame.Fault {
	c.t.Helper()
	f := want[frame.Fault](c)
	if f.ID != id || f.Code != code {
		c.t.Fatalf("got %s, want the code %s for the id %q", f.Append(nil), code, id)
	}
	if f.Message == "" || f.Retry == "" {
		c.t.Errorf("%s has no message or no retry", f.Append(nil))
	}
	return f
}

func (c *client) wantEvents(sub string, versions ...int) (last frame.Event) {
	c.t.Helper()
	for _, v := range versions {
		if last = want[frame.Event](c); last.Sub != sub || int(last.Version) != v {
			c.t.Fatalf("got %s, want version %d on %s", last.Append(nil), v, sub)
		}
	}
	return last
}

func (c *client) wantClose(code int) (reason string) {
	c.t.Helper()
	for {
		f, err := c.next()
		if err == nil {
			c.t.Logf("before the close: %.200s", f.Append(nil))
			continue
		}
		if got := websocket.CloseStatus(err); int(got) != code {
			c.t.Fatalf("closed with %d (%v), want %d", got, err, code)
		}
		var closed websocket.CloseError
		errors.As(err, &closed)
		return closed.Reason
	}
}
