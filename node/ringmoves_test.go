package node

import (
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/router/ring"
)

func TestMovesOfTheRingAreKeptForAnHour(t *testing.T) {
	t.Parallel()
	var m ringMoves
	at := time.Unix(1_000_000, 0)
	m.changed(ring.New([]string{"n1"}), at)
	if list := m.recent(at); len(list) != 0 {
		t.Errorf("the first ring moved %v", list)
	}
	m.changed(ring.New([]string{"n1", "n2"}), at)
	m.changed(ring.New([]string{"n2"}), at.Add(time.Minute))
	list := m.recent(at.Add(time.Minute))
	if len(list) != 2 || list[0].To != "n2" || list[0].From != "n1" || !list[0].At.After(list[1].At) || list[0].Partitions+list[1].Partitions != ring.Partitions {
		t.Errorf("the moves are %+v", list)
	}
	if list = m.recent(at.Add(movesAge + time.Second)); len(list) != 1 {
		t.Errorf("after an hour the moves are %+v", list)
	}
	for range maxRingMoves {
		m.changed(ring.New([]string{"n1"}), at)
		m.changed(ring.New([]string{"n2"}), at)
	}
	if list = m.recent(at); len(list) != maxRingMoves {
		t.Errorf("%d moves are kept, want %d", len(list), maxRingMoves)
	}
}
