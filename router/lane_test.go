package router

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// numbered sends commands 0 … n-1 on one lane, without waiting, and returns
// where their answers will be.
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
				continue // who sends dies
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
				a.executor.waitSubmitted(t, before/2) // the others are somewhere between
				switch fault {
				case "cut":
					a.proxy.cut()
				case "kill":
					a.stop()
				case "freeze":
					a.proxy.freeze()
				case "new view":
					w.setReady("b", "c", "g")
				case "decline": // as one that is too old to know an event
					w.setSight("b", "b", "c")
					a.executor.set(func(e *executor) {
						e.instead = func(command.Command) *command.Failure { return elsewhere("unknown event") }
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

func TestAReceiverHandsOnWhatFollowsInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")
	w.setSight("g", "b", "c", "g") // g sends to b, b hands on to a
	a, b := w.nodes["a"], w.nodes["b"]
	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	answers := w.nodes["g"].numbered(s, "1", 0, 20)
	a.executor.waitSubmitted(t, 20)

	// b becomes the owner in its own view. What follows must not overtake.
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

// A lane that waited for a candidate in vain is forgotten, and the session's
// next command opens another one. The news of a candidate reached the
// forgotten lane as well, and made the router forget the one in use.
func TestALaneThatWaitedInVainDoesNotLoosenTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.BusyPause = time.Millisecond })
	s := w.streamOf("b", "a", "a", "b") // b's, and a's as long as that is alone
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
	mustSucceed(t, g.do(command.Command{Stream: s, Data: json.RawMessage(`"of no lane"`)})) // it comes to b after whatever went there before it
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

// protocol: error busy
// protocol: rule Commands keep their order
func TestACommandThatComesAgainRefusesWhatWasSentBehind(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"a", "g", "g by way of b"} {
		for when, failure := range map[string]*command.Failure{
			"busy at once": busy("full"), "busy later": busy("full"),
			"unavailable": {Code: command.Unavailable, Retry: command.RetryLater, After: 10 * time.Millisecond},
			"unknown":     {Code: command.Unavailable, Retry: command.RetrySameKey},
			"late":        {Code: command.Timeout, Retry: command.RetryLater},
		} {
			t.Run(from+" "+when, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, []string{"a", "b", "c", "g"}, func(c *Config) { c.BusyPause = 20 * time.Millisecond })
				s := w.streamOf("a", "b", "a", "b", "c")
				sender := w.nodes[from[:1]]
				if len(from) > 1 {
					w.setSight("g", "b", "c", "g")
				}
				a := w.nodes["a"].executor
				hold := make(chan struct{})
				third := func(c command.Command) *command.Failure {
					if string(c.Data) == "3" {
						return failure
					}
					return nil
				}
				a.set(func(e *executor) {
					e.hold = hold
					if when == "busy at once" {
						e.refuse = third
					} else {
						e.instead = third
					}
				})
				answers := sender.numbered(s, "1", 0, 10)
				others := sender.numbered(s, "2", 100, 103)
				a.waitSubmitted(t, 4)
				close(hold)
				var refusedKey string
				for i, answer := range answers {
					out := <-answer
					if i < 3 {
						mustSucceed(t, out)
						continue
					}
					if i == 3 {
						refusedKey = out.Failure.Key
						mustFail(t, out, failure.Code, failure.Retry)
					} else if failure.Code == command.Unavailable {
						mustFail(t, out, command.Unavailable, command.RetryLater)
					} else {
						mustFail(t, out, command.Busy, command.RetryLater)
					}
					if out.Failure.After == 0 {
						t.Error("the answer does not say how long to wait")
					}
				}
				for _, answer := range others {
					mustSucceed(t, <-answer) // another session's lane
				}
				if n := len(w.journal.of(s)); n != 6 {
					t.Errorf("%d commands executed, want 6: %+v", n, w.journal.of(s))
				}

				// What has to come first may come, and whoever waits as told is
				// served again.
				a.set(func(e *executor) { e.refuse, e.instead = nil, nil })
				mustSucceed(t, sender.do(command.Command{Stream: s, Session: "1", Data: json.RawMessage("3"), Key: refusedKey}))
				for {
					out := sender.do(command.Command{Stream: s, Session: "1", Data: json.RawMessage("3.5")})
					if out.Failure == nil {
						break
					}
					if out.Failure.Retry != command.RetryLater {
						t.Fatalf("during the pause: %v", out.Failure)
					}
					time.Sleep(out.Failure.After)
				}
			})
		}
	}
}

// What is behind a refused command was refused as well by whoever had it, and
// says so itself. Where that never comes, nobody vouches for it.
func TestWhatIsBehindABusyCommandIsCalledUnknownOnlyIfItIs(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"its answer", "the death of the node"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"b", "g"})
			e := scripted(make(chan job, 2))
			a := w.start("a", func(c *Config) { c.Executor = e })
			w.setReady("a", "b", "g")
			g := w.nodes["g"]
			g.waitLinks()
			s := w.streamOf("a", "b", "a", "b")
			g.waitFor("a to own the stream", func() bool { owner, _ := g.router.Ring().Owner(s); return owner == "a" && usable(g, "a") })
			answers := g.numbered(s, "1", 0, 2)
			first, second := <-e, <-e
			first.reply(command.Failed(busy("full")))
			out := <-answers[0]
			mustFail(t, out, command.Busy, command.RetryLater)
			if by == "its answer" {
				f := second.c.Lane.Refusal()
				if f == nil {
					t.Fatal("the executor is not told to refuse what is behind a busy command")
				}
				second.reply(command.Failed(f))
				mustFail(t, <-answers[1], command.Busy, command.RetryLater)
			} else {
				a.stop()
				mustFail(t, <-answers[1], command.Busy, command.RetrySameKey)
				second.reply(command.Failed(busy("too late")))
			}
			if n := w.nodes["b"].executor.submitted(); n != 0 {
				t.Errorf("b was given %d of the refused commands", n)
			}
		})
	}
}

// scripted is an executor whose commands the test answers.
type scripted chan job

func (e scripted) Submit(c command.Command, reply func(command.Outcome)) { e <- job{c, reply} }

func (scripted) Get(context.Context, command.Get) (command.State, error) { return command.State{}, nil }

// request is a command as a peer sends it.
func request(id uint64, s eventstore.StreamID, data string, seen uint64) *peer.Request {
	return &peer.Request{Id: id, Seen: seen, Body: &peer.Request_Command{Command: &peer.Command{
		Type: s.Type, Id: s.ID, Name: "add", Data: []byte(data), Key: data, Session: "1", Attempt: 1, BudgetUs: 60e6,
	}}}
}

// A sender that knows of one refusal may not know of those that followed from
// it: what it sends then is still in ignorance of them.
func TestARefusalThatFollowsFromAnotherIsRememberedToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"})
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.executor.set(func(e *executor) {
		e.refuse = func(c command.Command) *command.Failure {
			if string(c.Data) == "0" {
				return elsewhere("not here")
			}
			return nil
		}
	})
	conn, _, err := a.pool.Conn(a.proxy.addr)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := peer.NewPeerClient(conn).Commands(t.Context(), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		data     string
		seen     uint64 // replies
		executed bool
	}{
		{"0", 0, false},
		{"1", 0, false}, // it did not know of 0
		{"2", 1, false}, // it did not know of 1
		{"3", 3, true},
	} {
		if err := stream.Send(&peer.Requests{Items: []*peer.Request{request(c.seen+10, s, c.data, c.seen)}}); err != nil {
			t.Fatal(err)
		}
		var reply *peer.Reply
		for reply == nil {
			batch, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range batch.GetItems() {
				reply = item
			}
		}
		if executed := reply.GetResult() != nil; executed != c.executed {
			t.Errorf("command %s, sent with %d replies known, was answered with %v", c.data, c.seen, reply)
		}
	}
}

func TestWhatIsReadAfterItsStreamEndedIsNotBegun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"})
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.router.mu.Lock()
	var in *inbound
	for in = range a.router.peers { // g's
		break
	}
	a.router.mu.Unlock()
	in.end()
	in.handle(request(1, s, "late", 0))
	if got := w.journal.of(s); a.executor.submitted() != 0 {
		t.Errorf("the executor was given what came after the end of its stream: %+v", got)
	}
}

// Refusing a command must not free what comes next from those that were sent
// before the refused one and still wait for their turn.
func TestWhatFollowsABusyCommandWaitsForThoseBeforeIt(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"a", "g"} {
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.BusyPause = time.Millisecond })
			s := w.streamOf("a", "b", "a", "b")
			w.setSight("b", "b") // it hands nothing back to a
			a, sender := w.nodes["a"].executor, w.nodes[from]
			hold := make(chan struct{})
			is := func(data string, f *command.Failure) func(command.Command) *command.Failure {
				return func(c command.Command) *command.Failure {
					if string(c.Data) == data {
						return f
					}
					return nil
				}
			}
			a.set(func(e *executor) {
				e.hold = hold
				e.refuse, e.instead = is("2", busy("full")), is("0", elsewhere("not here"))
			})
			answers := sender.numbered(s, "1", 0, 3)
			mustFail(t, <-answers[2], command.Busy, command.RetryLater)
			var last <-chan command.Outcome
			for last == nil { // until the lane's pause is over
				answer := sender.numbered(s, "1", 3, 4)[0]
				select {
				case out := <-answer: // at once
					mustFail(t, out, command.Busy, command.RetryLater)
					time.Sleep(out.Failure.After)
				default:
					last = answer
				}
			}
			// A command of another lane comes to a behind what is in this one.
			other := sender.send(command.Command{Stream: s, Data: json.RawMessage(`"other"`)})
			a.waitFor(t, func() bool { return a.got >= 4 })
			close(hold)
			for _, answer := range []<-chan command.Outcome{answers[0], answers[1], last, other} {
				mustSucceed(t, <-answer)
			}
			var got []string
			for _, e := range w.journal.of(s) {
				if e.session == "1" {
					got = append(got, e.data+"@"+e.node)
				}
			}
			if !slices.Equal(got, []string{"0@b", "1@b", "3@b"}) && !slices.Equal(got, []string{"0@b", "1@b", "3@a"}) {
				t.Errorf("executed, in this order: %v; want 0, 1 and 3, the first two by b", got)
			}
		})
	}
}

// The pause of a busy lane is what its client waits as well: it begins when the
// client has been told.
func TestALaneIsBusyUntilItsClientHasBeenTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"}, func(c *Config) { c.BusyPause = time.Nanosecond })
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.executor.set(func(e *executor) { e.refuse = func(command.Command) *command.Failure { return busy("full") } })
	behind := make(chan command.Outcome, 1)
	a.router.Send(command.Command{Stream: s, Session: "1"}, func(command.Outcome) {
		a.executor.set(func(e *executor) { e.refuse = nil })
		a.router.Send(command.Command{Stream: s, Session: "1"}, func(out command.Outcome) { behind <- out })
	})
	mustFail(t, <-behind, command.Busy, command.RetryLater)
}

func TestABusyLaneStaysBusyForAWhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"}, func(c *Config) { c.BusyPause = time.Hour })
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.executor.set(func(e *executor) { e.refuse = func(command.Command) *command.Failure { return busy("full") } })
	mustFail(t, a.do(command.Command{Stream: s, Session: "1"}), command.Busy, command.RetryLater)
	a.executor.set(func(e *executor) { e.refuse = nil })

	// The client sent this before it read that answer, for all we know.
	out := a.do(command.Command{Stream: s, Session: "1"})
	mustFail(t, out, command.Busy, command.RetryLater)
	if out.Failure.After <= 0 || out.Failure.After > time.Hour {
		t.Errorf("the answer says to wait for %v", out.Failure.After)
	}
	mustSucceed(t, a.do(command.Command{Stream: s, Session: "2"}))
	mustSucceed(t, a.do(command.Command{Stream: eventstore.StreamID{Type: "counter", ID: "other"}, Session: "1"}))
	mustSucceed(t, a.do(command.Command{Stream: s})) // no session, no lane
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
				mustFail(t, <-answer, command.Busy, command.RetryLater)
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

func TestNothingIsKeptOfAnsweredLanes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"}, func(c *Config) { c.BusyPause = time.Millisecond })
	a, g := w.nodes["a"], w.nodes["g"]
	a.executor.set(func(e *executor) {
		e.refuse = func(c command.Command) *command.Failure {
			if string(c.Data) == "0" {
				return busy("full")
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

// waitForgotten waits until the node keeps nothing of any lane: for the end of
// pauses, and the heartbeat that tells it which refusals its peers know of.
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
