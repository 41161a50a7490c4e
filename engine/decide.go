package engine

import (
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// draft is a unit that was decided and not yet stored.
type draft struct {
	unit     eventstore.Unit
	jobs     []*job             // one for each command of the unit
	failures []*command.Failure // one for each command; nil if it was granted
	at       time.Time          // time of the newest event
	spoilt   bool               // application code panicked: the state may be half changed
}

// add appends a decided job to the draft.
func (d *draft) add(j *job, cmd eventstore.Command, f *command.Failure) {
	if len(cmd.Events) > 0 {
		d.at = cmd.At
	} else {
		cmd.Answer = encodeAnswer(f)
		// A fault of the program is not final: a later release may execute the command.
		cmd.Keep = j.keepOutcome && (f == nil || f.Code != command.CodeInternal)
	}
	d.jobs = append(d.jobs, j)
	d.unit.Commands = append(d.unit.Commands, cmd)
	d.failures = append(d.failures, f)
}

// decideLimit bounds the time in which the commands of one unit are decided, since
// the first of them waits until the last is decided.
const decideLimit = 50 * time.Millisecond

// decide decides at most limit jobs, one after another, and applies their events
// to the state as if they were stored. It refuses jobs whose deadline passes
// before their turn, and returns the jobs that remain for the next unit. After a
// panic it stops. The unit's jobs overwrite the front of round.
func (w worker) decide(round []*job, limit int) (d draft, rest []*job) {
	c := w.cell
	most := min(limit, len(round))
	d = draft{
		unit:     eventstore.Unit{Stream: c.stream, Expected: c.state.version, Commands: make([]eventstore.Command, 0, most)},
		jobs:     round[:0],
		failures: make([]*command.Failure, 0, most),
		at:       c.state.at,
	}
	begun, version := time.Now(), c.state.version
	w.watch(&round[0].deciding)
	defer c.watchdog.stop()
	for i, j := range round {
		now := time.Now()
		if d.spoilt || len(d.jobs) == most || len(d.jobs) > 0 && now.Sub(begun) > decideLimit {
			return d, round[i:]
		}
		if !w.mayBegin(j, now) {
			continue
		}
		c.watchdog.next(&j.deciding)
		at := w.decisionTime(d.at)
		if j.wake != nil {
			if len(d.jobs) > 0 { // it is decided at a version that the log has
				return d, round[i:]
			}
			due, isDue := w.awaken(j, version)
			if !isDue && c.state.value == nil {
				return d, round[i+1:] // it has discarded the state
			}
			if !isDue {
				continue
			}
			if due.After(at) {
				at = due
			}
		}
		cmd := eventstore.Command{
			Key: j.Key, Hash: j.hash, At: at,
			Meta: eventstore.Meta{Client: j.Client, Trace: j.Trace, Depth: j.Depth},
		}
		var f *command.Failure
		f, d.spoilt = w.decideOne(j, version, &cmd)
		version += eventstore.Version(len(cmd.Events))
		d.add(j, cmd, f)
	}
	return d, nil
}

// decideOne decides one command at a version and applies its events to the state. It
// adds the events in their stored form to cmd, with the time for which the state then
// asks, or returns the failure that explains why there are none, and reports whether a
// panic has spoilt the state.
func (w worker) decideOne(j *job, version eventstore.Version, cmd *eventstore.Command) (f *command.Failure, spoilt bool) {
	c := w.cell
	if j.Expect != nil && *j.Expect != version {
		return command.Conflict(c.stream, version, *j.Expect), false
	}
	var stored []eventstore.Event
	size := 0
	err := guarded(func() (err error) {
		events, err := c.def.Decide(aggregate.Call{
			ID: c.stream.ID, Client: j.Client, Claims: j.Claims, Key: j.Key, Time: cmd.At,
		}, c.state.value, j.body)
		if err != nil || len(events) == 0 {
			return err
		}
		if stored, size, err = encodeEvents(c.def, events); err != nil || size > MaxCommitBytes {
			return err
		}
		if err = c.applyStored(events, stored); err == nil {
			cmd.Meta.Wake = c.wakeOf()
		}
		return err
	})
	var rejection *aggregate.Rejection
	var panicked *panicError
	switch {
	case errors.As(err, &rejection):
		if !c.def.Declares(rejection) {
			w.host.reportRejection(c.stream, rejection, j)
		}
		return command.Rejected(rejection.Code, rejection.Message), false
	case err != nil:
		return w.host.failure(c.stream, "deciding a command", err, j), errors.As(err, &panicked)
	case size > MaxCommitBytes:
		return command.TooLarge("the command's events have %d bytes, at most %d are allowed", size, MaxCommitBytes), false
	}
	cmd.Events = stored
	return nil, false
}

// encodeEvents returns events in their stored form, and their size in bytes.
func encodeEvents(def *aggregate.Definition, events []any) (stored []eventstore.Event, size int, err error) {
	stored = make([]eventstore.Event, len(events))
	for i, e := range events {
		s := &stored[i]
		if s.Type, s.Form, s.Data, err = def.EncodeEvent(e); err != nil {
			return nil, 0, err
		}
		size += len(s.Type) + len(s.Data)
	}
	return stored, size, nil
}

// applyStored decodes stored events and applies the decoded events, as every other node
// will do. It overwrites events with them. The log may not have the events yet.
func (c *cell) applyStored(events []any, stored []eventstore.Event) (err error) {
	for i := range stored {
		s := &stored[i]
		if events[i], err = c.def.DecodeEvent(s.Type, s.Form, s.Data); err != nil {
			return err
		}
	}
	for i, e := range events {
		c.def.Apply(c.state.value, e)
		c.state.bytes += len(stored[i].Data)
	}
	return nil
}

// maxAhead bounds the difference between clocks that decisionTime evens out.
const maxAhead = time.Minute

// decisionTime returns the time at which the next command is decided: this
// node's clock, or the time of the newest event if that is at most maxAhead
// later, so that small differences between clocks never make time run backwards.
// An event further ahead was dated by a wrong clock. decisionTime ignores its
// time, since otherwise the aggregate's time would stand still until then.
func (w worker) decisionTime(newest time.Time) time.Time {
	now := w.host.now()
	ahead := newest.Sub(now)
	if ahead <= 0 {
		return now
	}
	if ahead <= maxAhead {
		return newest
	}
	w.host.counters.ahead.Add(1)
	if w.host.reports.clockDue() {
		w.host.log.Warn("the newest event of an aggregate is ahead of this node's clock, so a node's clock is or was wrong; deciding by this node's clock",
			"stream", w.cell.stream, "version", w.cell.state.version, "at", newest, "ahead", ahead.Round(time.Millisecond))
	}
	return now
}

// now returns the host's clock, at the precision of the store.
func (h *Host) now() time.Time { return h.config.Now().UTC().Truncate(time.Microsecond) }
