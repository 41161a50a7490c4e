package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
)

// The names of the read side's promises in anomalies.
const (
	RowsExact    = "answers show the rows as they are at their position"
	RowsFresh    = "answers show the position that was asked for"
	LiveExact    = "live queries show the rows as they are at each position"
	LiveForward  = "live queries never go back"
	LiveOnce     = "live queries repeat nothing"
	LiveComplete = "live queries are complete"
)

// Row is a row of open_auctions.
type Row struct {
	Key      string
	Price    int64
	Position uint64 // of the last event that changed it
}

// Answer is an answer to open_auctions.
type Answer struct {
	Client  string
	Budget  int64  // 0: any price
	AtLeast uint64 // the position that was asked for; 0: any
	// Position is up to where the answer says that it shows the log.
	Position uint64
	Rows     []Row
}

// Live is a live query of open_auctions with all its reconnects.
type Live struct {
	Name      string
	Budget    int64
	Snapshots []Snapshot
	// Updates counts updates, and Repeats the ones that did not change the row that the
	// client had.
	Updates, Repeats int
	// Complete is set if the last snapshot must show the head of the log.
	Complete bool
}

// Snapshot is what the client of a live query shows after a batch.
type Snapshot struct {
	Position uint64
	// Resumed is set for the first batch of a connection that continued from a
	// cursor.
	Resumed bool
	Rows    []Row
}

// listings has the open auctions of the projection listings, folded from the log up to
// a position.
type listings struct {
	log  []eventstore.Commit // the rest
	rows map[string]Row
}

// advance folds the events up to a position. Positions must not decrease.
func (l *listings) advance(to uint64) {
	for len(l.log) > 0 && uint64(l.log[0].First()) <= to {
		c := &l.log[0]
		l.log = l.log[1:]
		if c.Stream.Type != "auction" {
			continue
		}
		for i, e := range c.Events {
			if e.Type == "closed" {
				delete(l.rows, c.Stream.ID)
			} else if amount, _, err := ParseEvent(e.Data); err == nil {
				l.rows[c.Stream.ID] = Row{c.Stream.ID, amount, uint64(c.First()) + uint64(i)}
			}
		}
	}
}

// open returns the answer to open_auctions.
func (l *listings) open(budget int64, window int) []Row {
	var rows []Row
	for _, r := range l.rows {
		if budget == 0 || r.Price <= budget {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Price, b.Price), strings.Compare(a.Key, b.Key))
	})
	return rows[:min(len(rows), window)]
}

// A shown is what a client was shown at a position.
type shown struct {
	promise, name string
	budget        int64
	position      uint64
	rows          []Row
}

// rows compares answers and live queries with an independent fold of the log.
func (c *checker) rows() {
	var all []shown
	for _, a := range c.history.Answers {
		if a.Position < a.AtLeast {
			c.found(RowsFresh, "%s asked for position %d and was shown position %d", a.Client, a.AtLeast, a.Position)
		}
		all = append(all, shown{RowsExact, a.Client, a.Budget, a.Position, a.Rows})
	}
	for _, l := range c.history.Lives {
		all = append(all, c.live(l)...)
	}
	slices.SortStableFunc(all, func(a, b shown) int { return cmp.Compare(a.position, b.position) })
	fold := listings{log: c.history.Log, rows: map[string]Row{}}
	for _, s := range all {
		fold.advance(s.position)
		if difference := differ(s.rows, fold.open(s.budget, c.history.Window)); difference != "" {
			c.found(s.promise, "%s, budget %d, at position %d: %s", s.name, s.budget, s.position, difference)
		}
	}
	c.h.Answers, c.h.Snapshots = len(c.history.Answers), len(all)-len(c.history.Answers)
}

// live checks a live query by itself, and returns its snapshots.
func (c *checker) live(l Live) (all []shown) {
	last := uint64(0)
	for _, s := range l.Snapshots {
		if s.Position < last {
			c.found(LiveForward, "%s: position %d follows %d", l.Name, s.Position, last)
		}
		last = s.Position
		all = append(all, shown{LiveExact, l.Name, l.Budget, s.Position, s.Rows})
	}
	// A row at the edge of a window may leave and return before the client was told.
	if l.Repeats > 2+l.Updates/50 {
		c.found(LiveOnce, "%s: %d of %d updates changed nothing", l.Name, l.Repeats, l.Updates)
	}
	if n := len(c.history.Log); l.Complete && n > 0 && len(l.Snapshots) > 0 {
		end := l.Snapshots[len(l.Snapshots)-1]
		all = append(all, shown{LiveComplete, l.Name, l.Budget, uint64(c.history.Log[n-1].Position), end.Rows})
	}
	return all
}

// differ describes the first difference of two lists of rows, "" if there is none.
func differ(got, want []Row) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Sprintf("%d rows instead of %d; %+v is missing", len(got), len(want), want[i])
		case i >= len(want):
			return fmt.Sprintf("%d rows instead of %d; %+v is too many", len(got), len(want), got[i])
		case got[i] != want[i]:
			return fmt.Sprintf("row %d is %+v instead of %+v", i+1, got[i], want[i])
		}
	}
	return ""
}
