package router

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestOwnerAnswersGet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "g"})
	s := w.streamOf("a", "b", "a", "b")
	mustSucceed(t, w.nodes["g"].do(command.Command{Stream: s}))
	for _, from := range []string{"a", "b", "g"} {
		state, err := w.nodes[from].router.Get(t.Context(), command.Get{Stream: s})
		if err != nil || state.Version != 1 || !strings.Contains(string(state.Data), `"node":"a"`) {
			t.Errorf("from %s: %+v %s, %v", from, state, state.Data, err)
		}
	}

	// A receiver whose view names another owner asks that owner.
	w.setSight("g", "b", "g")
	state, err := w.nodes["g"].router.Get(t.Context(), command.Get{Stream: s})
	if err != nil || !strings.Contains(string(state.Data), `"node":"a"`) {
		t.Errorf("by way of b: %s, %v", state.Data, err)
	}
}

func TestGetGoesToNextCandidate(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"dead", "dies", "drained"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, []string{"a", "b", "g"})
			s := w.streamOf("a", "b", "a", "b")
			a := w.nodes["a"]
			switch fault {
			case "dead":
				a.stop()
			case "drained":
				if err := a.router.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
			case "dies":
				a.executor.set(func(e *executor) { e.hold = make(chan struct{}) })
				time.AfterFunc(20*time.Millisecond, a.stop)
			}
			state, err := w.nodes["g"].router.Get(t.Context(), command.Get{Stream: s})
			if err != nil || !strings.Contains(string(state.Data), `"node":"b"`) {
				t.Errorf("%s, %v; want the answer of b", state.Data, err)
			}
		})
	}
}

func TestGetFailsClearly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"}, func(c *Config) { c.Search = 20 * time.Millisecond })
	s := w.streamOf("a", "", "a")
	a, g := w.nodes["a"], w.nodes["g"]
	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	for _, from := range []*node{a, g} {
		_, err := from.router.Get(t.Context(), command.Get{Stream: s, Deadline: time.Now().Add(30 * time.Millisecond)})
		if f, ok := errors.AsType[*command.Failure](err); !ok || f.Code != command.CodeTimeout {
			t.Errorf("past its deadline, from %s: %v", from.id, err)
		}
	}
	close(hold)
	a.stop()
	_, err := g.router.Get(t.Context(), command.Get{Stream: s})
	if f, ok := errors.AsType[*command.Failure](err); !ok || f.Code != command.CodeUnavailable || f.Retry != command.RetryLater {
		t.Errorf("without a domain node: %v", err)
	}
}

// large is an executor whose answers exceed a message between nodes.
type large struct{}

func (large) Submit(c command.Command, reply func(command.Outcome)) {
	reply(command.Outcome{Result: command.Result{Key: c.Key, Version: 3, Data: largeDocument()}})
}

func (large) Get(context.Context, command.Get) (command.State, error) {
	return command.State{Version: 3, Data: largeDocument()}, nil
}

func largeDocument() json.RawMessage { return json.RawMessage(`"` + strings.Repeat("x", 2<<20) + `"`) }

func TestUnsendableRequestIsRefusedAndStreamStaysUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"b", "g"})
	s := w.streamOf("b", "", "b")
	b, g := w.nodes["b"], w.nodes["g"]
	hold := make(chan struct{})
	b.executor.set(func(e *executor) { e.hold = hold })
	other := g.send(command.Command{Stream: s, Session: "other"})
	b.executor.waitSubmitted(t, 1)

	cmd := command.Command{Stream: s, Session: "1", Name: "add"}
	cmd.Data = largeDocument()
	mustFail(t, g.do(cmd), command.CodeTooLarge, command.RetryNo)
	cmd.Data = json.RawMessage(`1`)
	cmd.Trace = "\xff"
	mustFail(t, g.do(cmd), command.CodeBadRequest, command.RetryNo)
	cmd.Trace, cmd.Claims = "", map[string]any{"f": func() {}}
	mustFail(t, g.do(cmd), command.CodeBadRequest, command.RetryNo)
	_, err := g.router.Get(t.Context(), command.Get{Stream: eventstore.StreamID{Type: s.Type, ID: s.ID + "\xff"}})
	if f, ok := errors.AsType[*command.Failure](err); err != nil && (!ok || f.Code == command.CodeInternal) {
		t.Errorf("a name that is not UTF-8: %v", err)
	}

	close(hold)
	mustSucceed(t, <-other)
	if st := g.router.Stats(); st.Unknown != 0 {
		t.Errorf("the stream broke: %+v", st)
	}

	a := w.start("a", func(c *Config) { c.Executor = large{} })
	w.setReady("a", "b", "g")
	a.waitRing("a", "b")
	g.waitRing("a", "b")
	g.waitFor("the link to a", func() bool { return usable(g, "a") })
	s = w.streamOf("a", "", "a", "b")
	mustFail(t, g.do(command.Command{Stream: s}), command.CodeTooLarge, command.RetryNo)
	_, err = g.router.Get(t.Context(), command.Get{Stream: s})
	if f, ok := errors.AsType[*command.Failure](err); !ok || f.Code != command.CodeTooLarge {
		t.Errorf("a large state: %v", err)
	}
	if st := g.router.Stats(); st.Unknown != 0 {
		t.Errorf("the stream broke: %+v", st)
	}
}

func TestPeerGetsAreBoundedAndReleaseTheirSlots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"}, func(c *Config) { c.MaxGets = 1 })
	s := w.streamOf("a", "", "a")
	a, g := w.nodes["a"], w.nodes["g"]
	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	answers := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := g.router.Get(t.Context(), command.Get{Stream: s})
			answers <- err
		}()
	}
	if f, ok := errors.AsType[*command.Failure](<-answers); !ok || f.Code != command.CodeBusy {
		t.Errorf("a get past the bound: %v", f)
	}
	close(hold)
	if err := <-answers; err != nil {
		t.Errorf("a get within the bound: %v", err)
	}
	for range 3 {
		<-a.router.own.wait() // until a has finished the get before
		if _, err := g.router.Get(t.Context(), command.Get{Stream: s}); err != nil {
			t.Errorf("a get after others: %v", err)
		}
	}
}
