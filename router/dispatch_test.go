package router

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/router/transport"
)

func TestOwnerExecutesCommand(t *testing.T) {
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

func TestNonOwnerHandsCommandOnOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")

	w.setSight("g", "b", "c", "g") // g sees b as the owner
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	if e := w.journal.of(s)[0]; e.node != "a" || e.attempt != 1 {
		t.Errorf("executed as %+v; want it handed on to a, the owner that b sees", e)
	}
	if n := w.nodes["b"].router.Stats().HandedOn; n != 1 {
		t.Errorf("b handed on %d commands, want 1", n)
	}

	// a sees b as the owner, and executes a command that was handed on.
	w.setSight("a", "b", "c")
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	if e := w.journal.of(s)[1]; e.node != "a" {
		t.Errorf("executed as %+v; want it executed where it was handed to", e)
	}
}

func TestNonOwnerExecutesIfOwnerIsUnreachable(t *testing.T) {
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

// changeable is an executor that declines a command and later answers it again.
type changeable struct {
	reply chan func(command.Outcome)
}

func (e changeable) Submit(_ command.Command, reply func(command.Outcome)) {
	reply(command.Failed(command.Unavailable("not here").OnOtherNodes()))
	e.reply <- reply
}

func (changeable) Get(context.Context, command.Get) (command.State, error) {
	return command.State{}, nil
}

func TestOnlyFirstAnswerOfExecutorCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"b"})
	e := changeable{make(chan func(command.Outcome), 1)}
	a := w.start("a", func(c *Config) { c.Executor = e })
	w.setReady("a", "b")
	a.waitRing("a", "b")
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

func TestCommandIsUnavailableWithoutDomainNode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"g"}, func(c *Config) { c.Search = 50 * time.Millisecond })
	out := w.nodes["g"].do(command.Command{Stream: eventstore.StreamID{Type: "counter", ID: "1"}})
	mustFail(t, out, command.CodeUnavailable, command.RetryLater)
	if !strings.Contains(out.Failure.Message, "no domain node") {
		t.Errorf("the message does not say what is missing: %q", out.Failure.Message)
	}
	if out.Failure.Key == "" {
		t.Error("the answer has no key")
	}
}

func TestCommandWaitsForCandidate(t *testing.T) {
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

func TestUnknownFateIsNeverReportedAsNotExecuted(t *testing.T) {
	t.Parallel()
	for _, second := range []string{"busy", "dead"} {
		t.Run(second, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Search = 200 * time.Millisecond })
			s := w.streamOf("a", "b", "a", "b")
			held := func(e *executor) { e.hold = make(chan struct{}) }
			w.nodes["a"].executor.set(held)
			want := command.CodeBusy
			if second == "busy" {
				w.nodes["b"].executor.set(func(e *executor) {
					e.refuse = func(command.Command) *command.Failure { return command.Busy("full") }
				})
			} else {
				w.nodes["b"].executor.set(held)
				want = command.CodeUnavailable
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

// The relay hands the command on, loses its link, and cannot execute the command
// itself. It declines, although the owner may have executed the command.
func TestRelayReportsUnknownFateOfLostCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.Search = 200 * time.Millisecond })
	s := w.streamOf("a", "b", "a", "b")
	w.setSight("g", "b", "g") // g sends to b, and b hands on to a
	w.nodes["a"].executor.set(func(e *executor) { e.hold = make(chan struct{}) })
	w.nodes["b"].executor.set(func(e *executor) {
		e.refuse = func(command.Command) *command.Failure { return command.Unavailable("not here").OnOtherNodes() }
	})
	answer := w.nodes["g"].send(command.Command{Stream: s, Session: "1"})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	w.nodes["a"].stop()
	mustFail(t, <-answer, command.CodeUnavailable, command.RetrySameKey)
}

func TestCommandIsAnsweredByItsDeadline(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"a", "g"} {
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "g"})
			s := w.streamOf("a", "", "a")
			hold := make(chan struct{})
			w.nodes["a"].executor.set(func(e *executor) { e.hold = hold })
			late := w.nodes[from].send(command.Command{Stream: s, Session: "1", Deadline: time.Now().Add(time.Second)})
			w.nodes["a"].executor.waitSubmitted(t, 1)
			next := w.nodes[from].send(command.Command{Stream: s, Session: "1", Key: "next"})
			mustFail(t, <-late, command.CodeTimeout, command.RetrySameKey)
			// The next command keeps its place after it.
			close(hold)
			mustSucceed(t, <-next)
			if got := w.journal.of(s); len(got) != 2 || got[1].key != "next" {
				t.Errorf("executed: %+v", got)
			}
			out := w.nodes[from].do(command.Command{Stream: s, Session: "2", Deadline: time.Now().Add(-time.Second)})
			mustFail(t, out, command.CodeTimeout, command.RetryLater)
			if n := len(w.journal.of(s)); n != 2 {
				t.Errorf("%d commands executed, want 2: the last one came too late", n)
			}
		})
	}
}

// In a synctest bubble, the time that a command waits for a candidate is exact.
func TestSearchEndsAfterItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		views := make(chan *cluster.View)
		close(views)
		r, err := New(Config{
			Self: "g", Pool: transport.NewPool(transport.PoolConfig{}),
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
			mustFail(t, <-answer, command.CodeUnavailable, command.RetryLater)
			if took := time.Since(start); took != c.want {
				t.Errorf("with %v to wait, it was answered after %v, want %v", c.budget, took, c.want)
			}
		}
	})
}

func TestCommandsAreUnavailableAfterRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "", "a", "b")
	hold := make(chan struct{})
	w.nodes["a"].executor.set(func(e *executor) { e.hold = hold })
	g := w.nodes["g"]
	sent := g.send(command.Command{Stream: s, Session: "1"})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	g.stop()
	mustFail(t, <-sent, command.CodeUnavailable, command.RetrySameKey)
	mustFail(t, g.do(command.Command{Stream: s, Session: "2"}), command.CodeUnavailable, command.RetryLater)
	close(hold)
}

func TestEachRingIsReportedOnce(t *testing.T) {
	t.Parallel()
	views, rings := make(chan *cluster.View), make(chan []string, 10)
	r, err := New(Config{
		Self: "g", Pool: transport.NewPool(transport.PoolConfig{}),
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

func TestConfigErrorNamesEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Suspect: time.Millisecond, Search: -1, MaxLane: -1})
	for _, want := range []string{"Self", "Watch", "Pool", "Suspect", "Search", "MaxLane"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}
