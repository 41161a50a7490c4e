package node

import (
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/router/ring"
)

const (
	// movesAge is how long moves of partitions are kept.
	movesAge = time.Hour
	// maxRingMoves bounds the moves that are kept, for rings that change all the time.
	maxRingMoves = 200
)

// ringMoves has the moves of partitions in the last hour. It is safe for concurrent
// use.
type ringMoves struct {
	mu   sync.Mutex
	ring *ring.Ring // the newest one; nil at first
	list []console.Move
}

// changed records the moves to a new ring. Moves to the first ring of a node are not
// recorded: the node does not know the one before.
func (m *ringMoves) changed(to *ring.Ring, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := m.ring
	m.ring = to
	if from == nil {
		return
	}
	for _, move := range ring.Moves(from, to) {
		m.list = append(m.list, console.Move{At: now, From: move.From, To: move.To, Partitions: move.Partitions})
	}
	if n := len(m.list) - maxRingMoves; n > 0 {
		m.list = slices.Delete(m.list, 0, n)
	}
}

// recent returns the moves of the last hour, the newest first.
func (m *ringMoves) recent(now time.Time) []console.Move {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := []console.Move{}
	for _, move := range slices.Backward(m.list) {
		if now.Sub(move.At) <= movesAge {
			list = append(list, move)
		}
	}
	return list
}

// consoleRing returns the ring for the console.
func (n *node) consoleRing() console.Ring {
	r := n.router.Ring()
	return console.Ring{Members: r.Members(), Owners: r.Owners(), Moves: n.moves.recent(time.Now()), Partition: func(stream string) (int, error) {
		s, err := eventstore.ParseStreamID(stream)
		if err != nil {
			return 0, err
		}
		return r.Partition(s), nil
	}}
}
