package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// deliberate is a command that takes time to decide. Use it in synctest bubbles.
type deliberate struct {
	For time.Duration `json:"for"`
}

func (c deliberate) Decide(aggregate.Call, Box) (aggregate.Decision[Box], error) {
	time.Sleep(c.For)
	return aggregate.Emit[Box](putEvent{By: 1})
}

func slowBoxes() *aggregate.Catalog {
	return catalog(func(b *aggregate.Type[Box]) { b.Commands["deliberate"] = deliberate{} })
}

func slow(id string, key any, takes time.Duration) command.Command {
	return cmd(id, fmt.Sprint(key), "deliberate", deliberate{For: takes})
}

// The load is four times what the aggregate can decide. Accepted commands must be
// answered in time, and the others refused on arrival.
func TestOverloadedAggregateGrantsOnlyInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startStopping(t, Config{Store: newMemlog(), Catalog: slowBoxes()})
		defer stop()
		const takes, every, deadline, offered = 20 * time.Millisecond, 5 * time.Millisecond, 2 * time.Second, 2000
		var granted, inTime, refused, late atomic.Int64
		for i := range offered {
			c := slow("a", i, takes)
			c.Deadline = time.Now().Add(deadline)
			h.Submit(c, func(o command.Outcome) {
				switch {
				case o.Failure == nil:
					granted.Add(1)
					if !time.Now().After(c.Deadline) {
						inTime.Add(1)
					}
				case o.Failure.Code == command.CodeBusy:
					refused.Add(1)
				default:
					late.Add(1)
				}
			})
			time.Sleep(every)
		}
		time.Sleep(2 * deadline)
		g, in := granted.Load(), inTime.Load()
		t.Logf("%d granted, %d of them in time, %d refused, %d late", g, in, refused.Load(), late.Load())
		if possible := int64(offered * every / takes); g < possible*8/10 {
			t.Errorf("%d of %d possible commands were granted", g, possible)
		}
		if in < g*95/100 || late.Load() > offered/20 {
			t.Errorf("%d granted, only %d of them in time; %d were accepted and not begun", g, in, late.Load())
		}
		if g+refused.Load()+late.Load() != offered {
			t.Errorf("%d commands have no reply", offered-g-refused.Load()-late.Load())
		}
	})
}

// One append takes a minute. The next units must correct the host's estimate.
func TestOneSlowUnitDoesNotRefuseLaterCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemlog()
		var first atomic.Bool
		log.before = func(eventstore.Unit) error {
			if first.CompareAndSwap(false, true) {
				time.Sleep(time.Minute)
			}
			return nil
		}
		h, stop := startStopping(t, Config{Store: log, Catalog: slowBoxes()})
		defer stop()
		granted(t, do(t, h, slow("a", "slow", 0)), 1)
		for i := range 20 {
			c := slow("a", i, time.Millisecond)
			c.Deadline = time.Now().Add(time.Second)
			granted(t, do(t, h, c), eventstore.Version(i+2))
		}
	})
}

func TestUnitIsStoredAfterTheDecideLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemlog()
		held := holdFirst(t, log)
		h, stop := startStopping(t, Config{Store: log, Catalog: slowBoxes()})
		defer stop()
		answers := []<-chan command.Outcome{submit(t, h, slow("a", 0, 0))}
		<-held.arrived
		for i := range 9 {
			answers = append(answers, submit(t, h, slow("a", i+1, 20*time.Millisecond)))
		}
		held.open()
		for i, a := range answers {
			granted(t, <-a, eventstore.Version(i+1))
		}
		if s := h.Stats(); s.Units != 4 { // one unit of one command, and three of three commands
			t.Errorf("%d units", s.Units)
		}
	})
}

// A command behind the expired one in its lane must not be executed either.
func TestCommandThatExpiresDuringARoundIsNotDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemlog()
		held := holdFirst(t, log)
		h, stop := startStopping(t, Config{Store: log, Catalog: slowBoxes()})
		defer stop()
		first := submit(t, h, slow("a", "first", 0))
		<-held.arrived
		long := submit(t, h, slow("a", "long", time.Second))
		ticket := command.NewTicket()
		late, behind := slow("a", "late", 0), slow("a", "behind", 0)
		late.Deadline, late.Ticket, behind.Ticket = time.Now().Add(500*time.Millisecond), ticket, ticket.Next()
		lateAnswer := make(chan command.Outcome, 1)
		h.Submit(late, func(o command.Outcome) {
			if o.Failure != nil {
				ticket.Refuse(o.Failure) // as the router does
			}
			lateAnswer <- o
		})
		behindAnswer := submit(t, h, behind)
		other := submit(t, h, slow("a", "other", 0))
		held.open()
		granted(t, <-first, 1)
		granted(t, <-long, 2)
		failed(t, <-lateAnswer, command.CodeTimeout, command.RetryLater)
		if o := <-behindAnswer; o.Failure == nil {
			t.Errorf("the command behind it was executed: %+v", o.Result)
		}
		granted(t, <-other, 3)
		assertLog(t, log)
	})
}

func TestApplicationCodeThatHangsIsLoggedByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logged
		h, stop := startStopping(t, Config{Store: newMemlog(), Catalog: slowBoxes(), Logger: out.logger()})
		defer stop()
		granted(t, do(t, h, slow("a", "quick", 4*time.Second)), 1)
		granted(t, do(t, h, slow("a", "again", 4*time.Second)), 2)
		if text := out.String(); text != "" {
			t.Errorf("the log says %s", text)
		}
		granted(t, do(t, h, slow("a", "slow", 12*time.Second)), 3)
		text := out.String()
		for _, want := range []string{"stream=box/a", `doing="deciding command deliberate"`, "for=5s", "for=10s"} {
			if !strings.Contains(text, want) {
				t.Errorf("the log lacks %s: %s", want, text)
			}
		}
		time.Sleep(time.Hour)
		if again := out.String(); again != text {
			t.Errorf("the log continues: %s", again)
		}
	})
}

func TestViewIsRenderedOncePerVersionOnRead(t *testing.T) {
	t.Parallel()
	var rendered atomic.Int64
	h := start(t, Config{Store: newMemlog(), Catalog: catalog(func(b *aggregate.Type[Box]) {
		b.View = func(b Box) any { rendered.Add(1); return map[string]int{"value": b.Value} }
	})})
	want := func(when string, n int64) {
		t.Helper()
		if got := rendered.Load(); got != n {
			t.Errorf("%s: rendered %d times, want %d", when, got, n)
		}
	}
	for i := range 20 {
		granted(t, do(t, h, cmd("a", fmt.Sprint(i), "put", m{"by": 1})), eventstore.Version(i+1))
	}
	want("after 20 commands", 0)
	for range 5 {
		if value, _ := get(t, h, command.Get{Stream: box("a")}); value != 20 {
			t.Errorf("the box shows %d", value)
		}
	}
	want("after 5 gets", 1)
	failed(t, do(t, h, cmd("a", "none", "put", m{"by": 0})), command.CodeRejected, command.RetryNo)
	get(t, h, command.Get{Stream: box("a"), Strong: true})
	want("after a rejection", 1)
	granted(t, do(t, h, cmd("a", "more", "put", m{"by": 1})), 21)
	if value, version := get(t, h, command.Get{Stream: box("a")}); value != 21 || version != 21 {
		t.Errorf("the box shows %d at version %d", value, version)
	}
	want("after one more command", 2)
}

// No get renders the state and no snapshot measures it.
func TestUnreadStateCountsAgainstTheCacheBounds(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog(), Catalog: notes(func(n *aggregate.Type[Note]) {
		n.SnapshotEvery = -1
		n.Events = aggregate.Events[Note]{"whole": whole{}}
		n.Commands = aggregate.Commands[Note]{"jot": keep{}}
	})})
	const size = 32 << 10
	for i := range 20 { // each event replaces the text, so the state does not grow
		granted(t, do(t, h, noted("a", fmt.Sprint(i), strings.Repeat("x", size))), eventstore.Version(i+1))
	}
	if s := h.Stats(); s.CachedBytes < size || s.CachedBytes > 10*size+2*measureStep {
		t.Errorf("a state of %d bytes counts as %d", size, s.CachedBytes)
	}
}

type (
	keep struct {
		Text string `json:"text"`
	}
	whole struct {
		Text string `json:"text"`
	}
)

func (c keep) Decide(aggregate.Call, Note) (aggregate.Decision[Note], error) {
	return aggregate.Emit[Note](whole(c))
}

func (e whole) Apply(n *Note) { n.Text = e.Text }

// Gets ask for many unused aggregates while the store does not answer.
func TestGetsAreBoundedLikeCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemlog()
		held := newGate(t)
		log.reading = func(eventstore.StreamID) error { held.pass(); return nil }
		h, stop := startStopping(t, Config{Store: log, PendingCommands: 10, Loads: 2})
		defer stop()
		defer held.open()
		ask := func(ctx context.Context, n int) (busy, others *atomic.Int64) {
			busy, others = new(atomic.Int64), new(atomic.Int64)
			for i := range n {
				go func() {
					_, err := h.Get(ctx, command.Get{Stream: box(fmt.Sprint(i))})
					if f, ok := errors.AsType[*command.Failure](err); ok && f.Code == command.CodeBusy {
						busy.Add(1)
						return
					}
					others.Add(1)
				}()
			}
			synctest.Wait()
			return busy, others
		}
		ctx, leave := context.WithCancel(t.Context())
		busy, others := ask(ctx, 200)
		if s := h.Stats(); busy.Load() != 190 || s.Pending != 10 || s.Active != 10 {
			t.Errorf("%d refused, %d pending, %d workers", busy.Load(), s.Pending, s.Active)
		}
		failed(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), command.CodeBusy, command.RetryLater)

		// When the callers leave, only the two loads under way remain.
		leave()
		synctest.Wait()
		if s := h.Stats(); others.Load() != 10 || s.Pending != 0 || s.Active != 2 {
			t.Errorf("%d ended, %d pending, %d workers", others.Load(), s.Pending, s.Active)
		}
		if s := h.Stats(); s.Loads != 2 {
			t.Errorf("%d loads were begun", s.Loads)
		}
		ctx, leave = context.WithCancel(t.Context())
		defer leave()
		if busy, _ = ask(ctx, 10); busy.Load() != 0 {
			t.Errorf("%d later gets were refused", busy.Load())
		}
	})
}
