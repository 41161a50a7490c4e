package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestConfigReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Drain: -1, LoadTimeout: -1})
	if err == nil {
		t.Fatal("New accepted a config without anything")
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
				t.Fatalf("command %d was answered with %+v", i, r)
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
			<-held.arrived // the first is being stored; 512 gather behind it
		}
	}
	held.open()
	for i, a := range answers {
		granted(t, <-a, eventstore.Version(i+1))
	}
	s := h.Stats()
	// Three, unless deciding one takes more than 50 ms on a busy machine.
	if s.Units < 3 || s.Units > 12 || s.Commits != n || s.Drains != 3 || s.Drained != n || s.DrainSizes[0] != 1 || s.DrainSizes[8] != 2 {
		t.Errorf("%d commands took %d units: %+v", n, s.Units, s)
	}
	if s.Loads != 1 {
		t.Errorf("the state was read %d times", s.Loads)
	}
}

func TestUnitPlacesEveryCommand(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		granted(t, do(t, h, cmd("other", "x", "put", m{"by": 1})), 1)
		r := granted(t, do(t, h, cmd("a", "0", "idle", m{})), 0)
		if r.Position != 0 {
			t.Errorf("a command that changed nothing on an unused aggregate stands at position %d", r.Position)
		}
		r = granted(t, do(t, h, cmd("a", "1", "repeat", m{"times": 3})), 3)
		if r.Position != 4 {
			t.Errorf("three events after one end at position %d", r.Position)
		}
		r = granted(t, do(t, h, cmd("a", "2", "idle", m{})), 3)
		if r.Position != 4 {
			t.Errorf("a command that changed nothing stands at position %d, want that of the event before it", r.Position)
		}
		// The same again, from the log.
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
		"no key":          {with(func(c *command.Command) { c.Key = "" }), command.BadRequest, "key"},
		"unknown type":    {with(func(c *command.Command) { c.Stream.Type = "shelf" }), command.NotFound, "shelf"},
		"unknown command": {with(func(c *command.Command) { c.Name = "take" }), command.NotFound, "put"},
		"unknown member":  {cmd("a", "k", "put", m{"bye": 1}), command.BadRequest, ""},
		"wrong type":      {cmd("a", "k", "put", m{"by": "1"}), command.BadRequest, ""},
		"bad id":          {cmd("..", "k", "put", m{"by": 1}), command.BadRequest, ".."},
		"too large":       {cmd("a", "k", "put", m{"by": strings.Repeat("1", MaxCommandBytes)}), command.TooLarge, "65536"},
		"events too large": {
			cmd("a", "k", "huge", m{"bytes": MaxCommitBytes + 1}), command.TooLarge, "196608",
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

func TestExpect(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		expecting := func(key string, v eventstore.Version) command.Command {
			c := cmd("a", key, "put", m{"by": 1})
			c.Expect = &v
			return c
		}
		granted(t, do(t, h, expecting("1", 0)), 1)
		f := failed(t, do(t, h, expecting("2", 0)), command.Conflict, command.RetryNo)
		if f.Version == nil || *f.Version != 1 {
			t.Errorf("the conflict does not tell the version: %+v", f)
		}
		granted(t, do(t, h, expecting("3", 1)), 2)
		// Whoever sends the refused key again gets the refusal again, though
		// the version would now... still not be it: the first answer is final.
		f = failed(t, do(t, h, expecting("2", 0)), command.Conflict, command.RetryNo)
		if !f.Replayed || f.Version == nil || *f.Version != 1 {
			t.Errorf("the first answer was not replayed: %+v", f)
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
		failed(t, <-b, command.Timeout, command.RetryLater)
		if s := h.Stats(); s.Late != 1 {
			t.Errorf("late: %d", s.Late)
		}
	})
}

// dated notes until when each append is waited for.
type dated struct {
	*memlog
	until []time.Time
}

func (d *dated) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	until, _ := ctx.Deadline()
	d.until = append(d.until, until) // of one aggregate: one after another
	return d.memlog.Append(ctx, u)
}

func TestUnitIsWaitedForUntilItsLatestDeadline(t *testing.T) {
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
			t.Errorf("the units are waited for until %v, want %v", log.until, want)
		}
	})
}

func TestFullMailboxRefuses(t *testing.T) {
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
			failed(t, do(t, h, cmd("a", key(4), "put", m{"by": 1})), command.Busy, command.RetryLater)
			held.open()
			for i, a := range answers {
				granted(t, <-a, eventstore.Version(i+1))
			}
			waitIdle(t, h)
			granted(t, do(t, h, cmd("a", key(4), "put", m{"by": 1})), 5)
		})
	}
}

func TestRefusedLaneIsNotExecuted(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := holdFirst(t, log)
	h := start(t, Config{Store: log})
	a := submit(t, h, cmd("a", "1", "put", m{"by": 1}))
	<-held.arrived
	lane := command.NewLane()
	behind := cmd("a", "2", "put", m{"by": 1})
	behind.Lane = lane.Next()
	b := submit(t, h, behind)
	c := submit(t, h, cmd("a", "3", "put", m{"by": 1})) // of another lane
	lane.Refuse(busy("something before it was refused"))
	held.open()
	granted(t, <-a, 1)
	if f := failed(t, <-b, command.Busy, command.RetryLater); f.Key != "2" {
		t.Errorf("the refusal is for key %q", f.Key)
	}
	granted(t, <-c, 2)
}

func TestPanickingAggregateCostsOnlyItsCommand(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"decide", "apply", "error"} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			log := newMemlog()
			held := holdFirst(t, log)
			var out logged
			h := start(t, Config{Store: log, Logger: out.logger()})
			one := submit(t, h, cmd("a", "1", "put", m{"by": 1}))
			<-held.arrived
			// These three are drained together.
			two := submit(t, h, cmd("a", "2", "put", m{"by": 1}))
			bad := submit(t, h, cmd("a", "bad", "boom", m{"in": in}))
			three := submit(t, h, cmd("a", "3", "put", m{"by": 1}))
			held.open()
			granted(t, <-one, 1)
			granted(t, <-two, 2)
			failed(t, <-bad, command.Internal, command.RetryNo)
			granted(t, <-three, 3)
			if value, _ := get(t, h, command.Get{Stream: box("a")}); value != 3 {
				t.Errorf("the box shows %d", value)
			}
			if text := out.String(); !strings.Contains(text, "boom") || (in != "error" && !strings.Contains(text, "setup_test.go")) {
				t.Errorf("the log does not say where it happened: %s", text)
			}
			// Not final: mended, the program may execute it.
			if f := failed(t, do(t, h, cmd("a", "bad", "boom", m{"in": in})), command.Internal, command.RetryNo); f.Replayed {
				t.Error("a fault of the program was kept as an answer")
			}
		})
	}
}

func TestErrorsOfDecideNeverEndTheProcess(t *testing.T) {
	t.Parallel()
	for in, says := range map[string]string{"nil rejection": "return nil to grant the command", "nil error": "setup_test.go"} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			var out logged
			h := start(t, Config{Store: newMemlog(), Logger: out.logger()})
			failed(t, do(t, h, cmd("a", "bad", "boom", m{"in": in})), command.Internal, command.RetryNo)
			granted(t, do(t, h, cmd("a", "2", "put", m{"by": 1})), 1)
			if text := out.String(); !strings.Contains(text, says) {
				t.Errorf("the log does not say %q: %s", says, text)
			}
		})
	}
}

func TestLogLinesAboutCommandsCarryTheirKeys(t *testing.T) {
	t.Parallel()
	var out logged
	log := newMemlog()
	h := start(t, Config{Store: log, Logger: out.logger()})
	wants := func(says ...string) {
		t.Helper()
		text := out.String()
		for _, say := range says {
			if !strings.Contains(text, say) {
				t.Errorf("the log lacks %q: %s", say, text)
			}
		}
	}
	c := cmd("a", "k-error", "boom", m{"in": "error"})
	c.Client = "ada"
	failed(t, do(t, h, c), command.Internal, command.RetryNo)
	wants("key=k-error", "command=boom", "client=ada", "stream=box/a")
	for i := range 50 { // a client that repeats it fills no disk
		failed(t, do(t, h, cmd("a", fmt.Sprint("k-panic-", i), "boom", m{"in": "decide"})), command.Internal, command.RetryNo)
	}
	wants("key=k-panic-0", "key=k-panic-9")
	if n := strings.Count(out.String(), "application code panicked"); n > 40 {
		t.Errorf("%d of 50 panics at one place were logged", n)
	}
	log.before = func(eventstore.Unit) error { return errors.New("disk on fire") }
	failed(t, do(t, h, cmd("a", "k-store", "put", m{"by": 1})), command.Internal, command.RetrySameKey)
	wants("key=k-store", "disk on fire")
}

func TestPanickingViewStopsGetsAndNotCommands(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog()})
	granted(t, do(t, h, cmd("a", "1", "boom", m{"in": "view"})), 1)
	getFails(t, h, command.Get{Stream: box("a")}, command.Internal)
	granted(t, do(t, h, cmd("a", "2", "put", m{"by": 1})), 2)
	granted(t, do(t, h, cmd("b", "3", "put", m{"by": 1})), 1)
	get(t, h, command.Get{Stream: box("b")})
}

func TestPanicInHistoryStopsOnlyThatAggregate(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	granted(t, do(t, h, cmd("a", "1", "boom", m{"in": "view"})), 1)
	log.commits[0].Events[0].Data = []byte(`{"in":"apply"}`)
	other := start(t, Config{Store: log})
	failed(t, do(t, other, cmd("a", "2", "put", m{"by": 1})), command.Internal, command.RetryNo)
	getFails(t, other, command.Get{Stream: box("a")}, command.Internal)
	granted(t, do(t, other, cmd("b", "2", "put", m{"by": 1})), 1)
}

func TestEventFromTheFutureLeavesTheAggregateToOthers(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	newer := start(t, Config{Store: log})
	granted(t, do(t, newer, cmd("a", "1", "mark", m{"text": "x"})), 1)
	older := start(t, Config{Store: log, Catalog: catalog(func(b *aggregate.Type[Box]) {
		delete(b.Commands, "mark")
		delete(b.Events, "marked")
	})})
	if f := failed(t, do(t, older, cmd("a", "2", "put", m{"by": 1})), command.Unavailable, command.RetryLater); !f.Elsewhere {
		t.Error("the command was not left to another node")
	}
	if f := getFails(t, older, command.Get{Stream: box("a")}, command.Unavailable); !f.Elsewhere {
		t.Error("the get was not left to another node")
	}
	if f := failed(t, do(t, older, cmd("a", "3", "mark", m{"text": "x"})), command.NotFound, command.RetryNo); !f.Elsewhere {
		t.Error("a command that only newer programs know was not left to another node")
	}
	granted(t, do(t, older, cmd("b", "2", "put", m{"by": 1})), 1)
	granted(t, do(t, newer, cmd("a", "2", "put", m{"by": 1})), 2)
	if n, _ := log.counts(); n != 3 {
		t.Errorf("%d appends", n)
	}
}

func TestStoreFailuresSayWhatIsKnown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err       error
		code      command.Code
		retry     command.Retry
		elsewhere bool
	}{
		"unavailable": {eventstore.ErrUnavailable, command.Unavailable, command.RetryLater, true},
		"unknown":     {eventstore.ErrUnknown, command.Unavailable, command.RetrySameKey, true},
		"unknown, and the log went back": {
			fmt.Errorf("%w: %w", eventstore.ErrUnknown, eventstore.ErrWentBack), command.Unavailable, command.RetrySameKey, false,
		},
		"went back": {eventstore.ErrWentBack, command.Unavailable, command.RetryLater, false},
		"closed":    {eventstore.ErrClosed, command.Unavailable, command.RetryLater, true},
		"invalid":   {&eventstore.InvalidError{Reason: "no NUL"}, command.BadRequest, command.RetryNo, false},
		"a fault":   {errors.New("disk full at /secret"), command.Internal, command.RetrySameKey, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := newMemlog()
			fail := true
			log.before = func(eventstore.Unit) error {
				if fail {
					return test.err
				}
				return nil
			}
			h := start(t, Config{Store: log})
			c := cmd("a", "1", "put", m{"by": 1})
			f := failed(t, do(t, h, c), test.code, test.retry)
			if f.Code == command.Unavailable && errors.Is(test.err, eventstore.ErrUnavailable) && f.After <= 0 {
				t.Errorf("%+v does not say when to come back", f)
			}
			if f.Elsewhere != test.elsewhere || f.Message == "" || strings.Contains(f.Message, "secret") {
				t.Errorf("%+v", f)
			}
			fail = false
			granted(t, do(t, h, c), 1)
		})
	}
}

func TestAnOutageIsLoggedOnceWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, out := newMemlog(), &logged{}
		var cause error
		log.before = func(eventstore.Unit) error { return cause }
		h, stop := startStopping(t, Config{Store: log, Logger: out.logger()})
		defer stop()
		said := func(says string, times int) {
			t.Helper()
			if got := strings.Count(out.String(), says); got != times {
				t.Errorf("%q is said %d times, want %d:\n%s", says, got, times, out)
			}
		}
		version := eventstore.Version(0)
		put := func() {
			t.Helper()
			version++
			granted(t, do(t, h, cmd("a", fmt.Sprint("k", version), "put", m{"by": 1})), version)
		}
		for i := range 2 {
			for range 3 { // a disk that is almost full takes a command now and then
				cause = fmt.Errorf("%w: no route", eventstore.ErrUnavailable)
				out := do(t, h, cmd("a", "refused", "put", m{"by": 1}))
				failed(t, out, command.Unavailable, command.RetryLater)
				if got := out.Failure.Cause; got != cause.Error() {
					t.Errorf("the cause is %q, want %q", got, cause)
				}
				cause = nil
				put()
				said("takes commands again", i)
			}
			time.Sleep(outageQuiet)
			if out := do(t, h, cmd("a", fmt.Sprint("idle", i), "idle", m{})); out.Failure != nil {
				t.Fatal(out.Failure)
			}
			said("takes commands again", i) // nothing was stored
			put()
			put()
			said("no route", i+1)
			said("takes no commands", i+1)
			said("takes commands again", i+1)
		}
	})
}

func TestPoisonedCommandFailsAlone(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := newGate(t)
	var first sync.Once
	log.before = func(u eventstore.Unit) error {
		first.Do(held.pass)
		for _, c := range u.Commands {
			if c.Key == "poison" {
				return &eventstore.InvalidError{Stream: u.Stream, Reason: "poison"}
			}
		}
		return nil
	}
	h := start(t, Config{Store: log})
	answers := []<-chan command.Outcome{submit(t, h, cmd("a", "1", "put", m{"by": 1}))}
	<-held.arrived
	for _, key := range []string{"2", "poison", "3"} {
		answers = append(answers, submit(t, h, cmd("a", key, "put", m{"by": 1})))
	}
	held.open()
	granted(t, <-answers[0], 1)
	granted(t, <-answers[1], 2)
	if f := failed(t, <-answers[2], command.BadRequest, command.RetryNo); !strings.Contains(f.Message, "poison") {
		t.Errorf("the message does not say why: %s", f.Message)
	}
	granted(t, <-answers[3], 3)
}

func TestDrainAnswersWhatIsInFlight(t *testing.T) {
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
	if f := failed(t, do(t, h, cmd("a", "3", "put", m{"by": 1})), command.Unavailable, command.RetryLater); !f.Elsewhere {
		t.Error("a draining host did not send the command elsewhere")
	}
	if f := getFails(t, h, command.Get{Stream: box("a")}, command.Unavailable); !f.Elsewhere {
		t.Error("a draining host did not send the get elsewhere")
	}
	held.open()
	if err := h.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Both are answered by now.
	for i, answer := range []<-chan command.Outcome{a, b} {
		select {
		case o := <-answer:
			granted(t, o, eventstore.Version(i+1))
		default:
			t.Error("Drain returned before the answer")
		}
	}
}

func TestRunEndsWithWhatIsInFlight(t *testing.T) {
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
	if f := failed(t, <-b, command.Unavailable, command.RetryLater); !f.Elsewhere {
		t.Error("what was not begun was not sent elsewhere")
	}
	<-stopped
	if f := failed(t, do(t, h, cmd("a", "3", "put", m{"by": 1})), command.Unavailable, command.RetryLater); !f.Elsewhere {
		t.Error("a host that has ended did not send the command elsewhere")
	}
}
