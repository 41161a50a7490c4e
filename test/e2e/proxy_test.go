package e2e

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy forwards connections to a gateway and disturbs them: some are delayed,
// and each ends in one of several ways after a random time.
type proxy struct {
	url    string
	target string
	life   time.Duration // mean life of a connection
	begin  func()        // called for each connection
	random func() float64

	calm    chan struct{} // closed by stopFaults
	serving sync.WaitGroup
	mu      sync.Mutex
	open    map[net.Conn]struct{}

	faults, cuts, halves, drops atomic.Int64
}

func newProxy(t *testing.T, url string, life time.Duration, seed uint64, begin func()) *proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1))
	p := &proxy{
		url: "http://" + l.Addr().String(), target: strings.TrimPrefix(url, "http://"), life: life, begin: begin,
		random: func() float64 { mu.Lock(); defer mu.Unlock(); return r.Float64() },
		calm:   make(chan struct{}), open: map[net.Conn]struct{}{},
	}
	p.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.begin()
			p.serving.Go(func() { p.serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for c := range p.open {
			c.Close()
		}
		p.mu.Unlock()
		p.serving.Wait()
	})
	return p
}

// stopFaults ends all faults, and cuts the connections that have one.
func (p *proxy) stopFaults() { close(p.calm) }

func (p *proxy) isCalm() bool {
	select {
	case <-p.calm:
		return true
	default:
		return false
	}
}

func (p *proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = struct{}{}
}

func (p *proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
	c.Close()
}

func (p *proxy) serve(client *net.TCPConn) {
	p.keep(client)
	defer p.forget(client)
	c, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		return
	}
	server := c.(*net.TCPConn)
	p.keep(server)
	defer p.forget(server)

	var delay time.Duration
	if p.random() < 0.3 && !p.isCalm() {
		delay = time.Duration(p.random() * float64(60*time.Millisecond))
	}
	var dropUp, dropDown atomic.Bool // whether that direction is dropped
	var copies sync.WaitGroup
	done := make(chan struct{})
	copies.Go(func() { p.copy(server, client, delay, &dropUp); server.CloseWrite() })
	copies.Go(func() { p.copy(client, server, delay, &dropDown); client.CloseWrite() })
	go func() { copies.Wait(); close(done) }()

	cut := func() {
		_ = client.SetLinger(0) // a reset, which loses data in transit
		client.Close()
		server.Close()
	}
	life := time.NewTimer(time.Duration((0.1 + 1.8*p.random()) * float64(p.life)))
	defer life.Stop()
	select {
	case <-done:
		return
	case <-p.calm:
		if delay > 0 {
			cut()
		}
		<-done
		return
	case <-life.C:
	}
	how := p.random()
	if n := p.faults.Add(1); n <= 3 {
		how = []float64{0.6, 0.9, 0.1}[n-1] // one of each kind, which few random ones may lack
	}
	switch {
	case how < 0.5:
		p.cuts.Add(1)
		cut()
	case how < 0.7:
		p.halves.Add(1)
		_ = client.CloseWrite()
	case how < 0.85:
		p.halves.Add(1)
		_ = server.CloseWrite()
	default: // one direction or both are dropped, while the connection stays open
		p.drops.Add(1)
		which := p.random()
		dropUp.Store(which < 0.7)
		dropDown.Store(which > 0.4)
	}
	select {
	case <-done:
	case <-p.calm:
		cut()
		<-done
	}
}

// copy forwards data after a delay, or drops it.
func (p *proxy) copy(to io.Writer, from io.Reader, delay time.Duration, drop *atomic.Bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !drop.Load() {
			if delay > 0 {
				time.Sleep(delay)
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
