// Package guard detects a log that went back under a running program: it was
// restored from an older copy, or a standby that lagged was promoted.
//
// A [Guard] remembers the newest commit that its store has read or written, or
// that another node has reported. The store compares the log with that commit on
// every new connection, in every append and in every read of the head. A log went
// back if it lacks the commit, has another one in its place, or has another
// incarnation. [Guard.Err] then returns an error until [Guard.Resume]. Only a
// caller that has dropped everything it knew of the lost history calls Resume, so
// no other part of the program reads the new history too early.
//
// A Guard is safe for concurrent use.
package guard

import (
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Commit identifies a commit. Position and key do not suffice: keys are unique
// per stream only, and a client resends a key after a failover. The zero Commit
// means none.
type Commit struct {
	Position eventstore.Position
	Stream   eventstore.StreamID
	Version  eventstore.Version
	Key      string
	Micros   int64 // time of the decision, in microseconds since 1970
}

// Of returns the identity of c.
func Of(c *eventstore.Commit) Commit {
	return Commit{Position: c.Position, Stream: c.Stream, Version: c.Version, Key: c.Key, Micros: c.At.UnixMicro()}
}

// Row is a row of the table commit, or no row.
type Row struct {
	position, version, micros *int64
	typ, id, key              *string
}

// Columns returns the destinations of a scan: position, type, id, version, key,
// and microseconds since 1970.
func (r *Row) Columns() []any {
	return []any{&r.position, &r.typ, &r.id, &r.version, &r.key, &r.micros}
}

// Commit returns the identity of the row's commit.
func (r *Row) Commit() Commit {
	if r.position == nil {
		return Commit{}
	}
	return Commit{
		Position: eventstore.Position(*r.position),
		Stream:   eventstore.StreamID{Type: *r.typ, ID: *r.id},
		Version:  eventstore.Version(*r.version),
		Key:      *r.key,
		Micros:   *r.micros,
	}
}

// Mark is the newest known commit and the incarnation of its log.
type Mark struct {
	LogID  string
	Newest Commit
}

// Log is what a database reports for the comparison with a Mark.
type Log struct {
	ID     string
	AtMark Commit // the commit at the mark's position
	Head   Commit // the newest commit
}

func (l Log) holds(m Mark) bool {
	return l.ID == m.LogID && l.AtMark == m.Newest
}

// Guard remembers the newest commit of a store. Use New.
type Guard struct {
	mu   sync.Mutex
	mark Mark
	lost bool
}

// New returns a Guard that trusts the log as it is.
func New(l Log) *Guard {
	return &Guard{mark: Mark{LogID: l.ID, Newest: l.Head}}
}

// Mark returns the commit that the log must hold.
func (g *Guard) Mark() Mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mark
}

// Err returns eventstore.ErrWentBack if the log is known to have gone back.
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

// Saw reports a commit that the incarnation named log holds. If another commit
// has the position of the mark, the log went back.
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

// Witness reports a commit that another node has seen in the incarnation named
// log. It returns false if the log cannot hold that commit.
func (g *Guard) Witness(log string, c Commit) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.lost && log == g.mark.LogID && c.Position >= g.mark.Newest.Position {
		g.lost = c.Position == g.mark.Newest.Position && c != g.mark.Newest
		g.mark.Newest = c
	}
	return !g.lost
}

// WentBack records that the database itself has detected the loss.
func (g *Guard) WentBack() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lost = true
	return g.err()
}

// Compare compares the log with m, a mark that was taken before the database
// was asked, and reports whether the log is sound. Err has the error.
func (g *Guard) Compare(m Mark, l Log) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A mark of an earlier incarnation proves nothing.
	if m.LogID == g.mark.LogID && !l.holds(m) {
		g.lost = true
	}
	return !g.lost
}

// Check is Compare with an error that states the loss.
func (g *Guard) Check(m Mark, l Log) error {
	if g.Compare(m, l) {
		return nil
	}
	seen, head := g.Mark().Newest, l.Head
	return &eventstore.WentBackError{
		Seen: seen.Position, SeenAt: time.UnixMicro(seen.Micros), Head: head.Position, HeadAt: time.UnixMicro(head.Micros),
	}
}

// Resume trusts a log that went back if it has a new incarnation or holds the
// mark after all, and returns ErrWentBack otherwise. m is a mark that was taken
// before the database was asked. The caller must have dropped everything that it
// knew of the lost history.
func (g *Guard) Resume(m Mark, l Log) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.lost:
		g.lost = m.LogID == g.mark.LogID && !l.holds(m)
	case l.ID != g.mark.LogID:
		g.trust(l)
	case m == g.mark && l.holds(m):
		g.lost = false
	}
	return g.err()
}

// Trust trusts the log as it is: an operator has accepted the loss through
// this store.
func (g *Guard) Trust(l Log) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.trust(l)
}

func (g *Guard) trust(l Log) {
	g.mark = Mark{LogID: l.ID, Newest: l.Head}
	g.lost = false
}
