package conversation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/proto/frame"
)

// gateway is the scripted gateway.
type gateway struct {
	server     *httptest.Server
	handshakes chan handshake // waiting for a reply
	done       chan struct{}  // closed by stop
	serves     sync.WaitGroup

	conns []*conn
	conn  *conn  // the newest, nil before the first
	hello string // id of the newest hello
}

// handshake is a request for a WebSocket connection, to which a step replies.
type handshake struct {
	reply   chan<- int   // 101 accepts it, another status refuses it
	opened  <-chan *conn // gets the connection after 101
	request *http.Request
}

// conn is an accepted connection.
type conn struct {
	ws         *websocket.Conn
	raw        net.Conn
	frameBytes atomic.Int64 // frame_bytes of the welcome frame, 0 before that
	frames     chan []byte  // closed when the client disconnects
	err        error        // the reason, after frames is closed
}

func newGateway(l net.Listener) *gateway {
	g := &gateway{handshakes: make(chan handshake), done: make(chan struct{})}
	g.server = &httptest.Server{Listener: l, Config: &http.Server{
		Handler: http.HandlerFunc(g.serve),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, rawConn{}, c)
		},
	}}
	g.server.Start()
	return g
}

// rawConn is the key of a request's connection in its context.
type rawConn struct{}

func (g *gateway) url() string { return "ws" + strings.TrimPrefix(g.server.URL, "http") }

func (g *gateway) stop() {
	close(g.done)
	for _, c := range g.conns {
		_ = c.ws.CloseNow()
	}
	g.server.CloseClientConnections()
	g.server.Close()
	g.serves.Wait()
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	g.serves.Add(1)
	defer g.serves.Done()
	reply, opened := make(chan int, 1), make(chan *conn, 1)
	select {
	case g.handshakes <- handshake{reply, opened, r}:
	case <-r.Context().Done():
		return
	case <-g.done:
		return
	}
	if status := <-reply; status != http.StatusSwitchingProtocols {
		http.Error(w, "refused by the script", status)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{frame.Subprotocol}, InsecureSkipVerify: true})
	if err != nil {
		close(opened)
		return
	}
	ws.SetReadLimit(1 << 20)
	raw, _ := r.Context().Value(rawConn{}).(net.Conn)
	c := &conn{ws: ws, raw: raw, frames: make(chan []byte)}
	opened <- c
	defer close(c.frames)
	for {
		typ, message, err := ws.Read(context.Background())
		if err == nil && typ != websocket.MessageText {
			err = errors.New("the client sent a binary message")
		}
		if limit := c.frameBytes.Load(); limit > 0 && int64(len(message)) > limit {
			err = fmt.Errorf("the client sent a message of %d bytes, frame_bytes is %d", len(message), limit)
		}
		if err != nil {
			c.err = err
			return
		}
		for line := range frame.Lines(message) {
			select {
			case c.frames <- bytes.Clone(line):
			case <-g.done:
				return
			}
		}
	}
}

// next returns the client's next frame.
func (c *conn) next(ctx context.Context) ([]byte, error) {
	select {
	case line, ok := <-c.frames:
		if !ok {
			return nil, fmt.Errorf("the client has disconnected: %w", c.err)
		}
		return line, nil
	case <-ctx.Done():
		return nil, errors.New("the client sends nothing")
	}
}

// unexpected returns an error if the client sent a frame that the script does not
// have.
func (g *gateway) unexpected() error {
	if g.conn == nil {
		return nil
	}
	select {
	case line, ok := <-g.conn.frames:
		if ok {
			return fmt.Errorf("the client also sent %s", line)
		}
	default:
	}
	return nil
}

// gatewayVerbs has the steps that the gateway executes.
var gatewayVerbs = map[string]func(context.Context, *gateway, json.RawMessage, variables) error{
	"accept": func(ctx context.Context, g *gateway, _ json.RawMessage, _ variables) error {
		h, err := g.handshake(ctx)
		if err != nil {
			return err
		}
		if err := g.unexpected(); err != nil {
			return err
		}
		h.reply <- http.StatusSwitchingProtocols
		c, ok := <-h.opened
		if !ok {
			return errors.New("the handshake failed")
		}
		if got := c.ws.Subprotocol(); got != frame.Subprotocol {
			return fmt.Errorf("the subprotocol is %q", got)
		}
		if h.request.URL.Path != "/v1/ws" || h.request.URL.RawQuery != "" {
			return fmt.Errorf("the client requests %s", h.request.URL)
		}
		g.conn, g.conns = c, append(g.conns, c)
		return nil
	},
	"refuse": func(ctx context.Context, g *gateway, body json.RawMessage, _ variables) error {
		var status int
		if err := json.Unmarshal(body, &status); err != nil {
			return err
		}
		h, err := g.handshake(ctx)
		if err == nil {
			h.reply <- status
		}
		return err
	},
	"expect": func(ctx context.Context, g *gateway, body json.RawMessage, bound variables) error {
		line, err := g.conn.next(ctx)
		if err != nil {
			return err
		}
		request, err := frame.ParseRequest(line)
		if err != nil {
			return fmt.Errorf("the client sent %s: %w", line, err)
		}
		if hello, ok := request.(frame.Hello); ok {
			g.hello = hello.ID
		}
		var want, got any
		if err := errors.Join(json.Unmarshal(body, &want), json.Unmarshal(line, &got)); err != nil {
			return err
		}
		if err := bound.match(want, got, "the frame"); err != nil {
			return fmt.Errorf("the client sent %s: %w", line, err)
		}
		return nil
	},
	"say": func(ctx context.Context, g *gateway, body json.RawMessage, bound variables) error {
		var frames []json.RawMessage
		if err := json.Unmarshal(body, &frames); err != nil {
			return err
		}
		lines := make([][]byte, len(frames))
		for i, f := range frames {
			line, err := bound.fill(f)
			if err != nil {
				return err
			}
			if _, err := frame.ParseAnswer(line); err != nil {
				return fmt.Errorf("%s is not a frame of a gateway: %w", line, err)
			}
			lines[i] = line
		}
		return g.conn.ws.Write(ctx, websocket.MessageText, bytes.Join(lines, []byte("\n")))
	},
	"welcome": func(ctx context.Context, g *gateway, body json.RawMessage, _ variables) error {
		w := struct {
			Log        string `json:"log"`
			FrameBytes int    `json:"frame_bytes"`
			Open       int    `json:"open_requests"`
			Heartbeat  int64  `json:"heartbeat_ms"`
		}{"log-1", 98304, 256, 25_000}
		if err := json.Unmarshal(body, &w); err != nil {
			return err
		}
		g.conn.frameBytes.Store(int64(w.FrameBytes))
		return g.conn.ws.Write(ctx, websocket.MessageText, frame.Welcome{
			ID: g.hello, Session: "s", Client: "ada", Node: "n1", Server: "test", Log: w.Log, Cursor: "100", HeartbeatMS: w.Heartbeat,
			Limits: frame.Limits{FrameBytes: w.FrameBytes, OpenRequests: w.Open, Subscriptions: 1000},
		}.Append(nil))
	},
	"raw": func(ctx context.Context, g *gateway, body json.RawMessage, _ variables) error {
		var text string
		if err := json.Unmarshal(body, &text); err != nil {
			return err
		}
		return g.conn.ws.Write(ctx, websocket.MessageText, []byte(text))
	},
	"close": func(_ context.Context, g *gateway, body json.RawMessage, _ variables) error {
		var code websocket.StatusCode
		if err := json.Unmarshal(body, &code); err != nil {
			return err
		}
		if err := g.conn.ws.Close(code, "closed by the script"); err != nil {
			return err
		}
		for line := range g.conn.frames {
			return fmt.Errorf("the client also sent %s", line)
		}
		return nil
	},
	"cut": func(_ context.Context, g *gateway, _ json.RawMessage, _ variables) error {
		return g.conn.raw.Close()
	},
	"gone": func(ctx context.Context, g *gateway, _ json.RawMessage, _ variables) error {
		select {
		case line, ok := <-g.conn.frames:
			if ok {
				return fmt.Errorf("the client did not disconnect but sent %s", line)
			}
			return nil
		case <-ctx.Done():
			return errors.New("the client does not disconnect")
		}
	},
}

func (g *gateway) handshake(ctx context.Context) (handshake, error) {
	select {
	case h := <-g.handshakes:
		return h, nil
	case <-ctx.Done():
		return handshake{}, errors.New("the client does not connect")
	}
}
