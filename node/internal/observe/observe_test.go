package observe

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestDisabledTracingAllocatesNothing(t *testing.T) {
	o := New("n1", nil)
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	executor := Executor{answering{}, o}
	c, reply := command.Command{Trace: traceparent}, func(command.Outcome) {}
	if n := testing.AllocsPerRun(100, func() { executor.Submit(c, reply) }); n > 0 {
		t.Errorf("executing a command allocates %v times", n)
	}
}

// answering is an executor that answers immediately, and requires an unchanged
// trace.
type answering struct{}

func (answering) Submit(c command.Command, reply func(command.Outcome)) {
	if c.Trace != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
		panic("the trace was changed")
	}
	reply(command.Outcome{})
}

func (answering) Get(context.Context, command.Get) (command.State, error) {
	return command.State{}, nil
}

func TestStoreIsUpOneMinuteAfterLastRefusal(t *testing.T) {
	t.Parallel()
	var (
		s      StoreHealth
		now    = time.Unix(1_000_000, 0)
		full   = fmt.Errorf("%w: no space left on device", eventstore.ErrUnavailable)
		none   = eventstore.Appended{Commands: []eventstore.Place{{Version: 1}}}
		one    = eventstore.Appended{Commands: []eventstore.Place{{Version: 1}, {Version: 2, Position: 7}}}
		states = []struct {
			what string
			do   func()
			up   bool
		}{
			{"at first", func() {}, true},
			{"an append is refused", func() { s.appended(none, full, now) }, false},
			{"it answers a check", func() { s.Checked(nil) }, false},
			{"an append finds a conflict, which stores nothing", func() { s.appended(none, &eventstore.ConflictError{}, now) }, false},
			{"an append without events succeeds", func() { s.appended(none, nil, now) }, false},
			{"an append with events succeeds", func() { s.appended(one, nil, now) }, true},
			{"an append's fate is unknown", func() { s.appended(none, eventstore.ErrUnknown, now) }, false},
			{"half a minute without appends", func() { now = now.Add(refusedFor / 2) }, false},
			{"a minute", func() { now = now.Add(refusedFor / 2) }, true},
			{"it is silent", func() { s.Checked(full) }, false},
			{"a minute more", func() { now = now.Add(refusedFor) }, false},
			{"the log went back, which the store has answered", func() { s.Checked(eventstore.ErrWentBack) }, true},
		}
	)
	for _, step := range states {
		step.do()
		if got := s.Up(now); got != step.up {
			t.Errorf("%s: up is %v", step.what, got)
		}
	}
}

// appends is a store whose appends return err.
type appends struct {
	eventstore.Store
	err error
}

func (a appends) Append(context.Context, eventstore.Unit) (eventstore.Appended, error) {
	return eventstore.Appended{}, a.err
}

func TestAppendsRefusedByOutageAreNotMeasured(t *testing.T) {
	t.Parallel()
	o := New("n1", nil)
	for _, err := range []error{
		nil, &eventstore.ConflictError{}, // the database answered both
		fmt.Errorf("%w: no space left on device", eventstore.ErrUnavailable), eventstore.ErrUnknown,
	} {
		_, _ = Store{appends{err: err}, o}.Append(t.Context(), eventstore.Unit{})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(o.Appends)
	measured, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := measured[0].Metric[0].Histogram.GetSampleCount(); n != 2 {
		t.Errorf("%d of four appends are measured, want the 2 that the database answered", n)
	}
}
