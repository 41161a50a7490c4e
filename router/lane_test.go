package router

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// numbered pipelines the commands from … to-1 on one lane, and returns the
// channels of their answers.
func (n *node) numbered(s eventstore.StreamID, session string, from, to int) []<-chan command.Outcome {
	var answers []<-chan command.Outcome
	for i := from; i < to; i++ {
		answers = append(answers, n.send(command.Command{
			Stream: s, Session: session, Data: json.RawMessage(strconv.Itoa(i)), Deadline: time.Now().Add(time.Minute),
		}))
	}
	return answers
}

func (w *world) mustBeInOrder(s eventstore.StreamID, n int) {
	w.t.Helper()
	got := w.journal.of(s)
	for i, e := range got {
		if e.data != strconv.Itoa(i) {
			w.t.Fatalf("command %s was executed as number %d of %d", e.data, i, len(got))
		}
	}
	if len(got) != n {
		w.t.Fatalf("%d commands executed, want %d", len(got), n)
	}
}

func TestPipelinedCommandsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	const before, n = 100, 200
	for _, from := range []string{"g", "a", "b"} {
		for _, fault := range []string{"none", "cut", "kill", "freeze", "new view", "drain", "decline"} {
			if from == "a" && fault == "kill" {
				continue // the sender would die
			}
			t.Run(fault+" from "+from, func(t *testing.T) {
				t.Parallel()
				var opts []option
				if fault == "freeze" {
					opts = append(opts, suspicious)
				}
				w := newWorld(t, []string{"a", "b", "c", "g"}, opts...)
				s := w.streamOf("a", "b", "a", "b", "c")
				a, sender := w.nodes["a"], w.nodes[from]
				hold := make(chan struct{})
				a.executor.set(func(e *executor) { e.hold = hold })
				answers := sender.numbered(s, "1", 0, before)
				a.executor.waitSubmitted(t, before/2) // the others are in transit
				switch fault {
				case "cut":
					a.proxy.cut()
				case "kill":
					a.stop()
				case "freeze":
					a.proxy.freeze()
				case "new view":
					w.setReady("b", "c", "g")
				case "decline": // as a node that is too old to know an event
					w.setSight("b", "b", "c")
					a.executor.set(func(e *executor) {
						e.instead = func(command.Command) *command.Failure { return command.Unavailable("unknown event").OnOtherNodes() }
					})
				case "drain":
					drained := make(chan error, 1)
					go func() { drained <- a.router.Drain(t.Context()) }()
					defer func() {
						if err := <-drained; err != nil {
							t.Error(err)
						}
					}()
				}
				answers = append(answers, sender.numbered(s, "1", before, n)...)
				if fault != "freeze" || from == "a" {
					close(hold)
				}
				for _, answer := range answers {
					mustSucceed(t, <-answer)
				}
				if fault == "freeze" && from != "a" {
					close(hold)
					a.proxy.unfreeze()
				}
				w.mustBeInOrder(s, n)
			})
		}
	}
}

func TestReceiverHandsOnLaterCommandsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")
	w.setSight("g", "b", "c", "g") // g sends to b, b hands on to a
	a, b := w.nodes["a"], w.nodes["b"]
	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	answers := w.nodes["g"].numbered(s, "1", 0, 20)
	a.executor.waitSubmitted(t, 20)

	// b becomes the owner in its own view. Later commands must not overtake.
	w.setSight("b", "b", "c")
	answers = append(answers, w.nodes["g"].numbered(s, "1", 20, 40)...)
	a.executor.waitSubmitted(t, 20)
	if n := b.router.Stats().ExecutedForOthers; n != 0 {
		t.Errorf("b executed %d commands that follow unanswered ones at a", n)
	}
	close(hold)
	for _, answer := range answers {
		mustSucceed(t, <-answer)
	}
	w.mustBeInOrder(s, 40)
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s, Session: "1"}))
	if e := w.journal.of(s)[40]; e.node != "b" {
		t.Errorf("executed as %+v; want b, now that nothing of the lane is at a", e)
	}
}

// A lane whose only command waited in vain for a candidate is forgotten, and the
// session's next command opens another lane. When a candidate then appeared, the
// router once looked at the forgotten lane and dropped the one in use.
func TestForgottenLaneDoesNotDropItsSuccessor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.BusyPause = time.Millisecond })
	s := w.streamOf("b", "a", "a", "b") // owned by b, or by a if it is alone
	a, b, g := w.nodes["a"], w.nodes["b"], w.nodes["g"]
	w.setReady("g")
	g.waitFor("a ring without members", func() bool { return len(g.router.Ring().Members()) == 0 })
	if out := g.do(command.Command{Stream: s, Session: "1", Deadline: time.Now().Add(50 * time.Millisecond)}); out.Failure == nil {
		t.Fatalf("without a domain node a command was answered %+v", out.Result)
	}
	g.waitForgotten(t)

	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	first := g.numbered(s, "1", 0, 1)[0] // waits for a candidate
	w.setReady("a", "g")
	a.executor.waitSubmitted(t, 1)
	w.setReady("a", "b", "g")
	for _, n := range []*node{b, g} {
		n.waitFor("b to own the stream", func() bool { owner, _ := n.router.Ring().Owner(s); return owner == "b" && (n == b || usable(n, "b")) })
	}
	second := g.numbered(s, "1", 1, 2)[0]
	mustSucceed(t, g.do(command.Command{Stream: s, Data: json.RawMessage(`"of no lane"`)})) // b gets it after all that was sent to b before
	if got := w.journal.of(s); len(got) != 1 {
		t.Errorf("executed, while the lane's first command was not: %+v", got)
	}
	close(hold)
	mustSucceed(t, <-first)
	mustSucceed(t, <-second)
	var got []string
	for _, e := range w.journal.of(s) {
		if e.session == "1" {
			got = append(got, e.data)
		}
	}
	if !slices.Equal(got, []string{"0", "1"}) {
		t.Errorf("the session's commands were executed in the order %v", got)
	}
}

func (scripted) Get(context.Context, command.Get) (command.State, error) { return command.State{}, nil }

func TestRequestReadAfterStreamEndedIsNotBegun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"})
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.router.mu.Lock()
	var in *inbound
	for in = range a.router.peers { // of g
		break
	}
	a.router.mu.Unlock()
	in.end()
	in.handle(request(1, s, "late", 0))
	if got := w.journal.of(s); a.executor.submitted() != 0 {
		t.Errorf("the executor got a command that was read after its stream ended: %+v", got)
	}
}

func TestBoundsAreAnsweredWithBusy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		option   option
		sessions int
	}{
		"a lane":   {func(c *Config) { c.MaxLane = 8 }, 1},
		"a router": {func(c *Config) { c.MaxUnanswered = 8 }, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a"}, c.option)
			s := w.streamOf("a", "", "a")
			a := w.nodes["a"]
			hold := make(chan struct{})
			a.executor.set(func(e *executor) { e.hold = hold })
			var answers []<-chan command.Outcome
			for i := range 16 {
				answers = append(answers, a.send(command.Command{Stream: s, Session: fmt.Sprint(i % c.sessions)}))
			}
			for _, answer := range answers[8:] {
				mustFail(t, <-answer, command.CodeBusy, command.RetryLater)
			}
			close(hold)
			for _, answer := range answers[:8] {
				mustSucceed(t, <-answer)
			}
			if st := a.router.Stats(); st.Unanswered != 0 || st.Busy != 8 {
				t.Errorf("counters: %+v", st)
			}
		})
	}
}

func TestAnsweredLanesAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"}, func(c *Config) { c.BusyPause = time.Millisecond })
	a, g := w.nodes["a"], w.nodes["g"]
	a.executor.set(func(e *executor) {
		e.refuse = func(c command.Command) *command.Failure {
			if string(c.Data) == "0" {
				return command.Busy("full")
			}
			return nil
		}
	})
	var all []<-chan command.Outcome
	for i := range 200 {
		all = append(all, g.numbered(eventstore.StreamID{Type: "counter", ID: fmt.Sprint(i)}, "1", i%2, 3)...)
	}
	for _, answer := range all {
		<-answer
	}
	a.waitForgotten(t)
	g.waitForgotten(t)
}

// waitForgotten waits until the node remembers no lane and no refusal: for the
// end of pauses, and for the heartbeats with the replies that peers acted on.
func (n *node) waitForgotten(t *testing.T) {
	t.Helper()
	for {
		kept := 0
		for i := range n.router.shards {
			s := &n.router.shards[i]
			s.mu.Lock()
			kept += len(s.lanes) + len(s.waiting) + s.paused
			s.mu.Unlock()
		}
		if kept == 0 {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("%d lanes are kept", kept)
		}
	}
}
