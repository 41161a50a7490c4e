package ganglion

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
)

// pipes is a network in memory with one listener, for synctest bubbles.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return p }
func (*pipes) Network() string  { return "memory" }
func (*pipes) String() string   { return "gateway" }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// object is a frame.
type object = map[string]any

// gateway is a fake gateway. It sends the frames that the test gives it.
type gateway struct {
	t        *testing.T
	client   *Client
	opened   chan *socket
	socket   *socket // the newest
	reported []*Error
}

// socket is the gateway's end of a connection.
type socket struct {
	ws       *websocket.Conn
	url      string
	messages [][]byte
	received []object
	mu       sync.Mutex // for tests that read received while the client sends
	stuck    bool       // it no longer reads
}

// dial opens a client of a gateway in memory and accepts its connection. The end
// of the test closes both.
func dial(t *testing.T, o Options) *gateway {
	t.Helper()
	g := open(t, o)
	g.accept()
	return g
}

// open opens a client of a gateway in memory.
func open(t *testing.T, o Options) *gateway {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	g := &gateway{t: t, opened: make(chan *socket, 16)}
	done := make(chan struct{})
	server := &httptest.Server{Listener: p, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}})
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(1 << 20)
		s := &socket{ws: ws, url: "ws://" + r.Host + r.URL.String()}
		g.opened <- s
		for !s.stuck {
			_, message, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			s.messages = append(s.messages, message)
			for line := range bytes.SplitSeq(message, []byte("\n")) {
				var f object
				if err := json.Unmarshal(line, &f); err != nil {
					t.Errorf("%q: %v", line, err)
				}
				s.mu.Lock()
				s.received = append(s.received, f)
				s.mu.Unlock()
			}
		}
		<-done
	})}}
	server.Start()
	if o.URLs == nil {
		o.URLs = []string{"ws://gateway"}
	}
	if o.Token == nil && o.ClientID == "" {
		o.ClientID = "ada"
	}
	o.Random = func() float64 { return 0.5 }
	o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true}}
	o.OnError = func(e *Error) { g.reported = append(g.reported, e) }
	var err error
	if g.client, err = Connect(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.client.Close()
		close(done)
		server.Close()
	})
	return g
}

// accept accepts the next connection and waits for its hello.
func (g *gateway) accept() {
	g.socket = <-g.opened
	synctest.Wait()
}

// welcomed opens a client and welcomes it.
func welcomed(t *testing.T, o Options) *gateway {
	t.Helper()
	g := dial(t, o)
	g.welcome()
	return g
}

// welcome welcomes the client. limits override the usual ones.
func (g *gateway) welcome(limits ...object) {
	g.t.Helper()
	all := object{"frame_bytes": 98304, "open_requests": 256, "subscriptions": 1000}
	for _, l := range limits {
		maps.Copy(all, l)
	}
	g.send(object{
		"op": "welcome", "id": g.socket.received[0]["id"], "session": "s", "client": "ada", "node": "n1", "server": "test", "log": "log-1", "cursor": "100",
		"heartbeat_ms": 25000, "limits": all,
	})
}

// send sends frames in one message, and waits until the client is idle.
func (g *gateway) send(frames ...object) {
	g.t.Helper()
	lines := make([][]byte, len(frames))
	for i, f := range frames {
		lines[i] = encode(f)
	}
	if err := g.socket.ws.Write(context.Background(), websocket.MessageText, bytes.Join(lines, []byte("\n"))); err != nil {
		g.t.Error(err)
	}
	synctest.Wait()
}

// last returns the client's last frame.
func (g *gateway) last() object {
	synctest.Wait()
	return g.socket.received[len(g.socket.received)-1]
}

// cut ends the connection and accepts the next one.
func (g *gateway) cut() {
	_ = g.socket.ws.CloseNow()
	g.accept()
}

func event(sub any, version int, more ...object) object {
	e := object{
		"op": "event", "sub": sub, "stream": "counter/a", "version": version, "position": version, "event": "added", "data": object{"by": version},
		"time": "2026-11-22T12:00:00Z", "cause": "k",
	}
	for _, m := range more {
		for k, v := range m {
			e[k] = v
		}
	}
	return e
}

// inBubble runs a test with its own clock and network. It fails if a goroutine
// outlives the test.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

// deadline returns a context that ends after d of the bubble's time.
func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
