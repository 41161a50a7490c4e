package engine

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/engine/internal/waker"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// A wake-up asks the owner of a stream to decide the command for which its state asks,
// if that is due. The sender's row about the stream, and its clock, which is the
// database's, only say when to ask: the state decides.

const (
	// wakeClient is the client of the command that a wake-up causes. Its key is
	// wakeKey and the version at which it was decided.
	wakeClient = "~wake"
	wakeKey    = "~wake:"
)

// wakeJob is what a job has that asks for a wake-up.
type wakeJob struct {
	now     time.Time
	decided bool // the command was decided
	again   bool // the log knew its key, so it was decided on a state that the log has replaced
}

// decodeWake prepares a job with the built-in command.
func (w worker) decodeWake(j *job) *command.Failure {
	if !w.cell.def.HasWake() {
		return unknownCommand(w.cell.def, j.Name)
	}
	var q waker.Question
	if err := json.Unmarshal(j.Data, &q); err != nil {
		return command.BadRequest("data", "the data of a wake-up is not as another node sends it: %v", err)
	}
	j.wake = &wakeJob{now: time.UnixMicro(q.Now).UTC()}
	j.keepOutcome = false // the sender asks again if that makes sense
	w.host.mu.Lock()
	w.cell.known = max(w.cell.known, q.Version)
	w.host.mu.Unlock()
	return nil
}

// awaken turns a job that asks for a wake-up into the command for which the state
// asks, at a version that the log has. If there is none, or its time is later, it
// replies and returns false. at is the time from which the command was due.
func (w worker) awaken(j *job, version eventstore.Version) (at time.Time, ok bool) {
	c := w.cell
	var cmd any
	var canonical []byte
	err := guarded(func() (err error) {
		if at, cmd = c.def.Wake(c.state.value); at.IsZero() || at.After(j.wake.now) {
			return nil
		}
		canonical, err = c.def.EncodeCommand(cmd)
		return err
	})
	switch {
	case err != nil:
		j.refuse(w.host.failure(c.stream, "asking when to wake", err, j))
		w.discard()
		return at, false
	case canonical == nil:
		j.confirm(command.Outcome{Result: command.Result{
			Key: j.Key, Version: version, Position: c.state.position, Data: waker.Answer{Due: micros(at)}.Encode(),
		}})
		return at, false
	}
	j.wake.decided = true
	j.Name, _ = c.def.CommandName(cmd)
	j.body, j.Client = cmd, wakeClient
	j.Key = wakeKey + strconv.FormatUint(uint64(version), 10)
	j.hash = digest(j.Client, j.Name, canonical)
	for _, d := range j.duplicates {
		d.hash = j.hash
	}
	return at, true
}

// micros returns a time in microseconds since 1970, 0 for the zero time.
func micros(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMicro()
}

// wakeOf returns when the cell's state asks to be woken.
func (c *cell) wakeOf() eventstore.Wake {
	if !c.def.HasWake() {
		return eventstore.Wake{}
	}
	at, _ := c.def.Wake(c.state.value)
	return eventstore.Wake{Known: true, Micros: micros(at), Revision: c.def.WakeRevision()}
}

// wakeOutcome is the outcome of a job that asked for a wake-up, and whose command was
// decided and stored. f is why it had no events, nil if it was granted.
func wakeOutcome(j *job, cmd *eventstore.Command, f *command.Failure, place eventstore.Place, position eventstore.Position) command.Outcome {
	a := waker.Answer{Woken: len(cmd.Events) > 0, Due: cmd.Meta.Wake.Micros}
	switch {
	case f != nil && f.Code == command.CodeInternal:
		return command.Failed(f)
	case f != nil:
		a = waker.Answer{Refused: true, Reason: fmt.Sprintf("%s: %s", f.Code, f.Message)}
		if f.Reason != "" {
			a.Reason = fmt.Sprintf("%s: %s", f.Reason, f.Message)
		}
	case !a.Woken:
		a = waker.Answer{Refused: true, Reason: fmt.Sprintf("the command %s changed nothing", j.Name)}
	}
	return command.Outcome{Result: command.Result{Key: j.Key, Version: place.Version, Position: position, Data: a.Encode()}}
}
