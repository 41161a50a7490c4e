package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// conflictsMost is how often a unit may find that its stream has moved
	// before its commands are refused as busy.
	conflictsMost = 3
	// conflictPause bounds the pause before the stream is read again. It
	// doubles, and the actual pause is random, so that two nodes that fight
	// for an aggregate come apart.
	conflictPause = 2 * time.Millisecond
)

// serve answers everything that was taken from a cell's mailbox.
func (h *Host) serve(c *cell, jobs []*job, reads []*read) {
	round := h.prepare(c, jobs)
	reads = slices.DeleteFunc(reads, (*read).gone)
	if len(round) == 0 && len(reads) == 0 {
		return
	}
	err := h.ctx.Err()
	if err == nil {
		only := reads
		if len(round) > 0 {
			only = nil
		}
		err = h.load(c, only)
	}
	h.answer(c, reads, err)
	if len(round) == 0 {
		return
	}
	if err != nil {
		refuse(round, h.failure(c.stream, "reading the aggregate", err, round...))
		return
	}
	h.counters.drained(len(round))
	h.execute(c, round)
}

// prepare decodes the jobs, and returns those that can be decided. Where one
// drain has a key several times, the later ones wait for the first one's
// answer.
func (h *Host) prepare(c *cell, jobs []*job) []*job {
	round := make([]*job, 0, len(jobs))
	var first map[string]*job
	if len(jobs) > 1 {
		first = make(map[string]*job, len(jobs))
	}
	for _, j := range h.due(jobs) {
		if f := h.decode(c, j); f != nil {
			j.settle(f)
			continue
		}
		if leader := first[j.Key]; leader != nil {
			leader.again = append(leader.again, j)
			leader.keep = leader.keep || j.keep
			continue
		}
		if first != nil {
			first[j.Key] = j
		}
		round = append(round, j)
	}
	return round
}

// decode makes a command of the job's data, and the hash that its key stands
// for.
func (h *Host) decode(c *cell, j *job) *command.Failure {
	var canonical []byte
	err := guarded(func() (err error) {
		decode := c.def.DecodeCommand
		if j.Checked {
			decode = c.def.DecodeChecked
		}
		if j.body, err = decode(j.Name, j.Data); err == nil {
			canonical, err = c.def.EncodeCommand(j.body)
		}
		return err
	})
	var data *aggregate.DataError
	switch {
	case err == nil:
		j.hash = digest(j.Client, j.Name, canonical)
		return nil
	case errors.Is(err, aggregate.ErrUnknownCommand):
		return unknownCommand(c.def, j.Name)
	case errors.As(err, &data):
		return badRequest(data.Error(), data.Field)
	}
	return h.failure(c.stream, "decoding a command", err, j)
}

func refuse(jobs []*job, f *command.Failure) {
	for _, j := range jobs {
		j.settle(f)
	}
}

// execute decides the jobs and stores what comes of them, until each has its
// answer. The state is loaded when it is called, unless a view has spoilt it.
func (h *Host) execute(c *cell, round []*job) {
	defer c.left.Store(0)
	conflicts, limit := 0, len(round)
	for first := true; ; first = false {
		c.left.Store(int64(len(round)))
		if round = h.due(round); len(round) == 0 {
			return
		}
		if !first || c.state == nil {
			if err := h.load(c, nil); err != nil {
				refuse(round, h.failure(c.stream, "reading the aggregate", err, round...))
				return
			}
		}
		begun := time.Now()
		d, rest := h.decide(c, round, limit)
		if len(d.jobs) == 0 {
			round = rest
			continue
		}
		appended, err := h.append(d)
		c.took(time.Since(begun), len(d.jobs))
		if err == nil && len(appended.Commands) != len(d.jobs) {
			err = fmt.Errorf("the store answered %d of %d commands", len(appended.Commands), len(d.jobs))
		}
		if err == nil {
			h.commit(c, d, appended)
			round = rest
			continue
		}

		round = append(d.jobs, rest...)
		expected := d.unit.Expected
		h.discard(c)
		var known *eventstore.KnownKeysError
		var conflict *eventstore.ConflictError
		switch {
		case errors.As(err, &known) && len(known.Known) > 0:
			round = h.replay(c, round, known.Known)

		case errors.As(err, &conflict):
			h.counters.conflicts.Add(1)
			// A log that is behind our state has lost events; the snapshot
			// may have been made from those.
			c.fromScratch = conflict.Actual < expected
			if conflicts++; conflicts == conflictsMost {
				h.counters.busy.Add(uint64(len(round)))
				refuse(round, busy(c.stream.String()+" is being changed on another node as well"))
				return
			}
			h.pause(rand.N(conflictPause << conflicts))

		case errors.Is(err, eventstore.ErrInvalid) && len(d.jobs) > 1:
			limit = 1 // one of them is at fault: the others go without it

		case errors.Is(err, eventstore.ErrInvalid):
			round[0].settle(h.failure(c.stream, "storing", err, round[0]))
			round = round[1:]

		default:
			refuse(round, h.uncertain(c, err, round))
			return
		}
	}
}

// uncertain is the failure for an append that ended with an error which does
// not say what became of the unit.
func (h *Host) uncertain(c *cell, err error, round []*job) *command.Failure {
	f := h.failure(c.stream, "storing", err, round...)
	if f.Code == command.Internal {
		f.Retry = command.RetrySameKey
	}
	return f
}

// due returns the jobs that may be begun, and answers the others.
func (h *Host) due(round []*job) []*job {
	now := time.Now()
	kept := round[:0]
	for _, j := range round {
		if h.mayBegin(j, now) {
			kept = append(kept, j)
		}
	}
	return kept
}

// mayBegin reports whether a job may be begun. It answers one whose time is
// over, or that was sent along with one that was refused.
func (h *Host) mayBegin(j *job, now time.Time) bool {
	if f := j.Lane.Refusal(); f != nil {
		j.settle(f)
		return false
	}
	if j.expired(now) {
		h.counters.late.Add(1)
		j.settle(late())
		return false
	}
	return true
}

// took remembers how long a unit took, for inTime.
func (c *cell) took(d time.Duration, commands int) {
	one := int64(d) / int64(commands)
	if before := c.pace.Load(); before > 0 {
		one = (before + one) / 2
	}
	c.pace.Store(one)
	c.unit.Store(int64(d))
}

// pause waits, or until the host ends.
func (h *Host) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.ctx.Done():
	}
}

// draft is a unit that was decided and not yet stored.
type draft struct {
	unit     eventstore.Unit
	jobs     []*job             // one for each command of the unit
	failures []*command.Failure // for each: why it has no events; nil if it was granted
	at       time.Time          // of the newest event
	spoilt   bool               // application code panicked, so that the state can't be kept
}

// decideMost is how long a unit may be decided before it is stored: its first
// command waits for its last.
const decideMost = 50 * time.Millisecond

// decide lets the aggregate decide jobs one after another, at most limit,
// applying events to the state as if they were stored. It answers those whose
// time is over when their turn comes, and returns those that the unit does not
// reach. After a panic it stops: the state may be half changed. The unit's jobs
// overwrite the front of round.
func (h *Host) decide(c *cell, round []*job, limit int) (d draft, rest []*job) {
	most := min(limit, len(round))
	d = draft{
		unit:     eventstore.Unit{Stream: c.stream, Expected: c.version, Commands: make([]eventstore.Command, 0, most)},
		jobs:     round[:0],
		failures: make([]*command.Failure, 0, most),
		at:       c.at,
	}
	begun, version := time.Now(), c.version
	h.begin(c, &round[0].deciding)
	defer c.watchdog.end()
	for i, j := range round {
		now := time.Now()
		if d.spoilt || len(d.jobs) == most || len(d.jobs) > 0 && now.Sub(begun) > decideMost {
			return d, round[i:]
		}
		if !h.mayBegin(j, now) {
			continue
		}
		c.watchdog.next(&j.deciding)
		at := h.decisionTime(c, d.at)
		cmd := eventstore.Command{
			Key: j.Key, Hash: j.hash, At: at,
			Meta: eventstore.Meta{Client: j.Client, Trace: j.Trace},
		}
		var f *command.Failure
		cmd.Events, f, d.spoilt = h.decideOne(c, j, version, at)
		if len(cmd.Events) > 0 {
			version += eventstore.Version(len(cmd.Events))
			d.at = at
		} else {
			cmd.Answer = encodeAnswer(f)
			// A fault of the program is not final: mended, it may succeed.
			cmd.Keep = j.keep && (f == nil || f.Code != command.Internal)
		}
		d.jobs = append(d.jobs, j)
		d.unit.Commands = append(d.unit.Commands, cmd)
		d.failures = append(d.failures, f)
	}
	return d, nil
}

// aheadMost is how far the newest event of an aggregate may be ahead of this
// node's clock before that clock is followed all the same.
const aheadMost = time.Minute

// decisionTime is the time that the next command is decided at: this node's
// clock, or the time of the aggregate's newest event if that is a little later,
// so that small differences between clocks never make time run back. An event
// that is more than aheadMost ahead was dated by a wrong clock. It is not
// followed, or the aggregate's time would stand still until then.
func (h *Host) decisionTime(c *cell, newest time.Time) time.Time {
	now := h.now()
	ahead := newest.Sub(now)
	if ahead <= 0 {
		return now
	}
	if ahead <= aheadMost {
		return newest
	}
	h.counters.ahead.Add(1)
	if last := h.aheadTold.Load(); time.Since(time.Unix(0, last)) > aheadMost && h.aheadTold.CompareAndSwap(last, time.Now().UnixNano()) {
		h.log.Warn("the newest event of an aggregate is ahead of this node's clock: a node's clock is or was wrong; its time is not followed",
			"stream", c.stream, "version", c.version, "at", newest, "ahead", ahead.Round(time.Millisecond))
	}
	return now
}

// now is the host's clock, as precise as the store.
func (h *Host) now() time.Time { return h.config.Now().UTC().Truncate(time.Microsecond) }

// decideOne decides one command at a version. It returns the events in their
// stored form, applied to the state; or why there are none; and whether the
// state was spoilt.
func (h *Host) decideOne(c *cell, j *job, version eventstore.Version, at time.Time) (
	stored []eventstore.Event, f *command.Failure, spoilt bool,
) {
	if j.Expect != nil && *j.Expect != version {
		return nil, &command.Failure{
			Code:    command.Conflict,
			Message: fmt.Sprintf("%s is at version %d, not %d: get its state and decide again", c.stream, version, *j.Expect),
			Retry:   command.RetryNo, Version: &version,
		}, false
	}
	var events []any
	size := 0
	err := guarded(func() (err error) {
		events, err = c.def.Decide(aggregate.Call{
			ID: c.stream.ID, Client: j.Client, Claims: j.Claims, Key: j.Key, Time: at,
		}, c.state, j.body)
		if err != nil || len(events) == 0 {
			return err
		}
		stored = make([]eventstore.Event, len(events))
		for i, e := range events {
			s := &stored[i]
			if s.Type, s.Form, s.Data, err = c.def.EncodeEvent(e); err != nil {
				return err
			}
			size += len(s.Type) + len(s.Data)
		}
		if size > MaxCommitBytes {
			return nil
		}
		// What is applied is what every other node will read.
		for i := range stored {
			s := &stored[i]
			if events[i], err = c.def.DecodeEvent(s.Type, s.Form, s.Data); err != nil {
				return err
			}
		}
		for i, e := range events {
			c.def.Apply(c.state, e)
			c.stateBytes += len(stored[i].Data)
		}
		return nil
	})
	var rejection *aggregate.Rejection
	var panicked *panicError
	switch {
	case errors.As(err, &rejection):
		return nil, &command.Failure{
			Code: command.Rejected, Reason: rejection.Code, Message: rejection.Message, Retry: command.RetryNo,
		}, false
	case err != nil:
		return nil, h.failure(c.stream, "deciding a command", err, j), errors.As(err, &panicked)
	case size > MaxCommitBytes:
		return nil, &command.Failure{
			Code:    command.TooLarge,
			Message: fmt.Sprintf("the command's events have %d bytes, at most %d are allowed", size, MaxCommitBytes),
			Retry:   command.RetryNo,
		}, false
	}
	return stored, nil, false
}

// append hands a unit to the store.
func (h *Host) append(d draft) (eventstore.Appended, error) {
	deadline := time.Time{}
	for _, j := range d.jobs {
		if j.Deadline.After(deadline) {
			deadline = j.Deadline
		}
	}
	if deadline.IsZero() {
		deadline = time.Now().Add(h.config.AppendTimeout)
	}
	ctx, cancel := context.WithDeadline(h.ctx, deadline)
	defer cancel()
	appended, err := h.store.Append(ctx, d.unit)
	h.tellOutage(appended, err)
	return appended, err
}

// outageQuiet is how long the store must have refused nothing for an outage to
// be over. A disk that is almost full takes some commands between others.
const outageQuiet = 5 * time.Second

// tellOutage logs once that the store takes no commands, and once that it stores
// events again. Clients learn at most that it is out of reach; the log says why.
func (h *Host) tellOutage(appended eventstore.Appended, err error) {
	switch {
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrUnknown):
		if h.outage.Swap(time.Now().UnixNano()) == 0 {
			h.log.Warn("the store takes no commands: other nodes are asked to execute them", "error", err)
		}
	case err == nil && appended.Stored():
		last := h.outage.Load()
		if last != 0 && time.Now().UnixNano()-last >= int64(outageQuiet) && h.outage.CompareAndSwap(last, 0) {
			h.log.Info("the store takes commands again")
		}
	}
}

// commit makes the speculative state the state, and only then answers: a client
// that has an answer can read what it did.
func (h *Host) commit(c *cell, d draft, appended eventstore.Appended) {
	before := c.position
	for _, p := range appended.Commands {
		c.version = p.Version
		if p.Position > 0 {
			c.position = p.Position
		}
	}
	c.at = d.at
	h.counters.units.Add(1)
	h.counters.confirmed.Add(uint64(len(d.jobs)))
	if c.position > before {
		h.tip.saw(c.position)
	}
	if d.spoilt {
		h.discard(c)
	} else {
		h.measure(c)
		h.publish(c, c.version)
	}
	position := before
	for i, j := range d.jobs {
		place := appended.Commands[i]
		if place.Position > 0 {
			position = place.Position
		}
		if len(d.unit.Commands[i].Events) > 0 {
			h.counters.commits.Add(1)
		}
		if f := d.failures[i]; f != nil {
			if f.Code == command.Rejected {
				h.counters.rejected.Add(1)
			}
			f.Key = j.Key
			j.confirm(command.Failed(f))
			continue
		}
		j.confirm(command.Outcome{Result: command.Result{Key: j.Key, Version: place.Version, Position: position}})
	}
	h.offerSnapshot(c)
}

// replay answers those jobs whose keys the log knew, and returns the others.
func (h *Host) replay(c *cell, round []*job, known []eventstore.First) []*job {
	left := make([]*job, 0, len(round))
	next := 0
	for _, first := range known {
		if first.Index < next || first.Index >= len(round) {
			continue
		}
		left = append(left, round[next:first.Index]...)
		next = first.Index + 1
		j := round[first.Index]
		if first.Reused {
			if other := j.reused(); other != nil {
				left = append(left, other)
			}
			continue
		}
		o, err := h.firstAnswer(c, j, first)
		if err != nil {
			// It was executed; only its answer can't be told now.
			f := h.failure(c.stream, "reading a first answer", err, j)
			f.Retry, f.Elsewhere = command.RetrySameKey, false
			j.settle(f)
			continue
		}
		h.counters.replays.Add(1)
		j.confirm(replayed(o))
	}
	return append(left, round[next:]...)
}

// firstAnswer is what a known key was first answered with.
func (h *Host) firstAnswer(c *cell, j *job, first eventstore.First) (command.Outcome, error) {
	result := command.Result{Key: j.Key, Version: first.Place.Version, Position: first.Place.Position}
	if first.Answer == nil {
		return command.Outcome{Result: result}, nil
	}
	f, err := decodeAnswer(first.Answer)
	if err != nil {
		return command.Outcome{}, fmt.Errorf("decode the kept answer: %w", err)
	}
	if f != nil {
		f.Key = j.Key
		return command.Failed(f), nil
	}
	if result.Position == 0 && result.Version > 0 {
		// It changed nothing, and stood at the position of the event before it.
		ctx, cancel := context.WithTimeout(h.ctx, h.config.LoadTimeout)
		defer cancel()
		commits, err := h.store.ReadStream(ctx, c.stream, result.Version-1, 1)
		if err != nil {
			return command.Outcome{}, err
		}
		if len(commits) == 1 {
			result.Position = commits[0].First() + eventstore.Position(result.Version-commits[0].FirstVersion())
		}
	}
	return command.Outcome{Result: result}, nil
}
