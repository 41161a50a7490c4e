package router

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/ring"
)

func TestNextCandidateExecutesCommandOfBrokenLinkOnce(t *testing.T) {
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
				close(hold) // the two copies of the command race
			case "the owner dies":
				a.stop()
			case "the owner is frozen":
				a.proxy.freeze()
			}
			res := mustSucceed(t, <-answer)
			if fault == "the owner is frozen" {
				close(hold) // the owner thaws and still has its copy
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
				t.Errorf("counters: %+v; want unknown and retried above 0", st)
			}
		})
	}
}

// The first two candidates are gone, but no view shows it yet.
func TestCommandReachesThirdNodePastTwoDeadOnes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "d", "g"})
	all := ring.New([]string{"a", "b", "c", "d"})
	s := w.streamOf("a", "b", "a", "b", "c", "d")
	third, _ := all.Without("a").Without("b").Owner(s)
	g := w.nodes["g"]
	for _, id := range []string{"a", "b"} {
		w.nodes[id].stop()
		for _, n := range []*node{g, w.nodes[third]} {
			n.waitFor(id+" to be gone", func() bool { return !usable(n, id) })
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

func TestSilentLinkIsTriedWithOneCommand(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{false, true} {
		t.Run(fmt.Sprintf("alone %v", alone), func(t *testing.T) {
			t.Parallel()
			ids := []string{"a", "b", "g"}
			if alone {
				ids = []string{"a", "g"}
			}
			w := newWorld(t, ids, func(c *Config) { c.Suspect = 3 * time.Second })
			s := w.streamOf("a", "", ids[:len(ids)-1]...)
			a, g := w.nodes["a"], w.nodes["g"]
			a.proxy.freeze()
			g.waitFor("a to be suspected", func() bool { return !usable(g, "a") })
			hold := make(chan struct{})
			a.executor.set(func(e *executor) { e.hold = hold })
			if !alone {
				w.setSight("b", "b") // it must not hand commands on
			}
			a.proxy.unfreeze()
			g.waitFor("a to be back", func() bool { return usable(g, "a") })

			var answers []<-chan command.Outcome
			for i := range 20 {
				answers = append(answers, g.send(command.Command{Stream: s, Session: fmt.Sprint(i)}))
			}
			if alone { // no other candidate
				a.executor.waitSubmitted(t, 20)
			} else {
				for _, answer := range answers[1:] {
					mustSucceed(t, <-answer)
				}
				if n := w.nodes["b"].executor.submitted(); n != 19 {
					t.Errorf("b got %d commands, want all but the one that tries the link to a", n)
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
				t.Errorf("a, whose trial is over, got %d of 20 commands", n)
			}
		})
	}
}

func linkTo(n *node, peer string) LinkStatus {
	links := n.router.Links()
	return links[slices.IndexFunc(links, func(s LinkStatus) bool { return s.Node == peer })]
}

func TestRetriedCommandCarriesItsAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "b", "a", "b")
	w.setSight("b", "b") // it must not hand the command back to a, which would be another attempt
	w.nodes["a"].executor.set(func(e *executor) { e.hold = make(chan struct{}) })
	answer := w.nodes["g"].send(command.Command{Stream: s})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	w.nodes["a"].stop()
	mustSucceed(t, <-answer)
	if e := w.journal.of(s)[0]; e.node != "b" || e.attempt != 2 {
		t.Errorf("executed as %+v, want b, attempt 2", e)
	}
}

func TestDeclinedCommandGoesToAnotherNode(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"g", "a"} { // over a link, and in one node
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "c", "g"})
			s := w.streamOf("a", "b", "a", "b", "c")
			// a is too old to know an event of the stream.
			w.nodes["a"].executor.set(func(e *executor) {
				e.instead = func(command.Command) *command.Failure {
					return &command.Failure{Code: command.CodeInternal, Retry: command.RetryLater, Message: "unknown event", Elsewhere: true}
				}
			})
			// b must not hand the command back to a.
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

// Nodes that decline have not executed the command. They do not count among the
// two that may leave its fate unknown.
func TestCommandGoesToThirdNodeAfterTwoFail(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"declines", "dies"} {
		t.Run("the second "+second, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "c", "g"})
			s := w.streamOf("a", "b", "a", "b", "c")
			declines := func(e *executor) {
				e.instead = func(command.Command) *command.Failure { return command.Unavailable("unknown event").OnOtherNodes() }
			}
			a, b := w.nodes["a"], w.nodes["b"]
			a.executor.set(declines)
			w.setSight("b", "b")
			w.setSight("c", "c") // they must not hand the command back
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

func TestCommandDeclinedByAllIsAnsweredImmediately(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Search = maxBudget })
	for _, id := range []string{"a", "b"} {
		w.nodes[id].executor.set(func(e *executor) {
			e.instead = func(command.Command) *command.Failure { return command.Unavailable("unknown event").OnOtherNodes() }
		})
	}
	out := w.nodes["g"].do(command.Command{Stream: w.streamOf("a", "b", "a", "b"), Deadline: time.Now().Add(maxBudget)})
	mustFail(t, out, command.CodeUnavailable, command.RetryLater)
}

func TestDeclinedCommandHandedBackIsExecuted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")
	w.nodes["a"].executor.set(func(e *executor) {
		e.instead = func(command.Command) *command.Failure {
			return &command.Failure{Code: command.CodeInternal, Retry: command.RetryLater, Elsewhere: true}
		}
	})
	// g → a declines → b, which still sees a as the owner → a declines → b.
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s, Session: "1"}))
	if e := w.journal.of(s)[0]; e.node != "b" {
		t.Errorf("executed as %+v; want b", e)
	}
}

func TestOwnersFailureIsTheAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "b", "a", "b")
	version := eventstore.Version(7)
	for i, want := range []command.Failure{
		{Code: command.CodeUnavailable, Retry: command.RetryLater, Message: "no database", After: 40 * time.Millisecond},
		{Code: command.CodeRejected, Reason: "too_low", Retry: command.RetryNo, Message: "bid more", Key: "k", Replayed: true},
		{Code: command.CodeConflict, Retry: command.RetryNo, Version: &version},
		{Code: command.CodeBadRequest, Field: "by", Retry: command.RetryNo, Message: "not a number \xff"},
	} {
		w.nodes["a"].executor.set(func(e *executor) { e.instead = func(command.Command) *command.Failure { return &want } })
		for _, from := range []string{"a", "g"} {
			got := w.nodes[from].do(command.Command{Stream: s, Session: fmt.Sprint(i), Key: "k"}).Failure
			if got == nil {
				t.Fatalf("from %s: %v arrived as a success", from, &want)
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

// If a node has lost its database, another node executes the command. If all
// nodes have, the client is told so immediately, and how long to wait.
func TestNodeWithoutItsDatabaseIsPassedOver(t *testing.T) {
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
						Code: command.CodeUnavailable, Retry: retry, Message: "no database", After: 40 * time.Millisecond, Elsewhere: true, Cause: "the disk is full",
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
				mustFail(t, out, command.CodeUnavailable, retry)
				if out.Failure.Message != "no database" || out.Failure.After != 40*time.Millisecond {
					t.Errorf("from %s: %+v", from, out.Failure)
				}
				if line := log.line("answered unavailable", "node="+from); !strings.Contains(line, `err="the disk is full"`) {
					t.Errorf("the log of %s has no reason: %q", from, line)
				}
			}

			const again = "commands are answered again"
			w.nodes["b"].executor.set(func(e *executor) { e.instead = nil })
			for _, from := range []string{"a", "b", "g"} {
				mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: "3"}))
				if line := log.line(again, "node="+from); line != "" {
					t.Errorf("%s logs right after a refusal: %q", from, line)
				}
				w.nodes[from].router.outage.refusedAt.Store(time.Now().Add(-outageOver).UnixNano()) // long ago
				for range 2 {
					mustSucceed(t, w.nodes[from].do(command.Command{Stream: s, Session: "3"}))
				}
				if line := log.line(again, "node="+from); !strings.Contains(line, "so_far=1") {
					t.Errorf("%s does not log that commands are answered again: %q", from, line)
				}
			}
			if n := log.count(again); n != 3 {
				t.Errorf("3 nodes log %d times that commands are answered again", n)
			}
		})
	}
}

// All six nodes decline, as when the database is down.
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
				return &command.Failure{Code: command.CodeUnavailable, Retry: command.RetryLater, Message: "no database", After: 40 * time.Millisecond, Elsewhere: true}
			}
		})
	}
	s := w.streamOf("a", "", domain...)
	out := w.nodes["g"].do(command.Command{Stream: s, Session: "1"})
	mustFail(t, out, command.CodeUnavailable, command.RetryLater)
	if out.Failure.Message != "no database" || out.Failure.After != 40*time.Millisecond {
		t.Errorf("answered %+v", out.Failure)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != maxTried {
		t.Errorf("%d nodes were asked, want %d", len(asked), maxTried)
	}
}
