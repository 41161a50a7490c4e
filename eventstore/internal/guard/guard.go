// Package guard notices a log that went back: one that was restored from an
// older copy, or continued on a standby that lagged, under a running program.
//
// A Guard remembers the newest commit that its store has seen, written or
// heard of. Whoever opens a connection, or asks for the head, compares the
// log with it. A log without that commit, or with another in its place, or
// with another incarnation, went back; from then on Err says so, until
// Settle finds that the commit is there again or that an operator has
// accepted the loss. A Guard is safe for concurrent use.
package guard

import (
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Mark is the newest commit that was seen, and the log it was seen in.
// Position 0 stands for none.
type Mark struct {
	LogID    string
	Position eventstore.Position
	Key      string
}

// Log is what a log says about itself when it is compared with a Mark.
type Log struct {
	ID string
	// Found and Key tell of the commit at the mark's position.
	Found bool
	Key   string
	// Head and HeadKey are the newest commit.
	Head    eventstore.Position
	HeadKey string
}

func (l Log) holds(m Mark) bool {
	return l.ID == m.LogID && (m.Position == 0 || l.Found && l.Key == m.Key)
}

// Guard is the memory of a store. Use New.
type Guard struct {
	mu   sync.Mutex
	mark Mark
	lost bool
	told bool // somebody was told that it is lost
}

// New begins with the log as it is.
func New(l Log) *Guard {
	return &Guard{mark: Mark{LogID: l.ID, Position: l.Head, Key: l.HeadKey}}
}

// Mark returns what a log must hold.
func (g *Guard) Mark() Mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mark
}

// Err returns eventstore.ErrWentBack while the log is known to have gone back.
func (g *Guard) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tell()
}

func (g *Guard) tell() error {
	g.told = g.lost
	if g.lost {
		return eventstore.ErrWentBack
	}
	return nil
}

// Saw tells the guard of a commit that the log holds. One in the mark's place
// with another key is a log that went back.
func (g *Guard) Saw(p eventstore.Position, key string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.lost:
	case p > g.mark.Position:
		g.mark.Position, g.mark.Key = p, key
	case p == g.mark.Position && p > 0 && key != g.mark.Key:
		g.lost = true
	}
	return g.tell()
}

// Witness tells the guard of a commit that the log must hold, by the word of
// another node. It reports whether that is possible.
func (g *Guard) Witness(p eventstore.Position, key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.lost && p == g.mark.Position && p > 0 && key != g.mark.Key {
		g.mark.Key = key
		g.lost = true
	}
	if !g.lost && p > g.mark.Position {
		g.mark.Position, g.mark.Key = p, key
	}
	return !g.lost
}

// WentBack records what a database has found out by itself.
func (g *Guard) WentBack() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost = true
	return g.tell()
}

// Compare records what a log says about m, a mark taken before it was asked,
// and reports whether the log is sound. Err is for telling a caller.
func (g *Guard) Compare(m Mark, l Log) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A mark of an incarnation that was given up meanwhile says nothing.
	if m.LogID == g.mark.LogID && !l.holds(m) {
		g.lost = true
	}
	return !g.lost
}

// Settle is Compare for a caller who can start again: when the log is known
// to have gone back, it forgives one that holds the mark after all, and takes
// one with a new incarnation as it is. A loss is always told once before it is
// forgiven, so that everybody can begin anew who relied on what was lost.
func (g *Guard) Settle(m Mark, l Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.lost:
		g.lost = m.LogID == g.mark.LogID && !l.holds(m)
	case !g.told:
	case l.ID != g.mark.LogID:
		g.take(l)
	case m == g.mark && l.holds(m):
		g.lost = false
	}
	return g.tell()
}

// Take begins anew with a log as it is: the operator has accepted the loss
// through this very store.
func (g *Guard) Take(l Log) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(l)
}

func (g *Guard) take(l Log) {
	g.mark = Mark{LogID: l.ID, Position: l.Head, Key: l.HeadKey}
	g.lost, g.told = false, false
}
