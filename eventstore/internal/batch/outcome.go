package batch

import (
	"bytes"
	"sort"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// settle announces the stored commits of a batch and then replies to all
// callers. s is the state before the attempt that succeeded.
func (c *Committer) settle(batch []*pending, result Result, s state) {
	var (
		outcomes = make([]outcome, len(batch))
		commits  = make([]eventstore.Commit, 0, len(batch))
		base     = result.Base
	)
	for i, p := range batch {
		v := &result.Verdicts[i]
		var recognised bool
		if s == mayBeStored {
			outcomes[i].appended, recognised = recognise(p.unit, v.Found)
		}
		switch {
		case recognised:
		case len(v.Found) > 0:
			outcomes[i] = outcome{err: knownKeys(p.unit, v.Found)}
			continue
		case v.Moved:
			outcomes[i].err = &eventstore.ConflictError{Stream: p.unit.Stream, Expected: p.unit.Expected, Actual: v.Actual}
			continue
		default:
			outcomes[i].appended = p.unit.Appended(base)
			base += eventstore.Position(p.unit.Events)
		}
		commits = p.unit.Commits(commits, outcomes[i].appended)
	}
	c.announce(result.Log, commits)
	for i, p := range batch {
		p.reply(outcomes[i])
	}
}

// recognise reports whether an earlier attempt of this batch has stored the
// unit, and where. found is what the log holds under the unit's keys.
//
// Known keys alone are no proof: another node may have executed the same
// commands in the meantime, with another time and other events. The unit was
// stored as it is if and only if everything that it leaves in the database is
// there, at its versions and with its content.
func recognise(u *stored.Unit, found map[int]Found) (eventstore.Appended, bool) {
	if len(found) == 0 {
		return eventstore.Appended{}, false
	}
	a := eventstore.Appended{Commands: make([]eventstore.Place, len(u.Rows))}
	var last eventstore.Position
	for i := range u.Rows {
		r := &u.Rows[i]
		if r.Leaves() {
			f, ok := found[i]
			if !ok || !f.holds(r) {
				return eventstore.Appended{}, false
			}
			if r.N > 0 {
				last = f.Position
			}
		}
		a.Commands[i] = eventstore.Place{Version: r.Version, Position: last}
	}
	return a, true
}

// holds reports whether f is what r leaves in the database.
func (f *Found) holds(r *stored.Row) bool {
	return f.Version == r.Version && f.Hash == r.Hash && f.At.Equal(r.At) &&
		bytes.Equal(f.Meta, r.Meta) && bytes.Equal(f.Events, r.Events) && bytes.Equal(f.Answer, r.Answer)
}

// knownKeys makes the error that gives the first outcomes of known keys.
func knownKeys(u *stored.Unit, found map[int]Found) error {
	e := &eventstore.KnownKeysError{Stream: u.Stream}
	for i := range u.Rows {
		f, ok := found[i]
		switch {
		case !ok:
		case f.Hash != u.Rows[i].Hash:
			e.Known = append(e.Known, eventstore.First{Index: i, Reused: true})
		default:
			e.Known = append(e.Known, eventstore.First{
				Index:  i,
				Place:  eventstore.Place{Version: f.Version, Position: f.Position},
				Answer: f.Answer,
			})
		}
	}
	return e
}

// announced is the newest commit that Committed was called with.
type announced struct {
	log      string
	position eventstore.Position
}

// announce calls Saw and Committed. A unit that was recognised after a lost
// connection has the positions of its earlier attempt. Therefore the commits are
// sorted, and Committed is called once for each run without a hole.
func (c *Committer) announce(log string, commits []eventstore.Commit) {
	if log != c.announced.log { // positions may have gone back
		c.announced = announced{log: log}
	}
	sort.Slice(commits, func(i, j int) bool { return commits[i].Position < commits[j].Position })
	// A commit at or below the announced position was stored by another node,
	// with the same content, and announced there.
	for len(commits) > 0 && commits[0].First() <= c.announced.position {
		commits = commits[1:]
	}
	if len(commits) == 0 {
		return
	}
	last := &commits[len(commits)-1]
	c.announced.position = last.Position
	if err := c.cfg.Saw(log, guard.Of(last)); err != nil {
		c.cfg.Logger.Debug("the log went back", "position", last.Position, "err", err)
	}
	if c.cfg.Committed == nil {
		return
	}
	for start := 0; start < len(commits); {
		end := start + 1
		for end < len(commits) && commits[end].First() == commits[end-1].Position+1 {
			end++
		}
		c.cfg.Committed(log, commits[start:end:end])
		start = end
	}
}
