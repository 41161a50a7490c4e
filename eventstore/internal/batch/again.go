package batch

import (
	"bytes"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// recognise finds out whether a unit whose keys are known is the one that a
// former attempt of this very batch has stored, and where it is.
//
// Known keys alone don't prove it: another node may have executed the same
// commands in the meantime, at another time of day and with other events. The
// unit was stored as it is exactly when all that it leaves in the database is
// there, at its versions, with its content.
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
			if !ok || f.Version != r.Version || f.Hash != r.Hash || !f.At.Equal(r.At) ||
				!bytes.Equal(f.Meta, r.Meta) || !bytes.Equal(f.Events, r.Events) || !bytes.Equal(f.Answer, r.Answer) {
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

// known makes the error that gives the first answers of known keys.
func known(u *stored.Unit, found map[int]Found) error {
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

// announce tells the watermark and Committed of commits. A batch that was
// recognised after a lost connection lies where its former attempt has put
// it; so what is told is sorted, and told in runs without a hole.
func (c *Committer) announce(log string, commits []eventstore.Commit) {
	if log != c.announcedLog { // it may have gone back
		c.announcedLog, c.announced = log, 0
	}
	slices.SortFunc(commits, func(a, b eventstore.Commit) int { return int(int64(a.Position) - int64(b.Position)) })
	// Only a commit that another node has stored with the very same content
	// can lie before what was told earlier. That node has told of it.
	for len(commits) > 0 && commits[0].First() <= c.announced {
		commits = commits[1:]
	}
	if len(commits) == 0 {
		return
	}
	last := &commits[len(commits)-1]
	c.announced = last.Position
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
