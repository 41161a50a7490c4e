package engine

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// maxConflicts is the number of conflicts with other nodes after which a
	// round's commands are refused as busy.
	maxConflicts = 3
	// conflictPause bounds the pause before the stream is read again. The bound
	// doubles with each conflict, and the pause is random, so that two nodes
	// that compete for an aggregate stop colliding.
	conflictPause = 2 * time.Millisecond
)

// retries records the failed attempts to store a round.
type retries struct {
	conflicts int
	unitSize  int // maximum number of commands in the next unit
}

// execute decides the jobs and stores their events, in as many units as it
// takes, until each job has its reply. The state has just been loaded, unless
// rendering a view has dropped it.
func (w worker) execute(round []*job) {
	c := w.cell
	defer c.pace.unanswered.Store(0)
	r := retries{unitSize: len(round)}
	for first := true; ; first = false {
		c.pace.unanswered.Store(int64(len(round)))
		if round = w.admissible(round); len(round) == 0 {
			return
		}
		if !first || c.state.value == nil {
			if err := w.load(nil); err != nil {
				refuseAll(round, w.host.failure(c.stream, loading, err, round...))
				return
			}
		}
		begun := time.Now()
		d, rest := w.decide(round, r.unitSize)
		if len(d.jobs) == 0 {
			round = rest
			continue
		}
		appended, err := w.append(d)
		c.pace.observe(time.Since(begun), len(d.jobs))
		if err != nil {
			round = w.afterFailedAppend(d, append(d.jobs, rest...), err, &r)
			continue
		}
		w.commit(d, appended)
		round = rest
	}
}

// afterFailedAppend drops the state and returns the jobs to decide again. It
// replies to the others. round begins with the jobs of the draft.
func (w worker) afterFailedAppend(d draft, round []*job, err error, r *retries) []*job {
	w.discard()
	var known *eventstore.KnownKeysError
	var conflict *eventstore.ConflictError
	switch {
	case errors.As(err, &known) && len(known.Known) > 0:
		return w.replay(round, known.Known)
	case errors.As(err, &conflict):
		return w.afterConflict(d, round, conflict, r)
	case errors.Is(err, eventstore.ErrInvalid) && len(d.jobs) > 1:
		r.unitSize = 1 // one command is invalid: store the others without it
		return round
	case errors.Is(err, eventstore.ErrInvalid):
		round[0].refuse(w.host.failure(w.cell.stream, storing, err, round[0]))
		return round[1:]
	}
	f := w.host.failure(w.cell.stream, storing, err, round...)
	if f.Code == command.CodeInternal {
		f.Retry = command.RetrySameKey // the unit may be stored
	}
	refuseAll(round, f)
	return nil
}

// afterConflict pauses before the round is decided again, or refuses it as busy.
func (w worker) afterConflict(d draft, round []*job, conflict *eventstore.ConflictError, r *retries) []*job {
	w.host.counters.conflicts.Add(1)
	// If the log is behind the state, it has lost events, and the stored
	// snapshot may include them.
	w.cell.fromScratch = conflict.Actual < d.unit.Expected
	if r.conflicts++; r.conflicts == maxConflicts {
		w.host.counters.busy.Add(uint64(len(round)))
		refuseAll(round, command.Busy("another node changes %s at the same time", w.cell.stream))
		return nil
	}
	w.host.pause(rand.N(conflictPause << r.conflicts))
	return round
}

// pause blocks for a duration, or until the host ends.
func (h *Host) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.ctx.Done():
	}
}
