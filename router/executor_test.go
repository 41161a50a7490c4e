package router

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// journal stands in for the event store: it gives a key one effect and one
// answer, on all nodes.
type journal struct {
	mu      sync.Mutex
	known   map[string]command.Result
	entries map[eventstore.StreamID][]entry
	changed broadcast
}

type entry struct {
	node, session, key string
	data               string
	attempt            int
}

func newJournal() *journal {
	return &journal{known: make(map[string]command.Result), entries: make(map[eventstore.StreamID][]entry)}
}

func (j *journal) execute(node string, c command.Command) command.Result {
	j.mu.Lock()
	defer j.mu.Unlock()
	id := c.Stream.String() + " " + c.Key
	if res, ok := j.known[id]; ok {
		res.Replayed = true
		return res
	}
	j.entries[c.Stream] = append(j.entries[c.Stream], entry{node, c.Session, c.Key, string(c.Data), c.Attempt})
	res := command.Result{Key: c.Key, Version: eventstore.Version(len(j.entries[c.Stream])), Position: eventstore.Position(len(j.entries[c.Stream])), Data: c.Data}
	j.known[id] = res
	j.changed.send()
	return res
}

func (j *journal) of(s eventstore.StreamID) []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.entries[s])
}

// executor executes commands one by one, on one goroutine.
type executor struct {
	node    string
	journal *journal

	mu      sync.Mutex
	queue   []job
	wake    chan struct{}
	reach   broadcast                                // sent when a command is submitted
	got     int                                      // commands submitted
	refuse  func(c command.Command) *command.Failure // in Submit; may be nil
	hold    chan struct{}                            // commands wait until it is closed; may be nil
	instead func(c command.Command) *command.Failure // replaces the execution; may be nil
}

type job struct {
	c     command.Command
	reply func(command.Outcome)
}

func (e *executor) Submit(c command.Command, reply func(command.Outcome)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got++
	e.reach.send()
	if e.refuse != nil {
		if f := e.refuse(c); f != nil {
			e.mu.Unlock()
			reply(command.Failed(f))
			e.mu.Lock()
			return
		}
	}
	e.queue = append(e.queue, job{c, reply})
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *executor) Get(ctx context.Context, g command.Get) (command.State, error) {
	e.mu.Lock()
	hold := e.hold
	e.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return command.State{}, &command.Failure{Code: command.CodeTimeout, Retry: command.RetryLater}
		}
	}
	n := len(e.journal.of(g.Stream))
	return command.State{Version: eventstore.Version(n), Data: json.RawMessage(fmt.Sprintf(`{"value":%d,"node":%q}`, n, e.node))}, nil
}

func (e *executor) run(ctx context.Context) {
	for {
		e.mu.Lock()
		hold, instead := e.hold, e.instead
		var j job
		if len(e.queue) > 0 {
			j = e.queue[0]
		}
		e.mu.Unlock()
		if j.reply == nil {
			select {
			case <-ctx.Done():
				return
			case <-e.wake:
			}
			continue
		}
		if hold != nil {
			select {
			case <-ctx.Done():
				return
			case <-hold:
			}
		}
		e.mu.Lock()
		e.queue = e.queue[1:]
		e.mu.Unlock()
		f := j.c.Ticket.Refusal()
		if f == nil && instead != nil {
			f = instead(j.c)
		}
		if f != nil {
			j.reply(command.Failed(f))
			continue
		}
		j.reply(command.Outcome{Result: e.journal.execute(e.node, j.c)})
	}
}

func (e *executor) set(change func(*executor)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(e)
}

// submitted returns how many commands were submitted.
func (e *executor) submitted() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got
}

// waitSubmitted waits until n commands were submitted.
func (e *executor) waitSubmitted(t testing.TB, n int) {
	t.Helper()
	e.waitFor(t, func() bool { return e.got >= n })
}

// waitMost bounds each wait for an event that should happen soon.
const waitMost = 2 * time.Minute

func (e *executor) waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	late := time.After(waitMost)
	for {
		reach := e.reach.wait()
		e.mu.Lock()
		done := ok()
		e.mu.Unlock()
		if done {
			return
		}
		select {
		case <-reach:
		case <-late:
			t.Fatalf("after %v the executor of node %s got %d commands, want more", waitMost, e.node, e.submitted())
		}
	}
}
