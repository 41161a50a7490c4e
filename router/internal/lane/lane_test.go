package lane

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/link"
)

var testConfig = &Config{MaxEntries: 4, Search: 2 * time.Second, Pause: 250 * time.Millisecond}

// places are the executor of this node and the links to two others.
var places = map[string]Place{"here": {Node: "a"}, "b": {Node: "b", Link: new(link.Link)}, "c": {Node: "c", Link: new(link.Link)}}

// results are what can be known of a command that comes back.
var results = map[string]struct {
	fate link.Fate
	out  command.Outcome
}{
	"ok":          {link.Answered, command.Outcome{Result: command.Result{Version: 1}}},
	"rejected":    {link.Answered, command.Failed(command.Rejected("too_low", "bid more"))},
	"busy":        {link.Answered, command.Failed(command.Busy("full"))},
	"unavailable": {link.Answered, command.Failed(command.Unavailable("away"))},
	"lost":        {link.Answered, command.Failed(&command.Failure{Code: command.CodeUnavailable, Retry: command.RetrySameKey})},
	"declined":    {link.Answered, command.Failed(command.Unavailable("not here").OnOtherNodes())},
	"unknown":     {link.Unknown, command.Outcome{}},
	"unsent":      {link.NotExecuted, command.Outcome{}},
}

// script plays events against a lane. A line is an event with its arguments and
// then, after an arrow, what must follow: the answers, or what Next or a ticket
// says.
//
//	admit N            command N, with a deadline in 5 s
//	next               → N, N at PLACE, or none
//	place N PLACE      N was handed over
//	return N PLACE HOW N came back, with a result of the table above
//	expire N           N's timer fired
//	ticket N           → refused or valid
//	notified           the client has a refusal; it pauses the lane for 250 ms
//	resume             → what is left of the pause
//	wait D             time passes
//
// An answer is N:ok, or N:code/retry, with a + if the client must be notified.
type script struct {
	t       *testing.T
	m       Machine
	now     time.Time
	entries map[string]*Entry
}

func (s *script) play(line string) {
	s.t.Helper()
	event, want, _ := strings.Cut(line, " → ")
	words := strings.Fields(event)
	var e *Entry
	if len(words) > 1 {
		e = s.entries[words[1]]
	}
	got := ""
	switch words[0] {
	case "admit":
		e = &Entry{Command: command.Command{Key: words[1], Deadline: s.now.Add(5 * time.Second), Attempt: 1}}
		s.entries[words[1]] = e
		s.m.Admit(e, nil, time.Time{}, s.now)
	case "next":
		got = "none"
		if e, only := s.m.Next(s.now); e != nil {
			got = e.Command.Key
			for name, p := range places {
				if p == only {
					got += " at " + name
				}
			}
		}
	case "place":
		s.m.Placed(e, places[words[2]])
	case "return":
		how := results[words[3]]
		if !s.m.Returned(e, places[words[2]], how.fate, how.out, s.now) {
			got = "ignored"
		}
	case "expire":
		s.m.Expire(e, command.Unavailable("no node"), s.now)
	case "ticket":
		got = "valid"
		if e.Command.Ticket.Refusal() != nil {
			got = "refused"
		}
	case "notified":
		s.m.Notified()
		s.m.PauseUntil(s.now.Add(testConfig.Pause))
	case "resume":
		got = s.m.Resume(s.now).String()
	case "wait":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.now = s.now.Add(d)
	default:
		s.t.Fatalf("unknown event %q", line)
	}
	for _, a := range s.m.Answers(nil) {
		got += " " + describe(a)
	}
	if got = strings.TrimSpace(got); got != want {
		s.t.Errorf("%s: got %q, want %q", event, got, want)
	}
}

func describe(a Answer) string {
	text := a.Entry.Command.Key + ":ok"
	if f := a.Outcome.Failure; f != nil {
		text = fmt.Sprintf("%s:%s/%s", a.Entry.Command.Key, f.Code, f.Retry)
	}
	if a.Notify {
		text += "+"
	}
	return text
}

func TestMachineFollowsItsStates(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		kind  Kind
		lines string
	}{
		"commands are pipelined to one place": {Own, `
			admit 1
			admit 2
			next → 1
			place 1 b
			next → 2 at b
			place 2 b
			return 1 b ok → 1:ok
			return 2 b rejected → 2:rejected/no
			next → none`},
		"a full lane is busy": {Own, `
			admit 1
			admit 2
			admit 3
			admit 4
			admit 5 → 5:busy/later+`},
		"a broken stream sends its commands again in order, once all are back": {Own, `
			admit 1
			admit 2
			admit 3
			next → 1
			place 1 b
			next → 2 at b
			place 2 b
			return 1 b unknown
			next → none
			return 2 b unsent
			next → 1
			place 1 c
			next → 2 at c
			place 2 c
			next → 3 at c`},
		"two nodes leave the fate unknown": {Own, `
			admit 1
			next → 1
			place 1 b
			return 1 b unknown
			place 1 c
			return 1 c busy → 1:busy/same_key+`},
		"a refusal reaches the commands that wait": {Own, `
			admit 1
			admit 2
			next → 1
			place 1 here
			return 1 here busy → 1:busy/later+ 2:busy/later+`},
		"a refusal reaches the commands at the executor by ticket": {Own, `
			admit 1
			admit 2
			admit 3
			next → 1
			place 1 here
			next → 2 at here
			place 2 here
			next → 3 at here
			place 3 here
			return 2 here unavailable → 2:unavailable/later+
			ticket 1 → valid
			ticket 3 → refused
			return 3 here busy → 3:busy/later+
			return 1 here ok → 1:ok`},
		"nothing follows to an executor that refused": {Own, `
			admit 1
			admit 2
			next → 1
			place 1 here
			next → 2 at here
			place 2 here
			return 2 here busy → 2:busy/later+
			admit 3 → 3:busy/later
			admit 2
			next → none
			return 1 here ok → 1:ok
			next → 2`},
		"a command behind a refused one is not sent again": {Own, `
			admit 1
			admit 2
			next → 1
			place 1 b
			next → 2 at b
			place 2 b
			return 1 b busy → 1:busy/later+
			return 2 b unknown → 2:busy/same_key+`},
		"a declined command goes to another node": {Own, `
			admit 1
			next → 1
			place 1 here
			return 1 here declined
			return 1 here ok → ignored
			next → 1
			place 1 b
			return 1 here ok → ignored
			return 1 b ok → 1:ok
			return 1 b ok → ignored`},
		"a peer finds another node itself": {Peer, `
			admit 1
			admit 2
			next → 1
			place 1 here
			return 1 here declined → 1:unavailable/later 2:unavailable/later`},
		"a node that lost sight of a command leaves it unknown": {Own, `
			admit 1
			next → 1
			place 1 b
			return 1 b lost → 1:unavailable/same_key+`},
		"a placed command keeps its place after its deadline": {Own, `
			admit 1
			admit 2
			next → 1
			place 1 b
			wait 5s
			expire 1 → 1:timeout/same_key+ 2:busy/later+
			next → none
			return 1 b ok
			next → none`},
		"a command without a candidate is unreachable after the search": {Own, `
			admit 1
			next → 1
			wait 1s
			expire 1
			wait 1s
			expire 1 → 1:unavailable/later+`},
		"an abandoned command is not answered again": {Own, `
			admit 1
			next → 1
			place 1 b
			wait 5s
			expire 1 → 1:timeout/same_key+
			expire 1
			return 1 b busy
			next → none`},
		"the search begins again when a command comes back": {Own, `
			admit 1
			next → 1
			place 1 b
			wait 1s
			return 1 b unsent
			wait 1500ms
			expire 1
			wait 500ms
			expire 1 → 1:unavailable/later+`},
		"a command that waited for its turn expires unexecuted": {Own, `
			admit 1
			next → 1
			place 1 b
			wait 1s
			admit 2
			wait 4900ms
			admit 3
			wait 200ms
			expire 2 → 2:timeout/later+ 3:busy/later+`},
		"a paused lane admits only the earliest refused command": {Own, `
			admit 1
			next → 1
			place 1 b
			admit 2
			next → 2 at b
			place 2 b
			admit 3
			expire 3
			return 2 b busy → 2:busy/later+ 3:busy/later+
			return 1 b busy → 1:busy/later+
			admit 2 → 2:busy/later
			notified
			notified
			notified
			wait 200ms
			admit 4 → 4:busy/later
			admit 1
			resume → 50ms
			wait 50ms
			resume → 0s
			admit 5
			next → 1`},
		"a command without a session pauses nothing": {Single, `
			admit 1
			next → 1
			place 1 b
			return 1 b busy → 1:busy/later`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &script{t: t, m: New(testConfig, test.kind), now: time.Unix(0, 0), entries: make(map[string]*Entry)}
			for line := range strings.Lines(test.lines) {
				if line = strings.TrimSpace(line); line != "" {
					s.play(line)
				}
			}
		})
	}
}

func TestRefusalsTellHowLongToWait(t *testing.T) {
	t.Parallel()
	m, now := New(testConfig, Own), time.Unix(0, 0)
	var entries [3]Entry
	for i := range entries[:2] {
		entries[i].Command = command.Command{Key: strconv.Itoa(i), Deadline: now.Add(time.Second)}
		m.Admit(&entries[i], nil, time.Time{}, now)
	}
	m.Fail(&entries[0], command.Unavailable("away"))
	for _, a := range m.Answers(nil) {
		if f := a.Outcome.Failure; f.After != testConfig.Pause || f.Key != a.Entry.Command.Key {
			t.Errorf("command %s: wait %v, key %q", a.Entry.Command.Key, f.After, f.Key)
		}
		m.Notified()
	}
	m.PauseUntil(now.Add(time.Second))
	if f := m.priorRefusal("new", time.Time{}, now.Add(300*time.Millisecond)); f == nil || f.After != 700*time.Millisecond {
		t.Errorf("300 ms into a pause of 1 s: %+v", f)
	}
	if f := m.priorRefusal("0", time.Time{}, now); f != nil {
		t.Errorf("the refused command itself: %v", f)
	}
	later := now.Add(2 * time.Second)
	m.Resume(later)
	if !m.Forgettable() {
		t.Error("a lane without commands and without a pause is not forgettable")
	}
	if f := m.priorRefusal("new", later.Add(time.Second), later); f == nil || f.After != time.Second {
		t.Errorf("while all lanes are paused: %+v", f)
	}
}
