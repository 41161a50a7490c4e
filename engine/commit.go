package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// errOtherLog reports that the log has changed since a unit was decided.
var errOtherLog = fmt.Errorf("%w: the log has another id than when the command was sent", eventstore.ErrUnavailable)

// isOfOtherLog reports whether a job's cause is in another log than this host's.
func (h *Host) isOfOtherLog(j *job) bool { return j.Log != "" && j.Log != h.store.LogID() }

// append stores a draft's unit. It waits until the latest deadline of the unit's
// commands, or AppendTimeout if none has a deadline.
func (w worker) append(d draft) (eventstore.Appended, error) {
	deadline := time.Time{}
	for _, j := range d.jobs {
		if j.Deadline.After(deadline) {
			deadline = j.Deadline
		}
	}
	if deadline.IsZero() {
		deadline = time.Now().Add(w.host.config.AppendTimeout)
	}
	if slices.ContainsFunc(d.jobs, w.host.isOfOtherLog) {
		return eventstore.Appended{}, errOtherLog
	}
	ctx, cancel := context.WithDeadline(w.host.ctx, deadline)
	defer cancel()
	appended, err := w.host.store.Append(ctx, d.unit)
	w.host.reportOutage(appended, err)
	if err == nil && len(appended.Commands) != len(d.jobs) {
		err = fmt.Errorf("the store confirmed %d of %d commands", len(appended.Commands), len(d.jobs))
	}
	return appended, err
}

// commit makes the speculative state the cell's state, and then replies, so that
// a client that has a reply can read its effect.
func (w worker) commit(d draft, appended eventstore.Appended) {
	c, counters := w.cell, &w.host.counters
	before := c.state.position
	for _, p := range appended.Commands {
		c.state.version = p.Version
		if p.Position > 0 {
			c.state.position = p.Position
		}
	}
	c.state.at = d.at
	counters.units.Add(1)
	counters.confirmed.Add(uint64(len(d.jobs)))
	if c.state.position > before {
		w.host.tip.advance(c.state.position)
	}
	if d.spoilt {
		w.discard()
	} else {
		w.measure()
		w.publish(c.state.version)
	}
	w.replyToJobs(d, appended, before)
	w.offerSnapshot()
}

// replyToJobs replies to the jobs of a stored draft. position is the stream's
// position before the draft, since a command without events has the position of
// the event before it.
func (w worker) replyToJobs(d draft, appended eventstore.Appended, position eventstore.Position) {
	counters := &w.host.counters
	for i, j := range d.jobs {
		place := appended.Commands[i]
		if place.Position > 0 {
			position = place.Position
		}
		if len(d.unit.Commands[i].Events) > 0 {
			counters.commits.Add(1)
		}
		if j.wake != nil {
			j.confirm(wakeOutcome(j, &d.unit.Commands[i], d.failures[i], place, position))
			continue
		}
		if f := d.failures[i]; f != nil {
			if f.Code == command.CodeRejected {
				counters.rejected.Add(1)
			}
			f.Key = j.Key
			j.confirm(command.Failed(f))
			continue
		}
		j.confirm(command.Outcome{Result: command.Result{Key: j.Key, Version: place.Version, Position: position}})
	}
}

// replay replies to the jobs whose keys the log already has, and returns the
// others in order.
func (w worker) replay(round []*job, known []eventstore.First) []*job {
	others := make([]*job, 0, len(round))
	next := 0
	for _, first := range known {
		if first.Index < next || first.Index >= len(round) {
			continue
		}
		others = append(others, round[next:first.Index]...)
		next = first.Index + 1
		j := round[first.Index]
		if j.wake != nil && !j.wake.again { // the stream has moved on: ask the state that it has now
			j.wake.again = true
			others = append(others, j)
			continue
		}
		if first.Reused {
			if other := j.refuseReusedKey(); other != nil {
				others = append(others, other)
			}
			continue
		}
		w.replayOne(j, first)
	}
	return append(others, round[next:]...)
}

// replayOne replies to a job with the first outcome of its key.
func (w worker) replayOne(j *job, first eventstore.First) {
	o, err := w.firstOutcome(j, first)
	if err != nil {
		// The command was executed, so no other node may execute it.
		f := w.host.failure(w.cell.stream, "reading a first outcome", err, j)
		f.Retry, f.Elsewhere = command.RetrySameKey, false
		j.refuse(f)
		return
	}
	w.host.counters.replays.Add(1)
	j.confirm(replayed(o))
}

// firstOutcome returns the first outcome of a key that the log has.
func (w worker) firstOutcome(j *job, first eventstore.First) (command.Outcome, error) {
	result := command.Result{Key: j.Key, Version: first.Place.Version, Position: first.Place.Position}
	if first.Answer == nil {
		return command.Outcome{Result: result}, nil
	}
	f, err := decodeAnswer(first.Answer)
	if err != nil {
		return command.Outcome{}, fmt.Errorf("decode the kept outcome: %w", err)
	}
	if f != nil {
		f.Key = j.Key
		return command.Failed(f), nil
	}
	if result.Position == 0 && result.Version > 0 {
		if result.Position, err = w.positionOf(result.Version); err != nil {
			return command.Outcome{}, err
		}
	}
	return command.Outcome{Result: result}, nil
}

// positionOf returns the position of the stream's event at a version, or 0 if
// the log has none.
func (w worker) positionOf(v eventstore.Version) (eventstore.Position, error) {
	ctx, cancel := context.WithTimeout(w.host.ctx, w.host.config.LoadTimeout)
	defer cancel()
	commits, err := w.host.store.ReadStream(ctx, w.cell.stream, v-1, 1)
	if err != nil || len(commits) != 1 {
		return 0, err
	}
	return commits[0].First() + eventstore.Position(v-commits[0].FirstVersion()), nil
}
