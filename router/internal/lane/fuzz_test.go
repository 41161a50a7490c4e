package lane

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/link"
)

// FuzzMachine plays random events against a lane whose commands go to an
// executor and to two links, and checks after each:
//
//   - a command has at most one answer, and exactly one in the end;
//   - a command that is answered "later" is never executed;
//   - the commands that are placed at the same time are at one place, unless
//     the lane is broken, and were placed in order;
//   - a command is executed only after all earlier ones were executed or
//     answered, and, if an earlier one will be sent again, only if its sender
//     knew that answer;
//   - the lane never holds more than its bound, and in the end nothing.
func FuzzMachine(f *testing.F) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		script := make([]byte, 400)
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		f.Add(seed%2 == 0, script)
	}
	f.Fuzz(func(t *testing.T, fromPeer bool, script []byte) {
		w := newWorld(t, fromPeer)
		for ; len(script) > 1; script = script[2:] {
			w.event(script[0], int(script[1]))
			w.check()
		}
		w.finish()
	})
}

// sent is a command as its sender and the nodes see it.
type sent struct {
	Entry
	number   int // in the order of admission
	known    int // answers that the sender knew when it sent the command
	seen     int // replies of the link that were acted on when it was placed
	decided  bool
	answer   *Answer
	answerNo int
}

// far is the other end of a link, or the executor.
type far struct {
	place   Place
	queue   []*sent // placed, not executed
	replies []reply // not delivered
	count   int     // of replies
	acted   int     // replies delivered
	refused int     // the newest reply that refused a command
}

type reply struct {
	to  *sent
	out command.Outcome
}

type fuzzWorld struct {
	t       *testing.T
	m       Machine
	now     time.Time
	all     []*sent
	far     [3]*far
	answers int
	refused int // the newest answer that refused commands, and its refusal
	refusal *command.Failure
	known   int // answers that a peer has acted on
	notices []time.Duration
	decided map[string]bool // by key: the store keeps the first outcome of a key
}

func newWorld(t *testing.T, fromPeer bool) *fuzzWorld {
	kind := Own
	if fromPeer {
		kind = Peer
	}
	w := &fuzzWorld{t: t, m: New(testConfig, kind), now: time.Unix(0, 0), decided: make(map[string]bool)}
	for i, name := range []string{"here", "b", "c"} {
		w.far[i] = &far{place: places[name]}
	}
	return w
}

func (w *fuzzWorld) event(what byte, arg int) {
	at := w.far[arg%len(w.far)]
	switch what % 11 {
	case 0, 9, 10:
		w.admit(arg)
	case 1:
		w.handOver(arg)
	case 2:
		if len(at.queue) > 0 {
			w.execute(at, arg/len(w.far))
		}
	case 3:
		w.deliver(at)
	case 4:
		w.breakLink(at, arg/len(w.far)%2 == 0)
	case 5:
		w.now = w.now.Add(time.Duration(arg) * 10 * time.Millisecond)
	case 6:
		if len(w.all) > 0 {
			w.m.Expire(&w.all[arg%len(w.all)].Entry, command.Unavailable("no node"), w.now)
		}
	case 7:
		if len(w.notices) > 0 {
			w.m.Notified()
			w.m.PauseUntil(w.now.Add(w.notices[0]))
			w.notices = w.notices[1:]
		}
	case 8:
		if w.m.Paused() {
			w.m.Resume(w.now)
		}
	}
}

// admit sends a new command, or an earlier one again.
func (w *fuzzWorld) admit(arg int) {
	e := &sent{number: len(w.all)}
	e.Command = command.Command{Key: strconv.Itoa(e.number), Deadline: w.now.Add(time.Duration(arg%8+1) * time.Second), Attempt: 1}
	e.Call = e
	var prior *command.Failure
	if w.m.kind == Peer {
		w.known = max(w.known, w.answers-arg/8%4)
		if w.known < w.refused {
			prior = w.refusal
		}
		e.known = w.known
	} else {
		if w.m.pause.active() && arg%2 == 0 {
			e.Command.Key = w.m.pause.first
		}
		e.known = w.answers
	}
	w.all = append(w.all, e)
	w.m.Admit(&e.Entry, prior, time.Time{}, w.now)
}

func (w *fuzzWorld) handOver(arg int) {
	e, only := w.m.Next(w.now)
	if e == nil {
		return
	}
	s := e.Call.(*sent)
	for i := range w.far {
		at := w.far[(arg+i)%len(w.far)]
		if only != (Place{}) && at.place != only || slices.Contains(e.Tried, at.place.Node) {
			continue
		}
		s.seen = at.acted
		at.queue = append(at.queue, s)
		w.m.Placed(e, at.place)
		return
	}
	if only == (Place{}) {
		w.m.Fail(e, command.Unavailable("no candidate"))
	}
}

// execute takes the first command at a place and executes or refuses it.
func (w *fuzzWorld) execute(at *far, how int) {
	e := at.queue[0]
	at.queue = at.queue[1:]
	out := results[[]string{"ok", "ok", "rejected", "busy", "unavailable", "lost", "declined"}[how%7]].out
	switch uninformed := command.Busy("an earlier command was refused"); {
	case at.place.Link == nil && e.Command.Ticket.Refusal() != nil:
		out = command.Failed(e.Command.Ticket.Refusal())
	case at.place.Link != nil && e.seen < at.refused:
		out = command.Failed(uninformed)
	case !WillRetry(out.Failure):
		w.decide(e)
	}
	at.count++
	if WillRetry(out.Failure) {
		at.refused = at.count
	}
	at.replies = append(at.replies, reply{e, out})
	if at.place.Link == nil {
		w.deliver(at)
	}
}

// decide executes a command or rejects it, and checks that this is allowed.
func (w *fuzzWorld) decide(e *sent) {
	first := !w.decided[e.Command.Key]
	w.decided[e.Command.Key], e.decided = true, true
	if !first {
		return
	}
	if e.answer != nil && e.answer.Outcome.Failure != nil && e.answer.Outcome.Failure.Retry == command.RetryLater {
		w.t.Errorf("command %d is executed after the answer %v", e.number, e.answer.Outcome.Failure)
	}
	for _, d := range w.all[:e.number] {
		switch {
		case w.decided[d.Command.Key]:
		case d.answer == nil:
			w.t.Errorf("command %d is executed before %d, which has no answer", e.number, d.number)
		case WillRetry(d.answer.Outcome.Failure) && d.answerNo > e.known:
			w.t.Errorf("command %d is executed although its sender did not know that %d must come first", e.number, d.number)
		}
	}
}

func (w *fuzzWorld) deliver(at *far) {
	if len(at.replies) == 0 {
		return
	}
	r := at.replies[0]
	at.replies = at.replies[1:]
	w.m.Returned(&r.to.Entry, at.place, link.Answered, r.out, w.now)
	at.acted++
}

// breakLink ends a link's stream. If it ends cleanly, its replies still arrive.
func (w *fuzzWorld) breakLink(at *far, cleanly bool) {
	if at.place.Link == nil {
		return
	}
	fate := link.Unknown
	if cleanly {
		fate = link.NotExecuted
		for len(at.replies) > 0 {
			w.deliver(at)
		}
	}
	var back []*sent
	for _, r := range at.replies {
		back = append(back, r.to)
	}
	back = append(back, at.queue...)
	*at = far{place: at.place}
	for _, e := range back {
		w.m.Returned(&e.Entry, at.place, fate, command.Outcome{}, w.now)
	}
}

func (w *fuzzWorld) check() {
	for _, a := range w.m.Answers(nil) {
		e := a.Entry.Call.(*sent)
		w.answers++
		if e.answer != nil {
			w.t.Fatalf("command %d is answered again: %+v", e.number, a.Outcome)
		}
		e.answer, e.answerNo = &a, w.answers
		if f := a.Outcome.Failure; f != nil && f.Retry == command.RetryLater && e.decided {
			w.t.Errorf("command %d was executed and is answered %v", e.number, f)
		}
		if a.Refusal != nil {
			w.refused, w.refusal = w.answers, a.Refusal
		}
		if a.Notify {
			w.notices = append(w.notices, a.Outcome.Failure.After)
		}
	}
	placed, busy := 0, 0
	for i, e := range w.m.entries {
		if e.at == (Place{}) {
			continue
		}
		if placed++; !w.m.broken && i >= w.m.placed {
			w.t.Errorf("command %s is placed, and an earlier one waits", e.Command.Key)
		}
	}
	for _, at := range w.far {
		if len(at.queue)+len(at.replies) > 0 {
			busy++
		}
		if !slices.IsSortedFunc(at.queue, func(a, b *sent) int { return a.number - b.number }) {
			w.t.Error("commands are placed out of order")
		}
	}
	if placed != w.m.placed || busy > 1 || len(w.m.entries) > w.m.cfg.MaxEntries {
		w.t.Errorf("%d commands are placed (%d are counted) at %d places; the lane holds %d", placed, w.m.placed, busy, len(w.m.entries))
	}
}

// finish brings everything back, and lets all time pass.
func (w *fuzzWorld) finish() {
	for _, at := range w.far {
		for len(at.queue) > 0 && at.place.Link == nil {
			w.execute(at, 0)
			w.check()
		}
		w.breakLink(at, false)
		w.check()
	}
	w.now = w.now.Add(time.Hour)
	for _, e := range w.all {
		w.m.Expire(&e.Entry, command.Unavailable("no node"), w.now)
		w.check()
	}
	for range w.notices {
		w.m.Notified()
		w.m.PauseUntil(w.now)
	}
	if w.m.Paused() {
		w.m.Resume(w.now)
	}
	for _, e := range w.all {
		if e.answer == nil {
			w.t.Errorf("command %d has no answer", e.number)
		}
	}
	if w.m.Len() > 0 || w.m.Paused() || w.m.pause.active() || !w.m.Forgettable() {
		w.t.Errorf("the lane keeps %d commands, pause %+v", w.m.Len(), w.m.pause)
	}
}
