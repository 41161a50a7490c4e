// Package lane keeps the commands of one session to one aggregate in order. It
// decides which command is handed over next, which commands are refused because
// of an earlier one, and how each is answered.
//
// A [Machine] is a pure state machine. Its caller reports events (Admit,
// Placed, Returned, Expire, Fail, Notified), asks what to do ([Machine.Next],
// [Machine.Answers]) and does it. A Machine reads no clock, holds no lock and
// starts no goroutine: times are arguments, and one goroutine at a time uses it.
//
// # The states of a command
//
//	          Admit
//	            │
//	            ▼   Placed                    Returned
//	   ┌───► waiting ──────► placed ──────────────────────► answered, removed
//	   │        │               │                                ▲
//	   │        │               ├─ Expire ─► abandoned ──────────┤ Returned
//	   └────────┼── Returned ───┘                                │
//	            └───────────── Expire, Fail, refusal ────────────┘
//
//	state      at    answered  the command
//	waiting    none  no        is at no node
//	placed     set   no        is at the executor or on a link
//	abandoned  set   yes       was answered because its deadline passed; it
//	                           keeps its place until it returns, so that later
//	                           commands do not overtake it
//
// Returned leads back to waiting if the command has no answer: its stream
// broke, or its node declined it (Failure.Elsewhere). It leads to removed if
// the command has an answer, or if an earlier command was refused while this
// one was placed.
//
// # Order
//
// While a command is placed, later ones go only to the same place, or wait. If
// a command comes back without an answer, the lane is broken: nothing is
// handed over until all placed commands are back, and then the lane starts
// again with the earliest. So in a lane that is not broken, the placed commands
// are the earliest ones, in order, and all at one place.
//
// # Refusals
//
// A refused command is one that will be sent again, by this node to another
// one or by its client because the answer says "later" or "same_key"
// ([WillRetry]). Later commands must not be executed before it:
//
//	later commands that are    are refused
//	waiting                    immediately
//	placed at the executor     by the executor, before it begins them: it asks
//	                           Command.Ticket
//	placed at a link           by the node at its other end, which knows from
//	                           Request.seen that this node had not acted on the
//	                           refusal. If their stream breaks first, the
//	                           Machine refuses them
//	not admitted yet           on admission, while the lane is paused
//
// A lane is paused while refusals are being delivered to the client and, after
// the last delivery, for as long as the refusals tell the client to wait. A
// paused lane admits only the command with the key of the earliest refused one.
//
// docs/decisions/0003-refusals-by-reply-number.md says why commands are not
// numbered per lane instead.
package lane

import (
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/link"
)

// Config has the limits of all lanes of a router.
type Config struct {
	MaxEntries int           // commands in a lane
	Search     time.Duration // the time that a command may wait for a candidate
	Pause      time.Duration // the pause after a refusal that names none
}

// Kind is the origin of a lane's commands.
type Kind uint8

const (
	// Single lanes have one command of this node, without a session.
	Single Kind = iota
	// Own lanes have the commands of a session of this node.
	Own
	// Peer lanes have the commands that a peer sends for one session.
	Peer
	// PeerSingle lanes have one command of a peer, without a session.
	PeerSingle
)

func (k Kind) fromPeer() bool { return k == Peer || k == PeerSingle }

// Place is where a command can be: the executor of this node if Link is nil,
// else the node at the link's other end. The zero Place is none.
type Place struct {
	Node string
	Link *link.Link
}

// Entry is a command in a lane. After Admit only the Machine changes it.
type Entry struct {
	Command command.Command
	Call    any // the caller's, to recognise the command in an Answer

	Handovers int              // how often it was placed
	Tried     []string         // nodes that declined it or may have executed it
	Unknown   int              // how many of Tried may have executed it
	Declined  *command.Failure // the answer of the last of Tried, if it declined

	order       uint64 // among the commands of the lane
	at          Place  // where it is, if it is placed
	answered    bool
	refusal     *command.Failure // its answer if its place gives none, since an earlier command was refused
	searchUntil time.Time        // when it stops waiting for a candidate
}

// Answered reports whether the command has its answer.
func (e *Entry) Answered() bool { return e.answered }

// SearchExpired reports whether the command has waited long enough for a
// candidate.
func (e *Entry) SearchExpired(now time.Time) bool { return !now.Before(e.searchUntil) }

// Due returns the time at which to call Expire.
func (e *Entry) Due(now time.Time) time.Time {
	if !e.SearchExpired(now) && e.searchUntil.Before(e.Command.Deadline) {
		return e.searchUntil
	}
	return e.Command.Deadline
}

// Answer is the answer to a command.
type Answer struct {
	Entry   *Entry
	Outcome command.Outcome
	// Refusal, if not nil, is the failure for later commands that were sent
	// before their sender knew of this answer.
	Refusal *command.Failure
	// Notify asks for a call of Notified when the client has the answer.
	Notify bool
}

// Machine is the state of one lane. See the package comment. It must not be copied
// after its first use.
type Machine struct {
	cfg     *Config
	kind    Kind
	entries []*Entry
	newest  uint64          // order of the newest entry
	placed  int             // how many entries have a place
	broken  bool            // an entry came back unanswered while others are placed
	ticket  *command.Ticket // of the newest entry that was handed to the executor
	pause   pause
	answers []Answer  // not fetched yet
	room    [1]Answer // for the usual number of answers at a time
}

// New returns an empty lane.
func New(cfg *Config, kind Kind) Machine { return Machine{cfg: cfg, kind: kind} }

// Len returns how many commands are in the lane.
func (m *Machine) Len() int { return len(m.entries) }

// Forgettable reports whether the lane is in its initial state, so that the
// caller can drop it.
func (m *Machine) Forgettable() bool { return len(m.entries) == 0 && !m.pause.active() }

// Answers appends the answers since the last call to buf, in order.
func (m *Machine) Answers(buf []Answer) []Answer {
	buf = append(buf, m.answers...)
	clear(m.answers)
	m.answers = m.answers[:0]
	return buf
}

// Admit adds a command to the lane. It answers the command with a refusal if the
// sender could not know of an earlier one. For a peer's command that refusal is
// prior; for a session's, Admit derives it from the lane's pause and from the
// pause of all lanes, which lasts until pausedUntil. If the lane is full, the
// answer is busy.
func (m *Machine) Admit(e *Entry, prior *command.Failure, pausedUntil, now time.Time) {
	m.newest++
	e.order, e.searchUntil = m.newest, now.Add(m.cfg.Search)
	m.entries = append(m.entries, e)
	if m.kind == Own && (m.pause.active() || now.Before(pausedUntil)) {
		prior = m.priorRefusal(e.Command.Key, pausedUntil, now)
	}
	switch {
	case prior != nil:
		m.answer(e, command.Failed(prior), byPrior)
	case len(m.entries) > m.cfg.MaxEntries:
		m.answer(e, command.Failed(command.Busy("this session has %d unanswered commands for %v", m.cfg.MaxEntries, e.Command.Stream)), own)
	}
}

// Next returns the command to hand over next, or nil if all must wait. If only
// is not the zero Place, the command must go there, because the commands before
// it are there. Next answers commands whose deadline has passed.
//
// The caller hands the command over and calls Placed, or it calls Fail. If it
// does neither, the command waits.
func (m *Machine) Next(now time.Time) (e *Entry, only Place) {
	for !m.broken && m.placed < len(m.entries) {
		e := m.entries[m.placed]
		if !now.Before(e.Command.Deadline) {
			m.answer(e, command.Failed(late(e)), own)
			continue
		}
		if m.placed == 0 {
			return e, Place{}
		}
		only := m.entries[m.placed-1].at
		if only.Link == nil && m.ticket.Refused() {
			// The executor refuses the commands that it has. It would execute
			// this one, which would get the first ticket of a new series.
			return nil, Place{}
		}
		return e, only
	}
	return nil, Place{}
}

// Placed reports that the command returned by Next is handed over. A command for
// the executor gets its ticket here, so the caller submits it afterwards.
func (m *Machine) Placed(e *Entry, to Place) {
	e.at = to
	e.Handovers++
	m.placed++
	if to.Link != nil {
		return
	}
	if m.ticket == nil || m.ticket.Refused() {
		m.ticket = command.NewTicket()
	} else {
		m.ticket = m.ticket.Next()
	}
	e.Command.Ticket = m.ticket
}

// Returned reports that a command came back from its place: with an outcome if
// its fate is [link.Answered], else without one. If the command is not, or no
// longer, at that place, Returned does nothing and returns false.
func (m *Machine) Returned(e *Entry, from Place, fate link.Fate, out command.Outcome, now time.Time) bool {
	if e.at != from {
		return false
	}
	e.at = Place{}
	m.placed--
	f := out.Failure
	if from.Link == nil && WillRetry(f) {
		e.Command.Ticket.Refuse(refusalForFollowers(f))
	}
	switch {
	case e.answered:
		m.remove(e)
	case fate == link.Answered && (f == nil || !f.Elsewhere):
		m.answer(e, out, own)
	case e.refusal != nil:
		e.noteFate(fate, f)
		m.answer(e, command.Failed(e.refusal), own)
	default:
		m.requeue(e, from, fate, f, now)
	}
	if m.placed == 0 {
		m.broken = false
	}
	return true
}

// requeue makes a command that came back without an answer wait again. If this
// node's executor declined a peer's command, that is the answer: the peer
// finds another node.
func (m *Machine) requeue(e *Entry, from Place, fate link.Fate, declined *command.Failure, now time.Time) {
	e.noteFate(fate, declined)
	if fate != link.NotExecuted {
		e.Tried = append(e.Tried, from.Node)
		e.Declined = declined
		e.Command.Attempt++
	}
	m.broken = m.placed > 0
	if m.kind.fromPeer() && from.Link == nil {
		m.answer(e, command.Failed(declined), own)
		return
	}
	e.searchUntil = now.Add(m.cfg.Search)
}

// noteFate counts the nodes that may have executed a command. A node that sent
// it on and then lost its stream declines it with "same_key".
func (e *Entry) noteFate(fate link.Fate, declined *command.Failure) {
	if fate == link.Unknown || declined != nil && declined.Retry == command.RetrySameKey {
		e.Unknown++
	}
}

// Expire reports that a command's time is up: its deadline has passed, or it has
// waited as long as it may for a candidate. unreachable is its answer if it is
// still waiting for one.
func (m *Machine) Expire(e *Entry, unreachable *command.Failure, now time.Time) {
	past := !now.Before(e.Command.Deadline)
	switch searching := e.at == (Place{}) && m.placed == 0; {
	case searching && (past || e.SearchExpired(now)):
		m.answer(e, command.Failed(unreachable), own)
	case past:
		m.answer(e, command.Failed(late(e)), own)
	}
}

// Fail answers a command that could not be handed over.
func (m *Machine) Fail(e *Entry, f *command.Failure) { m.answer(e, command.Failed(f), own) }

// late is the failure of a command whose deadline has passed.
func late(e *Entry) *command.Failure {
	if e.at == (Place{}) && e.Unknown == 0 {
		return command.Expired()
	}
	return command.Timeout(command.RetrySameKey, "no answer in time: send the command again with its key to find out whether it was executed")
}

// cause is why a command is answered.
type cause uint8

const (
	own       cause = iota // an event of this command
	byEarlier              // the refusal of an earlier command of the lane
	byPrior                // a refusal from before this command was admitted
)

// answer answers a command that has no answer yet. If the command will be sent
// again, the commands after it are refused.
func (m *Machine) answer(e *Entry, out command.Outcome, why cause) {
	if e.answered {
		return
	}
	e.answered = true
	a := Answer{Entry: e, Outcome: out}
	if f := out.Failure; f != nil {
		final := m.final(e, f)
		a.Outcome.Failure = final
		if WillRetry(f) && (m.kind == Own || m.kind == Peer) {
			a.Refusal = refusalForFollowers(f)
			a.Refusal.After = final.After
		}
	}
	if a.Refusal != nil && m.kind == Own && why != byPrior {
		a.Notify = true
		m.pause.begin(e, a.Refusal)
	}
	if m.answers == nil {
		m.answers = m.room[:0]
	}
	m.answers = append(m.answers, a)
	if a.Refusal != nil && why == own {
		m.refuseAfter(e, a.Refusal)
	}
	if e.at == (Place{}) {
		m.remove(e)
	}
}

// final returns a failure in the form that the sender of the command gets.
func (m *Machine) final(e *Entry, f *command.Failure) *command.Failure {
	g := *f
	if g.Key == "" {
		g.Key = e.Command.Key
	}
	if e.Unknown > 0 && g.Retry == command.RetryLater {
		g.Retry = command.RetrySameKey
	}
	if !m.kind.fromPeer() {
		g.Elsewhere = false
	}
	if WillRetry(f) && g.After == 0 && !g.Elsewhere {
		g.After = m.cfg.Pause
	}
	return &g
}

// refuseAfter refuses the commands after e. Waiting commands are answered here.
// Placed commands are answered by their place; if one comes back without an
// answer, it is refused then and not sent again.
func (m *Machine) refuseAfter(e *Entry, f *command.Failure) {
	for _, later := range slices.Clone(m.entries) {
		switch {
		case later.order <= e.order || later.answered:
		case later.at == (Place{}):
			m.answer(later, command.Failed(f), byEarlier)
		default:
			later.refusal = f
		}
	}
}

// remove takes an answered command out of the lane.
func (m *Machine) remove(e *Entry) {
	switch i := slices.Index(m.entries, e); i {
	case -1:
	case 0:
		m.entries[0] = nil
		m.entries = m.entries[1:]
	default:
		m.entries = slices.Delete(m.entries, i, i+1)
	}
}
