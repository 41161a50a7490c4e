package limits

import (
	"context"
	"sync"

	"github.com/ganglion-es/ganglion/gateway/internal/queue"
)

// Places is a semaphore. A caller that finds no free place waits; clients are
// served in turn. It is safe for concurrent use.
type Places struct {
	mu      sync.Mutex
	free    int
	waiting queue.Fair[*waiter]
}

type waiter struct {
	granted chan struct{}
	gone    bool // guarded by Places.mu
}

// NewPlaces returns n free places.
func NewPlaces(n int) *Places { return &Places{free: n} }

// Acquire waits for a place on behalf of a client. If ctx ends first, it
// returns ctx's error and the caller has no place.
func (p *Places) Acquire(ctx context.Context, client string) error {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	w := &waiter{granted: make(chan struct{})}
	p.waiting.Push(client, w)
	p.mu.Unlock()
	select {
	case <-w.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-w.granted: // after ctx had ended: pass the place on
		p.grant()
	default:
		w.gone = true
	}
	return ctx.Err()
}

// Release returns a place.
func (p *Places) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grant()
}

// Waiting returns the number of callers in [Places.Acquire] without a place.
func (p *Places) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting.Len()
}

// grant gives a place to the next waiting caller. The caller holds p.mu.
func (p *Places) grant() {
	for p.waiting.Len() > 0 {
		if w := p.waiting.Pop(); !w.gone {
			close(w.granted)
			return
		}
	}
	p.free++
}

// ClientPlaces has [Places] for each client. The client's sessions are served in
// turn. All anonymous clients count as one client. It is safe for concurrent
// use.
type ClientPlaces struct {
	each int

	mu       sync.Mutex
	byClient map[string]*sharedPlaces
}

type sharedPlaces struct {
	Places
	users int // callers that have a place or wait for one; guarded by ClientPlaces.mu
}

// NewClientPlaces returns a ClientPlaces with the given number of places for
// each client.
func NewClientPlaces(each int) *ClientPlaces {
	return &ClientPlaces{each: each, byClient: make(map[string]*sharedPlaces)}
}

// Acquire waits for a place of the client. The caller must call release, unless
// Acquire returns an error.
func (c *ClientPlaces) Acquire(ctx context.Context, client, session string) (release func(), err error) {
	c.mu.Lock()
	p := c.byClient[client]
	if p == nil {
		p = &sharedPlaces{Places: Places{free: c.each}}
		c.byClient[client] = p
	}
	p.users++
	c.mu.Unlock()
	if err := p.Acquire(ctx, session); err != nil {
		c.leave(client, p)
		return nil, err
	}
	return func() {
		p.Release()
		c.leave(client, p)
	}, nil
}

func (c *ClientPlaces) leave(client string, p *sharedPlaces) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(c.byClient, client)
	}
}
