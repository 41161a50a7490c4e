package lane

import (
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
)

// pause is the time in which a lane of a session of this node admits only the
// command with key first. It lasts while refusals are on their way to the
// client (notices > 0), and then until a time that is counted from their
// delivery. Counted from the decision, a pause could be over before the client
// knows of it.
type pause struct {
	notices int
	until   time.Time // zero: none
	first   string    // key of the earliest refused command
	order   uint64    // of that command
	refusal *command.Failure
}

func (p *pause) active() bool { return p.notices > 0 || !p.until.IsZero() }

// begin counts a refusal that is on its way to the client.
func (p *pause) begin(e *Entry, refusal *command.Failure) {
	if !p.active() || e.order < p.order {
		p.first, p.order, p.refusal = e.Command.Key, e.order, refusal
	}
	p.notices++
}

// priorRefusal returns the failure of a command whose client may have sent it
// before it knew of an earlier refusal, or nil. The command belongs to a session
// of this node. All lanes are paused until allUntil.
func (m *Machine) priorRefusal(key string, allUntil, now time.Time) *command.Failure {
	p := &m.pause
	until := p.until
	switch {
	case p.active() && key == p.first:
		return nil
	case p.notices > 0:
		until = now.Add(m.cfg.Pause)
	}
	if allUntil.After(until) {
		until = allUntil
	}
	if !now.Before(until) {
		return nil
	}
	f := command.Busy("too many commands of this node's sessions must be sent again")
	if p.active() {
		f = new(*p.refusal)
	}
	f.After = until.Sub(now)
	return f
}

// Notified reports that the client has an answer that asked for Notify.
func (m *Machine) Notified() { m.pause.notices-- }

// Paused reports whether PauseUntil has set a time that Resume has not ended.
func (m *Machine) Paused() bool { return !m.pause.until.IsZero() }

// PauseUntil makes the lane's pause last until t, or longer if it already does.
func (m *Machine) PauseUntil(t time.Time) {
	if t.After(m.pause.until) {
		m.pause.until = t
	}
}

// Resume ends the pause if its time has come, or returns the time left.
func (m *Machine) Resume(now time.Time) (left time.Duration) {
	if left := m.pause.until.Sub(now); left > 0 {
		return left
	}
	m.pause.until = time.Time{}
	return 0
}

// WillRetry reports whether a failed command will be sent again, by its sender
// or by its client. Later commands must wait for that.
func WillRetry(f *command.Failure) bool {
	return f != nil && (f.Retry != command.RetryNo || f.Elsewhere)
}

const afterAnother = "a command that this session sent before this one must be sent again first: "

// refusalForFollowers returns the failure for the commands after one that
// failed with f and will be sent again. They were not begun, and their own
// deadlines may not have passed.
func refusalForFollowers(f *command.Failure) *command.Failure {
	g := &command.Failure{Code: f.Code, Message: f.Message, Retry: command.RetryLater, After: f.After, Elsewhere: f.Elsewhere}
	if f.Code != command.CodeUnavailable && !f.Elsewhere {
		g.Code = command.CodeBusy
	}
	if !f.Elsewhere && !strings.HasPrefix(f.Message, afterAnother) {
		g.Message = afterAnother + f.Message
	}
	return g
}
