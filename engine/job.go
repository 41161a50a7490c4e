package engine

import (
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// job is a command on its way through the host.
type job struct {
	command.Command
	reply func(command.Outcome)

	keepOutcome bool // the outcome is final even without events
	body        any  // the decoded command
	hash        eventstore.Hash
	wake        *wakeJob // the job asks for a wake-up; nil for every other command
	deciding    activity

	// duplicates are the later commands of the same drain with the same key.
	duplicates []*job
}

// size returns the bytes that the job counts against the bounds.
func (j *job) size() int {
	return len(j.Data) + len(j.Name) + len(j.Key) + len(j.Client) + len(j.Session) + len(j.Trace) + len(j.Log)
}

func (j *job) expired(now time.Time) bool {
	return !j.Deadline.IsZero() && now.After(j.Deadline)
}

// refuse replies to the job and its duplicates that this attempt failed. The log
// has not confirmed the failure. The router takes account of attempts on other
// nodes.
func (j *job) refuse(f *command.Failure) {
	own := *f
	own.Key = j.Key
	j.reply(command.Failed(&own))
	for _, d := range j.duplicates {
		d.refuse(f)
	}
}

// confirm replies with an outcome that the log has confirmed, to the job and its
// duplicates.
func (j *job) confirm(o command.Outcome) {
	j.reply(o)
	for _, d := range j.duplicates {
		if d.hash != j.hash {
			d.reply(command.Failed(command.KeyReused(d.Key)))
			continue
		}
		d.reply(replayed(o))
	}
}

// refuseReusedKey replies that the key belongs to another command in the log. A
// duplicate that differs from j can be that command: refuseReusedKey returns the
// first such duplicate, with the others as its duplicates, or nil if all duplicates
// equal j.
func (j *job) refuseReusedKey() *job {
	j.reply(command.Failed(command.KeyReused(j.Key)))
	var next *job
	for _, d := range j.duplicates {
		switch {
		case d.hash == j.hash:
			d.reply(command.Failed(command.KeyReused(d.Key)))
		case next == nil:
			next = d
			next.keepOutcome = j.keepOutcome
		default:
			next.duplicates = append(next.duplicates, d)
		}
	}
	return next
}

// replayed returns a copy of an outcome, marked as the outcome of an earlier
// command.
func replayed(o command.Outcome) command.Outcome {
	if o.Failure != nil {
		f := *o.Failure
		f.Replayed = true
		return command.Failed(&f)
	}
	o.Result.Replayed = true
	return o
}
