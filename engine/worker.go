package engine

import (
	"errors"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine/internal/waker"
	"github.com/ganglion-es/ganglion/proto/command"
)

// worker serves a cell while its mailbox has entries. No two workers serve one
// cell at the same time, so the worker alone uses the cell's state.
type worker struct {
	host *Host
	cell *cell
}

// work serves the cell until its mailbox is empty.
func (w worker) work() {
	defer w.host.workers.Done()
	var jobs []*job
	for {
		var reads []*read
		var more bool
		if jobs, reads, more = w.host.nextWork(w.cell, jobs); !more {
			return
		}
		w.serve(jobs, reads)
	}
}

// serve replies to every job and read that was taken from the mailbox.
func (w worker) serve(jobs []*job, reads []*read) {
	round := w.prepare(jobs)
	reads = slices.DeleteFunc(reads, (*read).abandoned)
	w.cell.onlyWakes = len(reads) == 0 && !slices.ContainsFunc(round, func(j *job) bool { return j.wake == nil })
	if len(round) == 0 && len(reads) == 0 {
		return
	}
	err := w.host.ctx.Err()
	if err == nil {
		onlyFor := reads
		if len(round) > 0 {
			onlyFor = nil
		}
		err = w.load(onlyFor)
	}
	w.replyToReads(reads, err)
	if len(round) == 0 {
		return
	}
	if err != nil {
		refuseAll(round, w.host.failure(w.cell.stream, loading, err, round...))
		return
	}
	w.host.counters.countDrain(len(round))
	w.execute(round)
}

// prepare decodes the jobs and returns the jobs to decide. If several jobs of one
// drain have the same key, the first is decided and the others get its outcome.
func (w worker) prepare(jobs []*job) []*job {
	round := make([]*job, 0, len(jobs))
	var first map[string]*job
	if len(jobs) > 1 {
		first = make(map[string]*job, len(jobs))
	}
	for _, j := range w.admissible(jobs) {
		if f := w.decode(j); f != nil {
			j.refuse(f)
			continue
		}
		if f := first[j.Key]; f != nil {
			f.duplicates = append(f.duplicates, j)
			f.keepOutcome = f.keepOutcome || j.keepOutcome
			continue
		}
		if first != nil {
			first[j.Key] = j
		}
		round = append(round, j)
	}
	return round
}

// decode sets the job's body and hash.
func (w worker) decode(j *job) *command.Failure {
	if j.Name == waker.Name && j.System {
		return w.decodeWake(j)
	}
	def := w.cell.def
	var canonical []byte
	err := guarded(func() (err error) {
		decode := def.DecodeCommand
		if j.Checked {
			decode = def.DecodeChecked
		}
		if j.body, err = decode(j.Name, j.Data); err == nil {
			canonical, err = def.EncodeCommand(j.body)
		}
		return err
	})
	var data *aggregate.DataError
	switch {
	case err == nil:
		j.hash = digest(j.Client, j.Name, canonical)
		return nil
	case errors.Is(err, aggregate.ErrUnknownCommand):
		return unknownCommand(def, j.Name)
	case errors.As(err, &data):
		return command.BadRequest(data.Field, "%v", data)
	}
	return w.host.failure(w.cell.stream, "decoding a command", err, j)
}

// admissible returns the jobs that may begin, and refuses the others.
func (w worker) admissible(round []*job) []*job {
	now := time.Now()
	kept := round[:0]
	for _, j := range round {
		if w.mayBegin(j, now) {
			kept = append(kept, j)
		}
	}
	return kept
}

// mayBegin reports whether a job may begin. It refuses a job whose deadline has
// passed, that follows a refused command of its lane, or whose cause is in another
// log.
func (w worker) mayBegin(j *job, now time.Time) bool {
	if f := j.Ticket.Refusal(); f != nil {
		j.refuse(f)
		return false
	}
	if w.host.isOfOtherLog(j) {
		j.refuse(command.OtherLog(j.Log, w.host.store.LogID()))
		return false
	}
	if j.expired(now) {
		w.host.counters.late.Add(1)
		j.refuse(command.Expired())
		return false
	}
	return true
}

func refuseAll(jobs []*job, f *command.Failure) {
	for _, j := range jobs {
		j.refuse(f)
	}
}
