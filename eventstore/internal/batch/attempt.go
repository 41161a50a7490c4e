package batch

import (
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Kind classifies failures by what they reveal about the batch.
type Kind uint8

const (
	// Down: the batch was not sent; nothing was stored.
	Down Kind = iota
	// Lost: the batch was sent, and its outcome is unknown.
	Lost
	// Busy: rolled back for a passing reason; nothing was stored.
	Busy
	// Refused: rolled back because of the data of a unit; nothing was stored.
	Refused
	// Broken: rolled back for a reason that a retry does not remove.
	Broken
	// WentBack: rolled back because the log is older than it was.
	WentBack
)

// Failure is a Backend's error.
type Failure struct {
	Kind Kind
	// Reason is shown to callers. It has no secrets and no data.
	Reason string
}

func (f *Failure) Error() string { return f.Reason }

func asFailure(err error) *Failure {
	if f := new(Failure); errors.As(err, &f) {
		return f
	}
	return &Failure{Kind: Lost, Reason: err.Error()}
}

// state is what is known about a batch between two attempts.
type state uint8

const (
	notStored   state = iota // no attempt has stored it
	mayBeStored              // an attempt was sent, and its outcome is unknown
)

// sentinel is the error of a batch that is given up in state s.
func (s state) sentinel() error {
	if s == mayBeStored {
		return eventstore.ErrUnknown
	}
	return eventstore.ErrUnavailable
}

// action is what follows a failed attempt.
type action uint8

const (
	retry  action = iota // send the batch again after a pause
	halve                // send each half; a unit alone is invalid
	giveUp               // reply with Failure.rejection
)

// transition is an entry of the table.
type transition struct {
	action action
	state  state // from now on
	// answered means that the failure came from the database, which is therefore
	// not away. A busy database counts as silent, because callers wait just as
	// long.
	answered bool
}

// transitions is the table of the package comment: what follows a failure of
// a batch in a state.
var transitions = [...][2]transition{
	Down:     {notStored: {giveUp, notStored, false}, mayBeStored: {retry, mayBeStored, false}},
	Lost:     {notStored: {retry, mayBeStored, false}, mayBeStored: {retry, mayBeStored, false}},
	Busy:     {notStored: {retry, notStored, false}, mayBeStored: {retry, mayBeStored, false}},
	Refused:  {notStored: {halve, notStored, true}, mayBeStored: {halve, mayBeStored, true}},
	Broken:   {notStored: {giveUp, notStored, false}, mayBeStored: {retry, mayBeStored, false}},
	WentBack: {notStored: {giveUp, notStored, true}, mayBeStored: {giveUp, mayBeStored, true}},
}

// rejection is the callers' error for a batch in state s after this failure.
func (f *Failure) rejection(s state) error {
	switch {
	case f.Kind == WentBack && s == mayBeStored:
		return fmt.Errorf("%w: %w", eventstore.ErrUnknown, eventstore.ErrWentBack)
	case f.Kind == WentBack:
		return eventstore.ErrWentBack
	case s == mayBeStored:
		return fmt.Errorf("%w (%s)", eventstore.ErrUnknown, f.Reason)
	}
	return fmt.Errorf("%w: %s", eventstore.ErrUnavailable, f.Reason)
}

// store sends a batch until its outcome is known, Config.Deadline has passed,
// or the callers have been rejected for lack of patience.
func (c *Committer) store(batch []*pending, s state) {
	units := make([]*stored.Unit, len(batch))
	for i, p := range batch {
		units[i] = p.unit
	}
	var (
		deadline = time.Now().Add(c.cfg.Deadline)
		pause    = 10 * time.Millisecond
		silence  *countdown // runs once the batch may be stored
		answered bool
	)
	defer func() { silence.end(answered) }()
	for !c.patience.isAway() {
		if s == mayBeStored && silence == nil {
			silence = c.patience.start(batch, s)
		}
		result, err := c.attempt(batch, units, s)
		if err == nil {
			answered = true
			c.settle(batch, result, s)
			return
		}
		failure := asFailure(err)
		next := transitions[failure.Kind][s]
		answered = next.answered
		if s == notStored && next.state == mayBeStored && len(batch) > 0 {
			c.cfg.Logger.Warn("the database went away during an append: asking for the outcome again",
				"commands", len(units), "reason", failure.Reason)
		}
		s = next.state
		switch next.action {
		case halve:
			silence.end(answered)
			c.halve(batch, failure, s)
			return
		case giveUp:
			reject(batch, failure.rejection(s))
			return
		}
		if failure.Kind == Busy && len(batch) == 0 {
			answered = true // a probe needs only an answer
			return
		}
		if !c.sleep(min(pause, time.Until(deadline))) {
			reject(batch, failure.rejection(s)) // the same keys will give the outcome
			return
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
	// Rejects the second half of a batch whose first half ran out of patience.
	reject(batch, s.sentinel())
}

// halve sends each half of a refused batch. The unit of a batch of one is
// invalid.
func (c *Committer) halve(batch []*pending, f *Failure, s state) {
	if len(batch) > 1 {
		c.store(batch[:len(batch)/2], s)
		c.store(batch[len(batch)/2:], s)
		return
	}
	for _, p := range batch {
		p.reply(outcome{err: &eventstore.InvalidError{Stream: p.unit.Stream, Reason: f.Reason}})
	}
}

// attempt sends a batch once. Patience limits the time to connect but not the
// time of the append, since a database that executes a batch is not away.
func (c *Committer) attempt(batch []*pending, units []*stored.Unit, s state) (Result, error) {
	var connecting *countdown
	if s == notStored { // otherwise the countdown of store is running
		connecting = c.patience.start(batch, s)
	}
	err := c.cfg.Backend.Ready()
	expired := connecting.end(err == nil)
	if err != nil {
		return Result{}, err
	}
	if expired { // the callers were told that nothing is stored
		return Result{}, &Failure{Kind: Down, Reason: "connecting took too long"}
	}
	return c.cfg.Backend.Append(units, s == mayBeStored)
}
