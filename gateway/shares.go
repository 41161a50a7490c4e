package gateway

import (
	"context"
	"sync"
)

// fairQueue has a line of elements for each client. pop takes from the lines
// in turn, so that a client with a long line does not delay the others. It is
// not safe for concurrent use.
type fairQueue[T any] struct {
	lines map[string]*queue[T] // none of them is empty
	turns queue[string]        // the keys of lines
	size  int
}

func (q *fairQueue[T]) len() int { return q.size }

func (q *fairQueue[T]) push(client string, v T) {
	line := q.lines[client]
	if line == nil {
		if q.lines == nil {
			q.lines = make(map[string]*queue[T])
		}
		line = &queue[T]{}
		q.lines[client] = line
		q.turns.push(client)
	}
	line.push(v)
	q.size++
}

func (q *fairQueue[T]) pop() T {
	client := q.turns.pop()
	line := q.lines[client]
	v := line.pop()
	q.size--
	if line.len() > 0 {
		q.turns.push(client)
	} else {
		delete(q.lines, client)
	}
	return v
}

// places bounds how many callers do something at the same time. Callers that
// find no place wait; clients are served in turn.
type places struct {
	mu      sync.Mutex
	free    int
	waiting fairQueue[*applicant]
}

// applicant waits for a place.
type applicant struct {
	granted chan struct{}
	gone    bool // guarded by places.mu
}

// acquire waits for a place on behalf of a client. If ctx ends first, it
// returns ctx's error and the caller has no place.
func (p *places) acquire(ctx context.Context, client string) error {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	a := &applicant{granted: make(chan struct{})}
	p.waiting.push(client, a)
	p.mu.Unlock()
	select {
	case <-a.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-a.granted: // in the meantime
		p.grant()
	default:
		a.gone = true
	}
	return ctx.Err()
}

func (p *places) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.grant()
}

// grant hands a place to the next caller that waits. The caller holds p.mu.
func (p *places) grant() {
	for p.waiting.len() > 0 {
		if a := p.waiting.pop(); !a.gone {
			close(a.granted)
			return
		}
	}
	p.free++
}

// clientPlaces has places for each client. Within a client, sessions are
// served in turn: all anonymous clients count as one.
type clientPlaces struct {
	each int

	mu      sync.Mutex
	clients map[string]*sharedPlaces
}

type sharedPlaces struct {
	places
	users int // that have a place or wait for one; guarded by clientPlaces.mu
}

// acquire waits for a place of the client. Only without an error must the
// caller call release.
func (c *clientPlaces) acquire(ctx context.Context, client, session string) (release func(), err error) {
	c.mu.Lock()
	p := c.clients[client]
	if p == nil {
		p = &sharedPlaces{places: places{free: c.each}}
		c.clients[client] = p
	}
	p.users++
	c.mu.Unlock()
	if err := p.acquire(ctx, session); err != nil {
		c.leave(client, p)
		return nil, err
	}
	return func() {
		p.release()
		c.leave(client, p)
	}, nil
}

func (c *clientPlaces) leave(client string, p *sharedPlaces) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.users--; p.users == 0 {
		delete(c.clients, client)
	}
}
