package live

import (
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// A moment is what a source's questions show: a build up to one position per
// segment. It is immutable.
type moment struct {
	build     int64
	log       string
	mends     int64
	positions []eventstore.Position
	floors    []eventstore.Position
	blocked   int
}

func momentOf(b rows.Build, list []rows.Checkpoint) *moment {
	m := &moment{build: b.ID, log: b.LogID}
	for _, c := range list {
		m.positions = append(m.positions, c.Position)
		m.floors = append(m.floors, c.Floor)
		m.mends += c.Mends
	}
	return m
}

// lowest is the position up to which all segments show the log.
func (m *moment) lowest() eventstore.Position {
	if len(m.positions) == 0 {
		return 0
	}
	return slices.Min(m.positions)
}

// reaches reports whether the moment is at the positions or later, in each
// segment.
func (m *moment) reaches(positions []eventstore.Position) bool {
	if len(m.positions) != len(positions) {
		return false
	}
	for i, p := range positions {
		if m.positions[i] < p {
			return false
		}
	}
	return true
}

// advanced returns the moment with the later one of both positions per segment.
func (m *moment) advanced(positions []eventstore.Position) *moment {
	later := *m
	later.positions = slices.Clone(m.positions)
	for i, p := range positions {
		later.positions[i] = max(later.positions[i], p)
	}
	return &later
}

// purged reports whether tombstones between the positions of m and those of next
// may be missing.
func (m *moment) purged(next *moment) bool {
	for i, floor := range next.floors {
		if floor > m.floors[i] && floor > m.positions[i] {
			return true
		}
	}
	return false
}
