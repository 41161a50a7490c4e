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

// proxy forwards data between a store and its server. It breaks their connections
// at the point that the test chooses.
type proxy struct {
	t      *testing.T
	addr   string
	target string

	mu      sync.Mutex
	rule    rule
	shut    bool          // the server becomes unreachable when the rule applies
	hit     chan struct{} // closed when the rule applies
	closed  bool          // the server is unreachable
	open    map[net.Conn]struct{}
	appends map[uint32]bool // backends that append
	cancels int             // cancel requests for one of those
	left    int             // bytes that a cutting rule forwards
	asked   int             // bytes of the newest append's request
	replied int             // bytes of its reply
	simple  int             // simple queries, such as pings
	frozen  chan struct{}   // not nil while nothing is forwarded from the server; closed afterwards
	toCut   int             // bytes from the server after which a new connection breaks; -1 means never

	serving sync.WaitGroup
}

// rule is the fault of the next append.
type rule int

const (
	pass         rule = iota
	dropReply         // the server replies; then the connection breaks
	dropRequest       // the connection breaks before the server gets it
	swallowReply      // the server replies; the reply does not arrive
	lastReply         // the server replies; then the connection breaks, and all others freeze
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
			t.Errorf("%d cancel requests for appends were sent", p.cancels)
		}
	})
	return p
}

// next sets the rule for the next append. The channel is closed when it applies.
func (p *proxy) next(r rule) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule, p.hit = r, make(chan struct{})
	return p.hit
}

// nextCut is next for a cutting rule.
func (p *proxy) nextCut(r rule, bytes int) <-chan struct{} {
	hit := p.next(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = bytes
	return hit
}

// cutSessions breaks each new connection after a number of bytes from the server.
// -1 means never.
func (p *proxy) cutSessions(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toCut = bytes
}

// freeze stops or resumes forwarding from the server.
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

// lengths returns the bytes of the newest append and of its reply.
func (p *proxy) lengths() (request, reply int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, p.replied
}

// nextAndShut is next, and also makes the server unreachable when the rule
// applies.
func (p *proxy) nextAndShut(r rule) <-chan struct{} {
	hit := p.next(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	return hit
}

// takeRule returns the rule of the next append, and resets it.
func (p *proxy) takeRule() rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rule
	p.rule = pass
	return r
}

// resetLengths starts counting the bytes of an append.
func (p *proxy) resetLengths() {
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

// applied records that the rule has applied.
func (p *proxy) applied() {
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

// add returns false if the server is unreachable.
func (p *proxy) add(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.open[c] = struct{}{}
	return true
}

func (p *proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.add(client) {
		return
	}
	defer p.remove(client)
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()

	var (
		replies = make(chan rule, 1) // the rule for the next reply
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
			// BackendKeyData ends the start of a session. It has the backend's
			// process id.
			if i := bytes.Index(b[:n], []byte("K\x00\x00\x00\x0c")); backend.Load() == 0 && i >= 0 && i+9 <= n {
				backend.Store(binary.BigEndian.Uint32(b[i+5:]))
			}
			select {
			case r := <-replies:
				p.applied()
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

// requests forwards the client's messages. A Bind message for the prepared
// statement ganglion_append counts as an append.
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
			p.resetLengths()
			switch r := p.takeRule(); r {
			case dropRequest:
				p.applied()
				return
			case cutRequest:
				cutting, left = true, p.cutAfter()
				p.applied()
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
