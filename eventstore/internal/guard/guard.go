// Package guard notices a log that went back: one that was restored from an
// older copy, or continued on a standby that lagged, under a running program.
//
// A Guard remembers the newest commit that its store has seen, written or
// heard of. Whoever opens a connection, or asks for the head, compares the
// log with it. A log without that commit, or with another in its place, or
// with another incarnation, went back. From then on Err says so until Resume:
// only the caller that has let go of the lost history may go on with the log,
// so no other part of a program reads the new history too early. A Guard is
// safe for concurrent use.
package guard

import (
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Commit identifies a commit. Keys are unique per stream only, and a client
// sends a key again after a failover, so position and key alone can be those of
// another commit. The zero Commit stands for none.
type Commit struct {
	Position eventstore.Position
	Stream   eventstore.StreamID
	Version  eventstore.Version
	Key      string
	Micros   int64 // when it was decided, in microseconds since 1970
}

// Of returns what identifies c.
func Of(c *eventstore.Commit) Commit {
	return Commit{Position: c.Position, Stream: c.Stream, Version: c.Version, Key: c.Key, Micros: c.At.UnixMicro()}
}

// Mark is the newest commit that was seen, and the log it was seen in.
type Mark struct {
	LogID  string
	Newest Commit
}

// Log is what a log says about itself when it is compared with a Mark.
type Log struct {
	ID     string
	AtMark Commit // the commit at the mark's position
	Head   Commit // the newest commit
}

func (l Log) holds(m Mark) bool {
	return l.ID == m.LogID && l.AtMark == m.Newest
}

// Guard is the memory of a store. Use New.
type Guard struct {
	mu   sync.Mutex
	mark Mark
	lost bool
}

// New begins with the log as it is.
func New(l Log) *Guard {
	return &Guard{mark: Mark{LogID: l.ID, Newest: l.Head}}
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
	return g.err()
}

func (g *Guard) err() error {
	if g.lost {
		return eventstore.ErrWentBack
	}
	return nil
}

// Saw tells the guard of a commit that the incarnation log holds. Another
// commit in the mark's place is a log that went back.
func (g *Guard) Saw(log string, c Commit) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.lost, log != g.mark.LogID:
	case c.Position > g.mark.Newest.Position:
		g.mark.Newest = c
	case c.Position == g.mark.Newest.Position && c != g.mark.Newest:
		g.lost = true
	}
	return g.err()
}

// Witness tells the guard of a commit that the incarnation log must hold, by
// the word of another node. It reports whether that is possible.
func (g *Guard) Witness(log string, c Commit) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.lost && log == g.mark.LogID && c.Position >= g.mark.Newest.Position {
		g.lost = c.Position == g.mark.Newest.Position && c != g.mark.Newest
		g.mark.Newest = c
	}
	return !g.lost
}

// WentBack records what a database has found out by itself.
func (g *Guard) WentBack() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost = true
	return g.err()
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

// Check is Compare with an error that says how much is lost.
func (g *Guard) Check(m Mark, l Log) error {
	if g.Compare(m, l) {
		return nil
	}
	seen, head := g.Mark().Newest, l.Head
	return &eventstore.WentBackError{
		Seen: seen.Position, SeenAt: time.UnixMicro(seen.Micros), Head: head.Position, HeadAt: time.UnixMicro(head.Micros),
	}
}

// Resume begins again with a log that went back, if it holds the mark after
// all or has a new incarnation, and returns ErrWentBack otherwise. m is a mark
// taken before the log was asked. The caller has let go of everything that it
// knew of the lost history.
func (g *Guard) Resume(m Mark, l Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.lost:
		g.lost = m.LogID == g.mark.LogID && !l.holds(m)
	case l.ID != g.mark.LogID:
		g.take(l)
	case m == g.mark && l.holds(m):
		g.lost = false
	}
	return g.err()
}

// Take begins anew with a log as it is: the operator has accepted the loss
// through this very store.
func (g *Guard) Take(l Log) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.take(l)
}

func (g *Guard) take(l Log) {
	g.mark = Mark{LogID: l.ID, Newest: l.Head}
	g.lost = false
}
