package engine

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// wakeUp returns a command of the system.
func wakeUp(id, key, name string, data any) command.Command {
	c := cmd(id, key, name, data)
	c.Client, c.System, c.Log = "~wake", true, "memory"
	return c
}

func TestReservedKeysNeedTheSystemMark(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog()})
	f := failed(t, do(t, h, cmd("a", "~wake:1", "put", m{"by": 1})), command.CodeBadRequest, command.RetryNo)
	if f.Field != "key" {
		t.Errorf("the failure names the field %q", f.Field)
	}
	claimed := cmd("a", "k", "put", m{"by": 1})
	claimed.Client = "~wake"
	failed(t, do(t, h, claimed), command.CodeBadRequest, command.RetryNo)
	claimed.System = true
	failed(t, do(t, h, claimed), command.CodeBadRequest, command.RetryNo)
	granted(t, do(t, h, wakeUp("a", "~wake:1", "put", m{"by": 1})), 1)
}

func TestDepthOfACommandIsStored(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	c := wakeUp("a", "~p:1.0:0", "put", m{"by": 1})
	c.Depth = 7
	granted(t, do(t, h, c), 1)
	commits, err := log.Read(t.Context(), 0, 10)
	if err != nil || len(commits) != 1 || commits[0].Meta.Depth != 7 || commits[0].Meta.Client != "~wake" {
		t.Errorf("the log has %+v, %v", commits, err)
	}
}

// A relabelled is a log whose id changes.
type relabelled struct {
	*memlog
	id atomic.Pointer[string]
}

func (r *relabelled) LogID() string { return *r.id.Load() }

// The command arrives before the log has another id, and would be executed after.
func TestCommandWhoseCauseIsInAnotherLogIsNotExecuted(t *testing.T) {
	t.Parallel()
	log := &relabelled{memlog: newMemlog()}
	log.id.Store(new("memory"))
	hold := holdFirst(t, log.memlog)
	h := start(t, Config{Store: log})
	first := submit(t, h, cmd("a", "first", "put", m{"by": 1}))
	<-hold.arrived
	waiting := submit(t, h, wakeUp("a", "~wake:1", "put", m{"by": 100}))
	log.id.Store(new("restored"))
	hold.open()
	granted(t, <-first, 1)
	failed(t, <-waiting, command.CodeUnavailable, command.RetryLater)
	failed(t, do(t, h, wakeUp("a", "~wake:1", "put", m{"by": 100})), command.CodeUnavailable, command.RetryLater)
	if value, version := get(t, h, command.Get{Stream: box("a")}); value != 1 || version != 1 {
		t.Errorf("the box has %d at version %d, want 1 at 1", value, version)
	}
	again := wakeUp("a", "~wake:1", "put", m{"by": 100})
	again.Log = "restored"
	granted(t, do(t, h, again), 2)
}

// The log gets another id while the command is decided.
func TestUnitOfAnotherLogIsNotAppended(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog()})
	j := &job{Command: wakeUp("a", "~wake:1", "put", m{"by": 1})}
	j.Log = "another"
	w := worker{host: h, cell: &cell{stream: box("a")}}
	if _, err := w.append(draft{jobs: []*job{j}}); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("append returns %v, want unavailable", err)
	}
}
