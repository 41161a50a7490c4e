package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a store and its server, and breaks their connections
// where a test says.
type proxy struct {
	t      *testing.T
	addr   string
	target string

	mu      sync.Mutex
	rule    rule
	shut    bool          // when the rule strikes, the server becomes unreachable
	hit     chan struct{} // closed when the rule has struck
	closed  bool          // no new connections
	open    map[net.Conn]struct{}
	appends map[uint32]bool // backends that append
	cancels int             // requests to cancel one of those
	left    int             // bytes that a cutting rule lets through
	asked   int             // bytes of the newest append's request
	replied int             // bytes of its reply
	simple  int             // simple queries, such as pings
	frozen  chan struct{}   // while not nil, nothing from the server arrives; closed when it thaws
	toCut   int             // of the next connections, what they are sent ends after so many bytes; -1 for never

	serving sync.WaitGroup
}

// rule says what happens to the next append.
type rule int

const (
	pass         rule = iota
	dropReply         // the server gets it and answers; then the connection breaks
	dropRequest       // the server never gets it; the connection breaks
	swallowReply      // the server gets it and answers; the answer never comes
	lastReply         // the server gets it and answers; then the connection breaks, and all others freeze
	cutReply          // the connection breaks within the reply
	cutRequest        // the connection breaks within the request
)

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, addr: l.Addr().String(), target: target, toCut: -1, open: make(map[net.Conn]struct{}), appends: make(map[uint32]bool)}
	p.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.serving.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.freeze(false)
		p.refuse(true)
		p.serving.Wait()
		if p.cancels > 0 {
			t.Errorf("%d requests to cancel an append were sent", p.cancels)
		}
	})
	return p
}

// next sets the rule for the next append, and returns what is closed when it
// has struck.
func (p *proxy) next(r rule) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule, p.hit = r, make(chan struct{})
	return p.hit
}

// nextCut is next for a rule that cuts, after so many bytes.
func (p *proxy) nextCut(r rule, bytes int) <-chan struct{} {
	hit := p.next(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = bytes
	return hit
}

// cutSessions ends what the server sends on each new connection after so many
// bytes; -1 is never.
func (p *proxy) cutSessions(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toCut = bytes
}

// freeze holds back all that the server says, and lets go of it.
func (p *proxy) freeze(frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if frozen {
		p.frozen = make(chan struct{})
	} else if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

func (p *proxy) thawed() {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

// lengths returns how many bytes the newest append and its reply have.
func (p *proxy) lengths() (request, reply int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, p.replied
}

// nextAndShut is next, and the server is unreachable from then on.
func (p *proxy) nextAndShut(r rule) <-chan struct{} {
	hit := p.next(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	return hit
}

// strike takes the rule for a request.
func (p *proxy) strike() rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rule
	p.rule = pass
	return r
}

// begin begins to count the bytes of an append.
func (p *proxy) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.replied = 0, 0
}

func (p *proxy) count(total *int, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*total += n
}

func (p *proxy) simpleQueries() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.simple
}

func (p *proxy) cutAfter() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left
}

func (p *proxy) sessionLimit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.toCut
}

func (p *proxy) struck() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || p.shut
	p.shut = false
	close(p.hit)
}

// refuse makes the server unreachable, or reachable again.
func (p *proxy) refuse(closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = closed
	if closed {
		for c := range p.open {
			c.Close()
		}
	}
}

func (p *proxy) enter(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = struct{}{}
	return true
}

func (p *proxy) leave(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.enter(client) {
		return
	}
	defer p.leave(client)
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()

	var (
		replies = make(chan rule, 1) // what to do with the next reply
		backend atomic.Uint32        // its process id
		both    sync.WaitGroup
	)
	both.Go(func() {
		defer client.Close()
		b := make([]byte, 64<<10)
		swallow, cutting, last, left, session := false, false, false, 0, p.sessionLimit()
		for {
			n, err := server.Read(b)
			p.thawed()
			if session >= 0 {
				if n >= session {
					_, _ = client.Write(b[:session])
					return
				}
				session -= n
			}
			// BackendKeyData ends the start of a session.
			if i := bytes.Index(b[:n], []byte("K\x00\x00\x00\x0c")); backend.Load() == 0 && i >= 0 && i+9 <= n {
				backend.Store(binary.BigEndian.Uint32(b[i+5:]))
			}
			select {
			case r := <-replies:
				p.struck()
				if r == dropReply {
					return
				}
				swallow, last = r == swallowReply, r == lastReply
				if cutting = r == cutReply; cutting {
					left = p.cutAfter()
				}
			default:
			}
			if err != nil {
				return
			}
			p.count(&p.replied, n)
			if cutting {
				n = min(n, left)
				left -= n
			}
			if swallow {
				continue
			}
			if _, err := client.Write(b[:n]); err != nil || cutting && left == 0 {
				return
			}
			if last {
				p.freeze(true)
				return
			}
		}
	})
	p.requests(client, server, replies, &backend)
	server.Close()
	both.Wait()
}

// requests forwards the client's messages one by one. A Bind message of the
// prepared append is an append.
func (p *proxy) requests(client, server net.Conn, replies chan<- rule, backend *atomic.Uint32) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(client, head); err != nil {
		return
	}
	if binary.BigEndian.Uint32(head[4:]) == 80877102 {
		pid := make([]byte, 4)
		if _, err := io.ReadFull(client, pid); err == nil {
			p.mu.Lock()
			if p.appends[binary.BigEndian.Uint32(pid)] {
				p.cancels++
			}
			p.mu.Unlock()
		}
		return
	}
	if forward(client, server, head, int(binary.BigEndian.Uint32(head))-8) != nil {
		return
	}
	cutting, left := false, 0
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return
		}
		if head[0] == 'Q' {
			p.count(&p.simple, 1)
		}
		if head[0] == 'B' && len(body) > 16 && string(body[:16]) == "\x00ganglion_append" {
			p.mu.Lock()
			p.appends[backend.Load()] = true
			p.mu.Unlock()
			p.begin()
			switch r := p.strike(); r {
			case dropRequest:
				p.struck()
				return
			case cutRequest:
				cutting, left = true, p.cutAfter()
				p.struck()
			case dropReply, swallowReply, lastReply, cutReply:
				replies <- r
			case pass:
			}
		}
		message := append(head, body...)
		p.count(&p.asked, len(message))
		if cutting {
			message = message[:min(len(message), left)]
			left -= len(message)
		}
		if _, err := server.Write(message); err != nil || cutting && left == 0 {
			return
		}
	}
}

func forward(client, server net.Conn, head []byte, rest int) error {
	if _, err := server.Write(head); err != nil {
		return err
	}
	_, err := io.CopyN(server, client, int64(rest))
	return err
}
