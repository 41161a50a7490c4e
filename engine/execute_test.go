package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestConfigReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Drain: -1, LoadTimeout: -1})
	if err == nil {
		t.Fatal("New accepted an invalid config")
	}
	for _, want := range []string{"Catalog", "Store", "Drain", "LoadTimeout"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestPipelinedCommandsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		const n = 700 // several drains
		answers := make([]<-chan command.Outcome, n)
		for i := range n {
			answers[i] = submit(t, h, cmd("a", fmt.Sprint("k", i), "put", m{"by": i + 1}))
		}
		for i, a := range answers {
			r := granted(t, <-a, eventstore.Version(i+1))
			if r.Key != fmt.Sprint("k", i) || r.Position != eventstore.Position(i+1) || r.Replayed {
				t.Fatalf("command %d has the result %+v", i, r)
			}
		}
		if value, version := get(t, h, command.Get{Stream: box("a")}); value != n*(n+1)/2 || version != n {
			t.Fatalf("the box shows %d at version %d", value, version)
		}
	})
}

func TestHotAggregateIsStoredInFewUnits(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := holdFirst(t, log)
	h := start(t, Config{Store: log})

	const n = 513
	var answers []<-chan command.Outcome
	for i := range n {
		answers = append(answers, submit(t, h, cmd("a", fmt.Sprint("k", i), "put", m{"by": 1})))
		if i == 0 {
			<-held.arrived // the first is being stored; 512 wait in the mailbox
		}
	}
	held.open()
	for i, a := range answers {
		granted(t, <-a, eventstore.Version(i+1))
	}
	s := h.Stats()
	// Three units, or more if deciding one takes longer than decideLimit on a busy machine.
	if s.Units < 3 || s.Units > 12 || s.Commits != n || s.Drains != 3 || s.Drained != n || s.DrainSizes[0] != 1 || s.DrainSizes[8] != 2 {
		t.Errorf("%d commands took %d units: %+v", n, s.Units, s)
	}
	if s.Loads != 1 {
		t.Errorf("the state was loaded %d times", s.Loads)
	}
}

func TestEveryCommandOfAUnitGetsItsPosition(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		granted(t, do(t, h, cmd("other", "x", "put", m{"by": 1})), 1)
		r := granted(t, do(t, h, cmd("a", "0", "idle", m{})), 0)
		if r.Position != 0 {
			t.Errorf("a command that changed nothing in an unused aggregate is at position %d", r.Position)
		}
		r = granted(t, do(t, h, cmd("a", "1", "repeat", m{"times": 3})), 3)
		if r.Position != 4 {
			t.Errorf("three events after one end at position %d", r.Position)
		}
		r = granted(t, do(t, h, cmd("a", "2", "idle", m{})), 3)
		if r.Position != 4 {
			t.Errorf("a command that changed nothing is at position %d, want that of the event before it", r.Position)
		}
		r = granted(t, do(t, h, cmd("a", "2", "idle", m{})), 3)
		if r.Position != 4 || !r.Replayed {
			t.Errorf("replayed: %+v", r)
		}
	})
}

func TestBadCommandsAreRefusedWithAReason(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog()})
	with := func(change func(*command.Command)) command.Command {
		c := cmd("a", "k", "put", m{"by": 1})
		change(&c)
		return c
	}
	for name, test := range map[string]struct {
		cmd     command.Command
		code    command.Code
		message string
	}{
		"no key":          {with(func(c *command.Command) { c.Key = "" }), command.CodeBadRequest, "key"},
		"unknown type":    {with(func(c *command.Command) { c.Stream.Type = "shelf" }), command.CodeNotFound, "shelf"},
		"unknown command": {with(func(c *command.Command) { c.Name = "take" }), command.CodeNotFound, "put"},
		"unknown member":  {cmd("a", "k", "put", m{"bye": 1}), command.CodeBadRequest, ""},
		"wrong type":      {cmd("a", "k", "put", m{"by": "1"}), command.CodeBadRequest, ""},
		"bad id":          {cmd("..", "k", "put", m{"by": 1}), command.CodeBadRequest, ".."},
		"too large":       {cmd("a", "k", "put", m{"by": strings.Repeat("1", MaxCommandBytes)}), command.CodeTooLarge, "65536"},
		"events too large": {
			cmd("a", "k", "huge", m{"bytes": MaxCommitBytes + 1}), command.CodeTooLarge, "196608",
		},
	} {
		f := failed(t, do(t, h, test.cmd), test.code, command.RetryNo)
		if !strings.Contains(f.Message, test.message) || f.Message == "" || f.Key != test.cmd.Key {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := do(t, h, cmd("a", "k2", "put", m{"by": "1"})).Failure; f.Field != "by" {
		t.Errorf("a member of the wrong type is named %q", f.Field)
	}
	granted(t, do(t, h, cmd("a", "fits", "huge", m{"bytes": 100_000})), 1)
}

func TestExpectedVersionIsCheckedAndItsRefusalKept(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		expecting := func(key string, v eventstore.Version) command.Command {
			c := cmd("a", key, "put", m{"by": 1})
			c.Expect = &v
			return c
		}
		granted(t, do(t, h, expecting("1", 0)), 1)
		f := failed(t, do(t, h, expecting("2", 0)), command.CodeConflict, command.RetryNo)
		if f.Version == nil || *f.Version != 1 {
			t.Errorf("the conflict lacks the version: %+v", f)
		}
		granted(t, do(t, h, expecting("3", 1)), 2)
		// The first outcome of a key is final.
		f = failed(t, do(t, h, expecting("2", 0)), command.CodeConflict, command.RetryNo)
		if !f.Replayed || f.Version == nil || *f.Version != 1 {
			t.Errorf("the first outcome was not replayed: %+v", f)
		}
	})
}

func TestLateCommandIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemlog()
		held := holdFirst(t, log)
		h, stop := startStopping(t, Config{Store: log})
		defer stop()
		a := submit(t, h, cmd("a", "1", "put", m{"by": 1}))
		<-held.arrived
		second := cmd("a", "2", "put", m{"by": 1})
		second.Deadline = time.Now().Add(time.Second)
		b := submit(t, h, second)
		time.Sleep(2 * time.Second) // the bubble's time
		held.open()
		granted(t, <-a, 1)
		failed(t, <-b, command.CodeTimeout, command.RetryLater)
		if s := h.Stats(); s.Late != 1 {
			t.Errorf("late: %d", s.Late)
		}
	})
}

// dated records the deadline of each append.
type dated struct {
	*memlog
	until []time.Time
}

func (d *dated) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	until, _ := ctx.Deadline()
	d.until = append(d.until, until) // one aggregate, so no concurrent appends
	return d.memlog.Append(ctx, u)
}

func TestAppendWaitsUntilTheUnitsLatestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &dated{memlog: newMemlog()}
		held := holdFirst(t, log.memlog)
		h, stop := startStopping(t, Config{Store: log, AppendTimeout: 5 * time.Second})
		defer stop()
		now := time.Now()
		answers := []<-chan command.Outcome{submit(t, h, cmd("a", "0", "put", m{"by": 1}))} // has no deadline
		<-held.arrived
		for i, after := range []time.Duration{2 * time.Minute, 3 * time.Minute, time.Minute} {
			c := cmd("a", fmt.Sprint(i+1), "put", m{"by": 1})
			c.Deadline = now.Add(after)
			answers = append(answers, submit(t, h, c))
		}
		held.open()
		for i, answer := range answers {
			granted(t, <-answer, eventstore.Version(i+1))
		}
		if want := []time.Time{now.Add(5 * time.Second), now.Add(3 * time.Minute)}; !slices.EqualFunc(log.until, want, time.Time.Equal) {
			t.Errorf("the appends have the deadlines %v, want %v", log.until, want)
		}
	})
}

func TestFullMailboxOrNodeRefusesCommandsAsBusy(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]Config{
		"mailbox by count": {MailboxCommands: 3},
		"mailbox by bytes": {MailboxBytes: 3 * 90},
		"node by count":    {PendingCommands: 4},
		"node by bytes":    {PendingBytes: 4 * 90},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := newMemlog()
			held := holdFirst(t, log)
			config.Store = log
			h := start(t, config)
			key := func(i int) string { return fmt.Sprintf("%075d", i) } // 90 bytes in all
			if size := (&job{Command: cmd("a", key(1), "put", m{"by": 1})}).size(); size > 90 || size < 81 {
				t.Fatalf("a command counts for %d bytes", size)
			}
			var answers []<-chan command.Outcome
			for i := range 4 {
				answers = append(answers, submit(t, h, cmd("a", key(i), "put", m{"by": 1})))
				if i == 0 {
					<-held.arrived
				}
			}
			failed(t, do(t, h, cmd("a", key(4), "put", m{"by": 1})), command.CodeBusy, command.RetryLater)
			held.open()
			for i, a := range answers {
				granted(t, <-a, eventstore.Version(i+1))
			}
			waitIdle(t, h)
			granted(t, do(t, h, cmd("a", key(4), "put", m{"by": 1})), 5)
		})
	}
}

func TestCommandsBehindARefusedOneAreNotExecuted(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := holdFirst(t, log)
	h := start(t, Config{Store: log})
	a := submit(t, h, cmd("a", "1", "put", m{"by": 1}))
	<-held.arrived
	ticket := command.NewTicket()
	behind := cmd("a", "2", "put", m{"by": 1})
	behind.Ticket = ticket.Next()
	b := submit(t, h, behind)
	c := submit(t, h, cmd("a", "3", "put", m{"by": 1})) // of another lane
	ticket.Refuse(command.Busy("an earlier command was refused"))
	held.open()
	granted(t, <-a, 1)
	if f := failed(t, <-b, command.CodeBusy, command.RetryLater); f.Key != "2" {
		t.Errorf("the refusal is for key %q", f.Key)
	}
	granted(t, <-c, 2)
}

func TestDrainWaitsForCommandsInFlight(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := holdFirst(t, log)
	h := start(t, Config{Store: log})
	a := submit(t, h, cmd("a", "1", "put", m{"by": 1}))
	<-held.arrived
	b := submit(t, h, cmd("a", "2", "put", m{"by": 1}))

	short, cancel := contextEnded(t)
	defer cancel()
	if err := h.Drain(short); err == nil || !strings.Contains(err.Error(), "2 commands") {
		t.Errorf("Drain with two in flight and no time: %v", err)
	}
	if f := failed(t, do(t, h, cmd("a", "3", "put", m{"by": 1})), command.CodeUnavailable, command.RetryLater); !f.Elsewhere {
		t.Error("a draining host did not send the command to another node")
	}
	if f := getFails(t, h, command.Get{Stream: box("a")}, command.CodeUnavailable); !f.Elsewhere {
		t.Error("a draining host did not send the get to another node")
	}
	held.open()
	if err := h.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Both have replies by now.
	for i, answer := range []<-chan command.Outcome{a, b} {
		select {
		case o := <-answer:
			granted(t, o, eventstore.Version(i+1))
		default:
			t.Error("Drain returned before the reply")
		}
	}
}

func TestRunEndsAfterTheAppendUnderWay(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := holdFirst(t, log)
	h, stop := startStopping(t, Config{Store: log})
	a := submit(t, h, cmd("a", "1", "put", m{"by": 1}))
	<-held.arrived
	b := submit(t, h, cmd("a", "2", "put", m{"by": 1}))
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	<-h.ctx.Done()
	held.open()
	granted(t, <-a, 1)
	if f := failed(t, <-b, command.CodeUnavailable, command.RetryLater); !f.Elsewhere {
		t.Error("a command that had not begun was not sent to another node")
	}
	<-stopped
	if f := failed(t, do(t, h, cmd("a", "3", "put", m{"by": 1})), command.CodeUnavailable, command.RetryLater); !f.Elsewhere {
		t.Error("a host that has ended did not send the command to another node")
	}
}
