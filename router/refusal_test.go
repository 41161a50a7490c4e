package router

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// protocol: error busy
// protocol: rule Commands keep their order
func TestRefusedCommandHoldsBackLaterOnes(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"a", "g", "g by way of b"} {
		for when, failure := range map[string]*command.Failure{
			"busy in Submit": command.Busy("full"), "busy later": command.Busy("full"),
			"unavailable": {Code: command.CodeUnavailable, Retry: command.RetryLater, After: 10 * time.Millisecond},
			"unknown":     {Code: command.CodeUnavailable, Retry: command.RetrySameKey},
			"late":        {Code: command.CodeTimeout, Retry: command.RetryLater},
		} {
			t.Run(from+" "+when, func(t *testing.T) {
				t.Parallel()
				// The sender sends ten commands before the pause after the first answer is over.
				w := newWorld(t, []string{"a", "b", "c", "g"}, func(c *Config) { c.BusyPause = time.Second })
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
					if when == "busy in Submit" {
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
					} else if failure.Code == command.CodeUnavailable {
						mustFail(t, out, command.CodeUnavailable, command.RetryLater)
					} else {
						mustFail(t, out, command.CodeBusy, command.RetryLater)
					}
					if out.Failure.After == 0 {
						t.Error("the answer does not say how long to wait")
					}
				}
				for _, answer := range others {
					mustSucceed(t, <-answer) // of another lane
				}
				if n := len(w.journal.of(s)); n != 6 {
					t.Errorf("%d commands executed, want 6: %+v", n, w.journal.of(s))
				}

				// The lane admits the refused command, and others after the
				// pause.
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

// The node that refuses a command also refuses the later ones, and says so. If
// its answer does not arrive, their fate is unknown.
func TestBusyLaneReportsUnknownOnlyForUnknownFate(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"its answer", "the death of the node"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"b", "g"})
			e := scripted(make(chan job, 2))
			a := w.start("a", func(c *Config) { c.Executor = e })
			w.setReady("a", "b", "g")
			a.waitRing("a", "b")
			g := w.nodes["g"]
			g.waitLinks()
			s := w.streamOf("a", "b", "a", "b")
			g.waitFor("a to own the stream", func() bool { owner, _ := g.router.Ring().Owner(s); return owner == "a" && usable(g, "a") })
			answers := g.numbered(s, "1", 0, 2)
			first, second := <-e, <-e
			first.reply(command.Failed(command.Busy("full")))
			out := <-answers[0]
			mustFail(t, out, command.CodeBusy, command.RetryLater)
			if by == "its answer" {
				f := second.c.Ticket.Refusal()
				if f == nil {
					t.Fatal("the ticket after that of a busy command is not refused")
				}
				second.reply(command.Failed(f))
				mustFail(t, <-answers[1], command.CodeBusy, command.RetryLater)
			} else {
				a.stop()
				mustFail(t, <-answers[1], command.CodeBusy, command.RetrySameKey)
				second.reply(command.Failed(command.Busy("too late")))
			}
			if n := w.nodes["b"].executor.submitted(); n != 0 {
				t.Errorf("b got %d of the refused commands", n)
			}
		})
	}
}

// scripted is an executor whose commands the test answers.
type scripted chan job

func (e scripted) Submit(c command.Command, reply func(command.Outcome)) { e <- job{c, reply} }

// request returns a command as a peer sends it.
func request(id uint64, s eventstore.StreamID, data string, seen uint64) *peer.Request {
	return &peer.Request{Id: id, Seen: seen, Body: &peer.Request_Command{Command: &peer.Command{
		Type: s.Type, Id: s.ID, Name: "add", Data: []byte(data), Key: data, Session: "1", Attempt: 1, BudgetUs: 60e6,
	}}}
}

// A refusal causes refusals of later commands. A sender may know of the first
// and not yet of those: commands that it sends then are refused too.
func TestConsequentialRefusalIsRememberedToo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"})
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.executor.set(func(e *executor) {
		e.refuse = func(c command.Command) *command.Failure {
			if string(c.Data) == "0" {
				return command.Unavailable("not here").OnOtherNodes()
			}
			return nil
		}
	})
	stream, err := a.pool.Commands(t.Context(), a.proxy.addr, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		data     string
		seen     uint64 // replies that the sender had acted on
		executed bool
	}{
		{"0", 0, false},
		{"1", 0, false}, // the sender did not know of 0
		{"2", 1, false}, // the sender did not know of 1
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
			t.Errorf("command %s, sent after %d replies, was answered with %v", c.data, c.seen, reply)
		}
	}
}

// After a refused command, the next one still waits for the commands before the
// refused one.
func TestCommandAfterBusyOneWaitsForEarlierOnes(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"a", "g"} {
		t.Run("from "+from, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "g"}, func(c *Config) { c.BusyPause = time.Millisecond })
			s := w.streamOf("a", "b", "a", "b")
			w.setSight("b", "b") // it must not hand commands back to a
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
				e.refuse, e.instead = is("2", command.Busy("full")), is("0", command.Unavailable("not here").OnOtherNodes())
			})
			answers := sender.numbered(s, "1", 0, 3)
			mustFail(t, <-answers[2], command.CodeBusy, command.RetryLater)
			var last <-chan command.Outcome
			for last == nil { // until the lane's pause is over
				answer := sender.numbered(s, "1", 3, 4)[0]
				select {
				case out := <-answer: // during the pause
					mustFail(t, out, command.CodeBusy, command.RetryLater)
					time.Sleep(out.Failure.After)
				default:
					last = answer
				}
			}
			// a gets this command of another lane after those of this lane.
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

// The client waits as long as its answer says. So the pause of the lane begins
// when the client has the answer.
func TestLaneIsPausedUntilItsClientIsNotified(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"}, func(c *Config) { c.BusyPause = time.Nanosecond })
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.executor.set(func(e *executor) { e.refuse = func(command.Command) *command.Failure { return command.Busy("full") } })
	behind := make(chan command.Outcome, 1)
	a.router.Send(command.Command{Stream: s, Session: "1"}, func(command.Outcome) {
		a.executor.set(func(e *executor) { e.refuse = nil })
		a.router.Send(command.Command{Stream: s, Session: "1"}, func(out command.Outcome) { behind <- out })
	})
	mustFail(t, <-behind, command.CodeBusy, command.RetryLater)
}

func TestLaneStaysPausedAfterBusyAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"}, func(c *Config) { c.BusyPause = time.Hour })
	s := w.streamOf("a", "", "a")
	a := w.nodes["a"]
	a.executor.set(func(e *executor) { e.refuse = func(command.Command) *command.Failure { return command.Busy("full") } })
	mustFail(t, a.do(command.Command{Stream: s, Session: "1"}), command.CodeBusy, command.RetryLater)
	a.executor.set(func(e *executor) { e.refuse = nil })

	// The client may have sent this before it read that answer.
	out := a.do(command.Command{Stream: s, Session: "1"})
	mustFail(t, out, command.CodeBusy, command.RetryLater)
	if out.Failure.After <= 0 || out.Failure.After > time.Hour {
		t.Errorf("the answer says to wait for %v", out.Failure.After)
	}
	mustSucceed(t, a.do(command.Command{Stream: s, Session: "2"}))
	mustSucceed(t, a.do(command.Command{Stream: eventstore.StreamID{Type: "counter", ID: "other"}, Session: "1"}))
	mustSucceed(t, a.do(command.Command{Stream: s})) // without a session, no other command shares its lane
}
