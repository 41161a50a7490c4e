package gateway

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// Connections bounds the connections of an [http.Server] that belong to no
// session. Use its State as the server's ConnState. Past the bound it closes the
// connection that has waited longest for a request. If all have a request in
// progress, it closes the one with the oldest request. It never refuses a new
// connection. It is safe for concurrent use.
type Connections struct {
	most   int
	closed atomic.Uint64

	mu     sync.Mutex
	seats  map[net.Conn]*seat
	idle   list.List // of net.Conn, the one that has waited longest in front
	active list.List // of net.Conn, the one with the oldest request in front
}

// NewConnections returns a Connections with a bound of most connections.
func NewConnections(most int) *Connections {
	return &Connections{most: most, seats: make(map[net.Conn]*seat)}
}

// Open returns the number of connections.
func (c *Connections) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seats)
}

// Closed returns how many connections were closed to make room for others.
func (c *Connections) Closed() uint64 { return c.closed.Load() }

// State records the state of a connection. It is for an [http.Server]'s
// ConnState.
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
		c.seats[conn].join(&c.idle, conn)
	case http.StateActive:
		c.seats[conn] = &seat{}
		c.seats[conn].join(&c.active, conn)
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
