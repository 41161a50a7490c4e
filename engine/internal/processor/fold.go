package processor

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// SegmentOf returns the segment of a row.
func SegmentOf(key string, segments int) int { return rows.SegmentOf(key, segments) }

// streamKey is the key under which a stream is blocked whose events name no row,
// because finding their keys fails. No row's key begins with "~".
func streamKey(s eventstore.StreamID) string { return "~" + s.String() }

// A fault is an event that could not be folded into a row.
type fault struct {
	key      string
	position eventstore.Position
	err      error
}

func (f *fault) Error() string { return f.err.Error() }

func (f *fault) Unwrap() error { return f.err }

// A step is one event for one row.
type step struct {
	at     projection.At
	event  any
	effect effect
	depth  int // of the event's commit
}

// A fold turns a batch of commits into rows of one segment.
type fold struct {
	model   model
	segment int
	term    rows.Term                      // of a process manager
	blocked map[string]eventstore.Position // by row or stream: its events from here on wait
	skipped map[skipped]bool               // events that an operator has excluded
}

// A skipped is an event that an operator has excluded from a row, or from all rows
// of a stream.
type skipped struct {
	key      string
	position eventstore.Position
}

// plan returns what the events of commits after a position do to the segment's
// rows. The error is a *fault, or aggregate.ErrUnknownEvent.
func (f *fold) plan(commits []eventstore.Commit, after eventstore.Position) ([]step, error) {
	var steps []step
	for i := range commits {
		c := &commits[i]
		for n, e := range c.Events {
			name := aggregate.EventName{Type: c.Stream.Type, Event: e.Type}
			position := c.First() + eventstore.Position(n)
			if position <= after || !f.model.Reads(name) || f.passes(streamKey(c.Stream), position) {
				continue
			}
			found, err := f.effects(c, n, name)
			if errors.Is(err, aggregate.ErrUnknownEvent) {
				return nil, err
			}
			if err != nil {
				return nil, &fault{streamKey(c.Stream), position, err}
			}
			steps = append(steps, found...)
		}
	}
	return steps, nil
}

// atOf is where the nth event of a commit stands.
func atOf(c *eventstore.Commit, n int) projection.At {
	return projection.At{
		Type: c.Stream.Type, ID: c.Stream.ID, Version: uint64(c.FirstVersion()) + uint64(n), Position: uint64(c.First()) + uint64(n),
		Time: c.At, Client: c.Meta.Client,
	}
}

// effects returns what the nth event of a commit does to the segment's rows.
func (f *fold) effects(c *eventstore.Commit, n int, name aggregate.EventName) (steps []step, err error) {
	defer recovered(&err)
	at := atOf(c, n)
	event, err := f.model.Decode(name, c.Events[n].Form, c.Events[n].Data)
	if err != nil {
		return nil, err
	}
	effects, err := f.model.effects(at, name, event)
	for _, e := range effects {
		if SegmentOf(e.key, f.model.Segments()) == f.segment && !f.passes(e.key, eventstore.Position(at.Position)) {
			steps = append(steps, step{at, event, e, depthOf(c)})
		}
	}
	return steps, err
}

// keysOf returns the keys of the rows that the nth event of a commit concerns, of all
// segments.
func (f *fold) keysOf(c *eventstore.Commit, n int, name aggregate.EventName) (keys []string, err error) {
	defer recovered(&err)
	event, err := f.model.Decode(name, c.Events[n].Form, c.Events[n].Data)
	if err != nil {
		return nil, err
	}
	effects, err := f.model.effects(atOf(c, n), name, event)
	for _, e := range effects {
		keys = append(keys, e.key)
	}
	return keys, err
}

// passes reports whether an event of a row or a stream has no effect: it waits for
// an operator, or an operator has excluded it.
func (f *fold) passes(key string, p eventstore.Position) bool {
	from, ok := f.blocked[key]
	return ok && p >= from || f.skipped[skipped{key, p}]
}

// recovered turns a panic of application code into an error.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("panic: %v", v)
	}
}

// A kept is a row as a fold has it.
type kept struct {
	row     any // nil while there is no row
	changed eventstore.Position
}

// apply folds steps into the rows that are present, and returns the commands that
// they cause. If it returns an error, a *fault, the rows are of no use.
func (f *fold) apply(steps []step, present map[string]*kept) (commands []rows.Command, err error) {
	for _, s := range steps {
		k := present[s.effect.key]
		if k == nil {
			k = &kept{}
			present[s.effect.key] = k
		}
		position := eventstore.Position(s.at.Position)
		caused, err := f.applyOne(s, k, f.term.Sends(s.effect.key, position))
		if err != nil {
			return nil, &fault{s.effect.key, position, err}
		}
		commands = append(commands, caused...)
	}
	return commands, nil
}

// applyOne folds one step into its row. It returns the commands that the step causes
// if it sends.
func (f *fold) applyOne(s step, k *kept, sends bool) (commands []rows.Command, err error) {
	defer recovered(&err)
	if k.row == nil {
		k.row = f.model.NewRow()
	}
	caused, err := f.model.apply(s.at, s.effect, s.event, k.row)
	if err != nil {
		return nil, err
	}
	if f.model.Gone(k.row) {
		k.row = nil
	}
	k.changed = eventstore.Position(s.at.Position)
	if !sends || len(caused) == 0 {
		return nil, nil
	}
	if most := f.model.maxDepth(); s.depth >= most {
		return nil, tooDeep(s.depth, most)
	}
	for n, c := range caused {
		commands = append(commands, rows.Command{
			CommandID: rows.CommandID{Position: k.changed, K: s.effect.k, N: n}, Sequence: s.effect.key,
			Target: c.Target(), Name: c.Name, Data: c.Data, Depth: s.depth + 1,
		})
	}
	return commands, nil
}

// stored returns the rows that steps have changed, in the form in which they are
// stored. The error is a *fault.
func (f *fold) stored(steps []step, present map[string]*kept) ([]rows.Row, error) {
	done := make(map[string]bool, len(steps))
	list := make([]rows.Row, 0, len(steps))
	for _, s := range steps {
		key := s.effect.key
		if done[key] {
			continue
		}
		done[key] = true
		k := present[key]
		r := rows.Row{Key: key, Segment: f.segment, Position: k.changed, Gone: k.row == nil}
		if !r.Gone {
			var err error
			if r.Data, r.Values, err = f.encode(k.row); err != nil {
				return nil, &fault{key, k.changed, err}
			}
		}
		list = append(list, r)
	}
	return list, nil
}

func (f *fold) encode(row any) (data json.RawMessage, values []any, err error) {
	defer recovered(&err)
	if data, err = f.model.EncodeRow(row); err != nil {
		return nil, nil, err
	}
	values, err = f.model.Values(row)
	return data, values, err
}
