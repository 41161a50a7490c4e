// Package queue has in-memory queues. None of them is safe for concurrent use.
package queue

// FIFO is a first-in, first-out queue in a ring. The zero value is empty.
type FIFO[T any] struct {
	ring        []T
	first, size int
}

// keepRing is the largest ring, in elements, that an empty queue keeps.
const keepRing = 1024

// Len returns the number of elements.
func (q *FIFO[T]) Len() int { return q.size }

// Push adds an element at the end.
func (q *FIFO[T]) Push(v T) {
	if q.size == len(q.ring) {
		ring := make([]T, max(16, 2*len(q.ring)))
		n := copy(ring, q.ring[q.first:])
		copy(ring[n:], q.ring[:q.first])
		q.ring, q.first = ring, 0
	}
	q.ring[(q.first+q.size)%len(q.ring)] = v
	q.size++
}

// Pop removes the first element. The queue must not be empty.
func (q *FIFO[T]) Pop() T {
	var zero T
	v := q.ring[q.first]
	q.ring[q.first] = zero
	q.first = (q.first + 1) % len(q.ring)
	if q.size--; q.size == 0 && len(q.ring) > keepRing {
		q.ring, q.first = nil, 0
	}
	return v
}

// Fair has a queue for each client. Pop serves the clients in turn, so a
// client with a long queue does not delay the others. The zero value is empty.
type Fair[T any] struct {
	byClient map[string]*FIFO[T] // none is empty
	turns    FIFO[string]        // the keys of byClient
	size     int
}

// Len returns the number of elements of all clients.
func (q *Fair[T]) Len() int { return q.size }

// Push adds an element at the end of a client's queue.
func (q *Fair[T]) Push(client string, v T) {
	own := q.byClient[client]
	if own == nil {
		if q.byClient == nil {
			q.byClient = make(map[string]*FIFO[T])
		}
		own = &FIFO[T]{}
		q.byClient[client] = own
		q.turns.Push(client)
	}
	own.Push(v)
	q.size++
}

// Pop removes the first element of the client whose turn it is. The queue must
// not be empty.
func (q *Fair[T]) Pop() T {
	client := q.turns.Pop()
	own := q.byClient[client]
	v := own.Pop()
	q.size--
	if own.Len() > 0 {
		q.turns.Push(client)
	} else {
		delete(q.byClient, client)
	}
	return v
}
