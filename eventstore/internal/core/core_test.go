package core_test

import (
	"slices"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/core"
)

// every returns scans of a log of 10,000 commits of one event, of which every nth is of
// the type, and the sizes of the scans.
func every(n int) (scanType func(eventstore.Position, int, int) ([]eventstore.Commit, eventstore.Position, error), sizes *[]int) {
	const head = 10_000
	sizes = new([]int)
	return func(after eventstore.Position, limit, scan int) (page []eventstore.Commit, upTo eventstore.Position, _ error) {
		*sizes = append(*sizes, scan)
		upTo = min(after+eventstore.Position(scan), head)
		for p := after + 1; p <= upTo; p++ {
			if int(p)%n > 0 {
				continue
			}
			if page = append(page, eventstore.Commit{Position: p}); len(page) == limit {
				return page, p, nil
			}
		}
		return page, upTo, nil
	}, sizes
}

func TestScansOfARareTypeGrow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name               string
		nth                int
		after              eventstore.Position
		limit, scan, found int
		upTo               eventstore.Position
		sizes              []int
	}{
		{"each commit", 1, 0, 100, 8000, 100, 100, []int{400}},
		{"a tenth", 10, 0, 100, 8000, 100, 1000, []int{400, 1600}},
		{"few", 1000, 0, 100, 8000, 8, 8000, []int{400, 1600, 6000}},
		{"up to the head", 1000, 0, 100, 20_000, 10, 10_000, []int{400, 1600, 6400, 11_600}},
		{"at the head", 1, 10_000, 100, 8000, 0, 10_000, []int{400}},
		{"a short range", 1000, 0, 100, 7, 0, 7, []int{7}},
	} {
		scanType, sizes := every(c.nth)
		got, upTo, err := core.ReadType(c.after, c.limit, c.scan, scanType)
		if err != nil || len(got) != c.found || upTo != c.upTo || !slices.Equal(*sizes, c.sizes) {
			t.Errorf("%s: %d commits up to %d with scans of %v, %v; want %d up to %d with %v", c.name, len(got), upTo, *sizes, err, c.found, c.upTo, c.sizes)
		}
	}
}
