package router

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

func TestACommandIsExecutedByItsOwner(t *testing.T) {
	t.Parallel()
	ids := []string{"a", "b", "c", "g"}
	w := newWorld(t, ids)
	for _, owner := range ids[:3] {
		s := w.streamOf(owner, "", "a", "b", "c")
		for _, from := range ids {
			mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: from}))
		}
		for _, e := range w.journal.of(s) {
			if e.node != owner || e.attempt != 1 || e.key == "" {
				t.Errorf("%v, owned by %s: executed as %+v", s, owner, e)
			}
		}
		if n := len(w.journal.of(s)); n != len(ids) {
			t.Errorf("%v: %d commands executed, want %d", s, n, len(ids))
		}
	}
	a, g := w.nodes["a"].router.Stats(), w.nodes["g"].router.Stats()
	if a.Local != 1 || a.Forwarded != 2 || a.ExecutedForOthers != 3 || g.Local != 0 || g.Forwarded != 3 {
		t.Errorf("counters of a: %+v\nof g: %+v", a, g)
	}
}

func TestAReceiverThatIsNotTheOwnerHandsTheCommandOnOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")

	w.setSight("g", "b", "c", "g") // for g, the owner is b
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	if e := w.journal.of(s)[0]; e.node != "a" || e.attempt != 1 {
		t.Errorf("executed as %+v; want it handed on to a, the owner that b sees", e)
	}
	if n := w.nodes["b"].router.Stats().HandedOn; n != 1 {
		t.Errorf("b handed on %d commands, want 1", n)
	}

	// a sees b as the owner: what was handed on once is executed all the same.
	w.setSight("a", "b", "c")
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	if e := w.journal.of(s)[1]; e.node != "a" {
		t.Errorf("executed as %+v; want it executed where it was handed to", e)
	}
}

func TestAReceiverThatCannotReachTheOwnerExecutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")
	w.nodes["a"].stop()
	w.nodes["b"].waitFor("a to be gone", func() bool { return !usable(w.nodes["b"], "a") })
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	if e := w.journal.of(s)[0]; e.node != "b" {
		t.Errorf("executed as %+v; want b, the next candidate", e)
	}
}

func usable(n *node, peer string) bool {
	return slices.ContainsFunc(n.router.Links(), func(s LinkStatus) bool { return s.Node == peer && s.Up && !s.Draining })
}

func TestACommandOnABrokenLinkIsExecutedOnceByTheNextCandidate(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"the stream breaks", "the owner dies", "the owner is frozen"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "c", "g"}, suspicious)
			s := w.streamOf("a", "b", "a", "b", "c")
			a := w.nodes["a"]
			hold := make(chan struct{})
			a.executor.set(func(e *executor) { e.hold = hold })
			answer := w.nodes["g"].send(command.Command{Stream: s, Session: "1", Key: "k", Deadline: time.Now().Add(time.Minute)})
			a.executor.waitSubmitted(t, 1)

			switch fault {
			case "the stream breaks":
				a.proxy.cut()
				close(hold) // the first copy races with the second
			case "the owner dies":
				a.stop()
			case "the owner is frozen":
				a.proxy.freeze()
			}
			res := mustSucceed(t, <-answer)
			if fault == "the owner is frozen" {
				close(hold) // it wakes up, and has its copy still
				a.proxy.unfreeze()
				mustSucceed(t, a.do(command.Command{Stream: s}))
			}
			if res.Key != "k" {
				t.Errorf("answered with key %q, want k", res.Key)
			}
			n := 0
			for _, e := range w.journal.of(s) {
				if e.key == "k" {
					n++
				}
			}
			if n != 1 {
				t.Errorf("executed %d times: %+v", n, w.journal.of(s))
			}
			if st := w.nodes["g"].router.Stats(); st.Unknown == 0 || st.Retried == 0 {
				t.Errorf("counters: %+v; want something unknown, and retried", st)
			}
		})
	}
}

// Nobody has seen yet that two nodes are gone, and they are the first two in
// the order of succession.
func TestACommandFindsItsWayPastTwoDeadNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "d", "g"})
	all := ring.New([]string{"a", "b", "c", "d"})
	s := w.streamOf("a", "b", "a", "b", "c", "d")
	third, _ := all.Without("a").Without("b").Owner(s)
	g := w.nodes["g"]
	for _, id := range []string{"a", "b"} {
		w.nodes[id].stop()
		for _, n := range []*node{g, w.nodes[third]} {
			n.waitFor("it to be gone", func() bool { return !usable(n, id) })
		}
	}
	mustSucceed(t, g.do(command.Command{Stream: s, Session: "1"}))
	if e := w.journal.of(s)[0]; e.node != third || e.attempt != 1 {
		t.Errorf("executed as %+v; want %s, at the first attempt", e, third)
	}
	if state, err := g.router.Get(t.Context(), command.Get{Stream: s}); err != nil || state.Version != 1 {
		t.Errorf("the state: %+v, %v", state, err)
	}
}

func TestALinkThatWasSilentIsProbedWithOneCommand(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone %v", alone), func(t *testing.T) {
			t.Parallel()
			ids := []string{"a", "b", "g"}
			if alone {
				ids = []string{"a", "g"}
			}
			w := newWorld(t, ids, func(c *Config) { c.Suspect = 1500 * time.Millisecond })
			s := w.streamOf("a", "", ids[:len(ids)-1]...)
			a, g := w.nodes["a"], w.nodes["g"]
			a.proxy.freeze()
			g.waitFor("a to be suspected", func() bool { return !usable(g, "a") })
			hold := make(chan struct{})
			a.executor.set(func(e *executor) { e.hold = hold })
			if !alone {
				w.setSight("b", "b") // it hands nothing on
			}
			a.proxy.unfreeze()
			g.waitFor("a to be back", func() bool { return usable(g, "a") })

			var answers []<-chan command.Outcome
			for i := range 20 {
				answers = append(answers, g.send(command.Command{Stream: s, Session: fmt.Sprint(i)}))
			}
			if alone { // there is nobody else to ask
				a.executor.waitSubmitted(t, 20)
			} else {
				for _, answer := range answers[1:] {
					mustSucceed(t, <-answer)
				}
				if n := w.nodes["b"].executor.submitted(); n != 19 {
					t.Errorf("b was given %d commands, want all but the one that proves a", n)
				}
				if l := linkTo(g, "a"); !l.Doubted {
					t.Errorf("while the first command is unanswered, the link is %+v", l)
				}
				if g.router.Stats().Silences == 0 {
					t.Error("the silence is not counted")
				}
			}
			close(hold)
			for _, answer := range answers[:1] {
				mustSucceed(t, <-answer)
			}
			if l := linkTo(g, "a"); l.Doubted {
				t.Errorf("after an answer the link is still doubted: %+v", l)
			}
			before := a.executor.submitted()
			for i := range 20 {
				answers = append(answers, g.send(command.Command{Stream: s, Session: fmt.Sprint(i)}))
			}
			for _, answer := range answers[20:] {
				mustSucceed(t, <-answer)
			}
			if n := a.executor.submitted() - before; n != 20 {
				t.Errorf("a, which has proved itself, was given %d of 20 commands", n)
			}
		})
	}
}

func linkTo(n *node, peer string) LinkStatus {
	links := n.router.Links()
	return links[slices.IndexFunc(links, func(s LinkStatus) bool { return s.Node == peer })]
}

func TestARetriedCommandSaysWhichAttemptItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "b", "a", "b")
	w.setSight("b", "b") // it hands nothing back to a, which would be an attempt more
	w.nodes["a"].executor.set(func(e *executor) { e.hold = make(chan struct{}) })
	answer := w.nodes["g"].send(command.Command{Stream: s})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	w.nodes["a"].stop()
	mustSucceed(t, <-answer)
	if e := w.journal.of(s)[0]; e.node != "b" || e.attempt != 2 {
		t.Errorf("executed as %+v, want b, attempt 2", e)
	}
}

func TestACommandThatANodeDeclinesGoesToAnother(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"g", "a"} { // over a link, and in the node itself
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "c", "g"})
			s := w.streamOf("a", "b", "a", "b", "c")
			// a does not know an event of the stream: it can't execute.
			w.nodes["a"].executor.set(func(e *executor) {
				e.instead = func(command.Command) *command.Failure {
					return &command.Failure{Code: command.Internal, Retry: command.RetryLater, Message: "unknown event", Elsewhere: true}
				}
			})
			// b sees a as the owner and would hand the command back to it.
			w.setSight("b", "b", "c")
			for range 3 {
				mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: "1"}))
			}
			for _, e := range w.journal.of(s) {
				if e.node != "b" {
					t.Errorf("executed as %+v; want b", e)
				}
			}
		})
	}
}

// Those that declined have certainly not executed it, and don't count among
// the two that may lose sight of it.
func TestACommandThatTwoNodesCannotExecuteGoesToTheThird(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"declines", "dies"} {
		t.Run("the second "+second, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "c", "g"})
			s := w.streamOf("a", "b", "a", "b", "c")
			declines := func(e *executor) {
				e.instead = func(command.Command) *command.Failure { return elsewhere("unknown event") }
			}
			a, b := w.nodes["a"], w.nodes["b"]
			a.executor.set(declines)
			w.setSight("b", "b")
			w.setSight("c", "c") // they hand nothing back
			if second == "declines" {
				b.executor.set(declines)
			} else {
				b.executor.set(func(e *executor) { e.hold = make(chan struct{}) })
			}
			answer := w.nodes["g"].send(command.Command{Stream: s, Session: "1"})
			if second == "dies" {
				b.executor.waitSubmitted(t, 1)
				b.stop()
			}
			mustSucceed(t, <-answer)
			if e := w.journal.of(s)[0]; e.node != "c" || e.attempt != 3 {
				t.Errorf("executed as %+v; want c, at the third attempt", e)
			}
		})
	}
}

func TestWhatEverybodyDeclinesIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Search = maxBudget })
	for _, id := range []string{"a", "b"} {
		w.nodes[id].executor.set(func(e *executor) {
			e.instead = func(command.Command) *command.Failure { return elsewhere("unknown event") }
		})
	}
	out := w.nodes["g"].do(command.Command{Stream: w.streamOf("a", "b", "a", "b"), Deadline: time.Now().Add(maxBudget)})
	mustFail(t, out, command.Unavailable, command.RetryLater)
}

func TestADeclinedCommandHandedBackIsExecutedWhereItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")
	w.nodes["a"].executor.set(func(e *executor) {
		e.instead = func(command.Command) *command.Failure {
			return &command.Failure{Code: command.Internal, Retry: command.RetryLater, Elsewhere: true}
		}
	})
	// g → a declines → b, which still sees a as the owner → a declines → b.
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s, Session: "1"}))
	if e := w.journal.of(s)[0]; e.node != "b" {
		t.Errorf("executed as %+v; want b", e)
	}
}

func TestFailuresOfTheOwnerAreTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "b", "a", "b")
	version := eventstore.Version(7)
	for i, want := range []command.Failure{
		{Code: command.Unavailable, Retry: command.RetryLater, Message: "no database", After: 40 * time.Millisecond},
		{Code: command.Rejected, Reason: "too_low", Retry: command.RetryNo, Message: "bid more", Key: "k", Replayed: true},
		{Code: command.Conflict, Retry: command.RetryNo, Version: &version},
		{Code: command.BadRequest, Field: "by", Retry: command.RetryNo, Message: "not a number \xff"},
	} {
		w.nodes["a"].executor.set(func(e *executor) { e.instead = func(command.Command) *command.Failure { return &want } })
		for _, from := range []string{"a", "g"} {
			got := w.nodes[from].do(command.Command{Stream: s, Session: fmt.Sprint(i), Key: "k"}).Failure
			if got == nil {
				t.Fatalf("from %s: %v became a success", from, &want)
			}
			if got.Code != want.Code || got.Reason != want.Reason || got.Retry != want.Retry || got.After != want.After || got.Field != want.Field ||
				got.Replayed != want.Replayed || got.Key != "k" || (got.Version == nil) != (want.Version == nil) || got.Version != nil && *got.Version != *want.Version {
				t.Errorf("from %s: %+v; want %+v", from, got, want)
			}
		}
	}
	if n := w.nodes["b"].executor.submitted(); n != 0 {
		t.Errorf("b was asked %d times", n)
	}
}

// A node that lost its database leaves its aggregates to others. When all have
// lost it, that is the answer, at once and with its pause.
func TestANodeWithoutItsDatabaseIsPassedOver(t *testing.T) {
	t.Parallel()
	for _, retry := range []command.Retry{command.RetryLater, command.RetrySameKey} {
		t.Run(string(retry), func(t *testing.T) {
			t.Parallel()
			log := new(logged)
			w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)).With("node", c.Self) })
			s := w.streamOf("a", "b", "a", "b")
			lost := func(e *executor) {
				e.instead = func(command.Command) *command.Failure {
					return &command.Failure{
						Code: command.Unavailable, Retry: retry, Message: "no database", After: 40 * time.Millisecond, Elsewhere: true, Cause: "the disk is full",
					}
				}
			}
			w.nodes["a"].executor.set(lost)
			for i, from := range []string{"a", "b", "g"} {
				mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: "1"}))
				if got := w.journal.of(s); len(got) != i+1 || got[i].node != "b" {
					t.Fatalf("from %s: executed %+v; want by b", from, got)
				}
			}
			w.nodes["b"].executor.set(lost)
			for _, from := range []string{"a", "b", "g"} {
				out := w.nodes[from].do(command.Command{Stream: s, Session: "2"})
				mustFail(t, out, command.Unavailable, retry)
				if out.Failure.Message != "no database" || out.Failure.After != 40*time.Millisecond {
					t.Errorf("from %s: %+v", from, out.Failure)
				}
				if line := log.line("answered unavailable", "node="+from); !strings.Contains(line, `err="the disk is full"`) {
					t.Errorf("%s does not say why in its log: %q", from, line)
				}
			}

			const again = "commands are answered again"
			w.nodes["b"].executor.set(func(e *executor) { e.instead = nil })
			for _, from := range []string{"a", "b", "g"} {
				mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: "3"}))
				if line := log.line(again, "node="+from); line != "" {
					t.Errorf("%s says right after a refusal: %q", from, line)
				}
				w.nodes[from].router.refusedAt.Store(time.Now().Add(-answeredAfter).UnixNano()) // long ago
				for range 2 {
					mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: "3"}))
				}
				if line := log.line(again, "node="+from); !strings.Contains(line, "so_far=1") {
					t.Errorf("%s does not say that commands are answered again: %q", from, line)
				}
			}
			if n := strings.Count(log.text.String(), again); n != 3 {
				t.Errorf("%d lines of 3 nodes say that commands are answered again", n)
			}
		})
	}
}

// TestAtMostFourNodesAreAsked has all of six nodes decline, as when the database
// is down.
func TestAtMostFourNodesAreAsked(t *testing.T) {
	t.Parallel()
	domain := []string{"a", "b", "c", "d", "e", "f"}
	w := newWorld(t, append([]string{"g"}, domain...))
	var mu sync.Mutex
	asked := make(map[string]bool)
	for _, id := range domain {
		w.nodes[id].executor.set(func(e *executor) {
			e.instead = func(command.Command) *command.Failure {
				mu.Lock()
				defer mu.Unlock()
				asked[id] = true
				return &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: "no database", After: 40 * time.Millisecond, Elsewhere: true}
			}
		})
	}
	s := w.streamOf("a", "", domain...)
	out := w.nodes["g"].do(command.Command{Stream: s, Session: "1"})
	mustFail(t, out, command.Unavailable, command.RetryLater)
	if out.Failure.Message != "no database" || out.Failure.After != 40*time.Millisecond {
		t.Errorf("answered %+v", out.Failure)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != maxTried {
		t.Errorf("%d nodes were asked, want %d", len(asked), maxTried)
	}
}

// changeable is an executor that declines, and later says that it executed.
type changeable struct {
	reply chan func(command.Outcome)
}

func (e changeable) Submit(_ command.Command, reply func(command.Outcome)) {
	reply(command.Failed(elsewhere("not here")))
	e.reply <- reply
}

func (changeable) Get(context.Context, command.Get) (command.State, error) {
	return command.State{}, nil
}

func TestOnlyTheFirstAnswerOfAnExecutorCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"b"})
	e := changeable{make(chan func(command.Outcome), 1)}
	a := w.start("a", func(c *Config) { c.Executor = e })
	w.setReady("a", "b")
	a.waitLinks()
	s := w.streamOf("a", "b", "a", "b")
	w.setSight("b", "b")
	hold := make(chan struct{})
	b := w.nodes["b"].executor
	b.set(func(e *executor) { e.hold = hold })
	answer := a.send(command.Command{Stream: s, Session: "1", Key: "k"})
	b.waitSubmitted(t, 1)
	(<-e.reply)(command.Outcome{Result: command.Result{Key: "forged"}})
	close(hold)
	if res := mustSucceed(t, <-answer); res.Key != "k" || res.Version != 1 {
		t.Errorf("answered with %+v, want what b did", res)
	}
}

func TestWithoutADomainNodeACommandIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"g"}, func(c *Config) { c.Search = 50 * time.Millisecond })
	out := w.nodes["g"].do(command.Command{Stream: eventstore.StreamID{Type: "counter", ID: "1"}})
	mustFail(t, out, command.Unavailable, command.RetryLater)
	if !strings.Contains(out.Failure.Message, "no domain node") {
		t.Errorf("the message does not say what is missing: %q", out.Failure.Message)
	}
	if out.Failure.Key == "" {
		t.Error("the answer has no key")
	}
}

func TestACommandWaitsForACandidateToAppear(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"g"})
	s := eventstore.StreamID{Type: "counter", ID: "1"}
	g := w.nodes["g"]
	answers := make([]<-chan command.Outcome, 5)
	for i := range answers {
		answers[i] = g.send(command.Command{Stream: s, Session: "1", Data: json.RawMessage(fmt.Sprint(i))})
	}
	w.start("a")
	w.setReady("a", "g")
	for i := range answers {
		mustSucceed(t, <-answers[i])
		if e := w.journal.of(s)[i]; e.data != fmt.Sprint(i) {
			t.Errorf("command %s was executed as number %d", e.data, i)
		}
	}
}

func TestWhatIsUnknownIsNeverCalledNotExecuted(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"busy", "dead"} {
		t.Run(second, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Search = 200 * time.Millisecond })
			s := w.streamOf("a", "b", "a", "b")
			held := func(e *executor) { e.hold = make(chan struct{}) }
			w.nodes["a"].executor.set(held)
			want := command.Busy
			if second == "busy" {
				w.nodes["b"].executor.set(func(e *executor) {
					e.refuse = func(command.Command) *command.Failure { return busy("full") }
				})
			} else {
				w.nodes["b"].executor.set(held)
				want = command.Unavailable
			}
			answer := w.nodes["g"].send(command.Command{Stream: s, Session: "1"})
			w.nodes["a"].executor.waitSubmitted(t, 1)
			w.nodes["a"].stop()
			if second == "dead" {
				w.nodes["b"].executor.waitSubmitted(t, 1)
				w.nodes["b"].stop()
			}
			mustFail(t, <-answer, want, command.RetrySameKey)
		})
	}
}

// The node that was asked handed the command on, lost sight of it, and can't
// execute it itself: that it declines does not say that nobody executed it.
func TestARelayThatLostSightOfACommandDoesNotCallItNotExecuted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Search = 200 * time.Millisecond })
	s := w.streamOf("a", "b", "a", "b")
	w.setSight("g", "b", "g") // g sends to b, b hands on to a
	w.nodes["a"].executor.set(func(e *executor) { e.hold = make(chan struct{}) })
	w.nodes["b"].executor.set(func(e *executor) {
		e.refuse = func(command.Command) *command.Failure { return elsewhere("not here") }
	})
	answer := w.nodes["g"].send(command.Command{Stream: s, Session: "1"})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	w.nodes["a"].stop()
	mustFail(t, <-answer, command.Unavailable, command.RetrySameKey)
}

func TestACommandIsAnsweredByItsDeadline(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"a", "g"} {
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "g"})
			s := w.streamOf("a", "", "a")
			hold := make(chan struct{})
			w.nodes["a"].executor.set(func(e *executor) { e.hold = hold })
			late := w.nodes[from].send(command.Command{Stream: s, Session: "1", Deadline: time.Now().Add(50 * time.Millisecond)})
			next := w.nodes[from].send(command.Command{Stream: s, Session: "1", Key: "next"})
			mustFail(t, <-late, command.Timeout, command.RetrySameKey)
			// What follows keeps its place behind it.
			close(hold)
			mustSucceed(t, <-next)
			if got := w.journal.of(s); len(got) != 2 || got[1].key != "next" {
				t.Errorf("executed: %+v", got)
			}
			out := w.nodes[from].do(command.Command{Stream: s, Session: "2", Deadline: time.Now().Add(-time.Second)})
			mustFail(t, out, command.Timeout, command.RetryLater)
			if n := len(w.journal.of(s)); n != 2 {
				t.Errorf("%d commands executed, want 2: the last one came too late", n)
			}
		})
	}
}

// A lone gateway in a bubble: the time that a command waits for a candidate
// is exact there.
func TestACommandSearchesForItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		views := make(chan *cluster.View)
		close(views)
		r, err := New(Config{
			Self: "g", Pool: link.NewPool(link.PoolConfig{}),
			Watch: func(context.Context) <-chan *cluster.View { return views },
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ budget, want time.Duration }{
			{10 * time.Second, 2 * time.Second}, {time.Second, time.Second},
		} {
			start := time.Now()
			answer := make(chan command.Outcome, 1)
			r.Send(command.Command{Stream: eventstore.StreamID{Type: "counter", ID: "1"}, Session: c.budget.String(), Deadline: start.Add(c.budget)},
				func(out command.Outcome) { answer <- out })
			mustFail(t, <-answer, command.Unavailable, command.RetryLater)
			if took := time.Since(start); took != c.want {
				t.Errorf("with %v to wait, it was answered after %v, want %v", c.budget, took, c.want)
			}
		}
	})
}

func TestAfterRunCommandsAreUnavailableAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "", "a", "b")
	hold := make(chan struct{})
	w.nodes["a"].executor.set(func(e *executor) { e.hold = hold })
	g := w.nodes["g"]
	sent := g.send(command.Command{Stream: s, Session: "1"})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	g.stop()
	mustFail(t, <-sent, command.Unavailable, command.RetrySameKey)
	mustFail(t, g.do(command.Command{Stream: s, Session: "2"}), command.Unavailable, command.RetryLater)
	close(hold)
}

func TestEachRingIsReportedOnce(t *testing.T) {
	t.Parallel()
	views, rings := make(chan *cluster.View), make(chan []string, 10)
	r, err := New(Config{
		Self: "g", Pool: link.NewPool(link.PoolConfig{}),
		Watch:  func(context.Context) <-chan *cluster.View { return views },
		OnRing: func(r *ring.Ring) { rings <- r.Members() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- r.Run(t.Context()) }()
	none, one, other := &cluster.View{}, &cluster.View{}, &cluster.View{}
	one.Members = []cluster.Member{{ID: "a", Domain: true, State: cluster.Ready}}
	other.Members = []cluster.Member{{ID: "a", Domain: true, State: cluster.Ready}, {ID: "b", Domain: true}}
	for _, v := range []*cluster.View{none, none, one, other, none} {
		views <- v
	}
	close(views)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(rings)
	if n := r.Stats().RingChanges; n != 2 {
		t.Errorf("%d changes of the ring are counted, want 2", n)
	}
	var got [][]string
	for members := range rings {
		got = append(got, members)
	}
	if want := [][]string{{}, {"a"}, {}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("reported %v, want %v", got, want)
	}
}

func TestAConfigurationIsRefusedWithAllItsFaults(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Suspect: time.Millisecond, Search: -1, MaxLane: -1})
	for _, want := range []string{"Self", "Watch", "Pool", "Suspect", "Search", "MaxLane"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}
