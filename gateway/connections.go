package gateway

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Connections bounds the connections of an [http.Server] that are not a
// session's: set its State as the server's ConnState. Past the bound it closes
// the connection that has waited longest for a request, and if all have one in
// progress, the one whose request has taken longest. A new connection is
// never refused.
type Connections struct {
	most   int
	closed atomic.Uint64

	mu     sync.Mutex
	seats  map[net.Conn]*seat
	idle   list.List // of net.Conn, the one that has waited longest in front
	active list.List // of net.Conn, the one with the oldest request in front
}

// NewConnections returns a bound of most connections.
func NewConnections(most int) *Connections {
	return &Connections{most: most, seats: make(map[net.Conn]*seat)}
}

// Open returns how many connections there are.
func (c *Connections) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seats)
}

// Closed returns how many connections were closed to make room for others.
func (c *Connections) Closed() uint64 { return c.closed.Load() }

// State notes the state of a connection. It is an [http.Server]'s ConnState.
func (c *Connections) State(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	if was, ok := c.seats[conn]; ok {
		was.leave()
		delete(c.seats, conn)
	}
	var oldest *list.Element
	switch state {
	case http.StateNew, http.StateIdle:
		c.seats[conn] = &seat{}
		c.seats[conn].take(&c.idle, conn)
	case http.StateActive:
		c.seats[conn] = &seat{}
		c.seats[conn].take(&c.active, conn)
	}
	if state == http.StateNew && len(c.seats) > c.most {
		if oldest = c.idle.Front(); oldest.Value == conn && c.active.Len() > 0 {
			oldest = c.active.Front()
		}
		c.seats[oldest.Value.(net.Conn)].leave()
		delete(c.seats, oldest.Value.(net.Conn))
	}
	c.mu.Unlock()
	if oldest != nil {
		c.closed.Add(1)
		_ = oldest.Value.(net.Conn).Close()
	}
}
