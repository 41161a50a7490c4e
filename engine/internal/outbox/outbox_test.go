package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

type (
	thing struct{}
	touch struct {
		N int `json:"n"`
	}
	touched touch
	seen    struct {
		N int `json:"n"`
	}
)

func (c touch) Decide(aggregate.Call, thing) (aggregate.Decision[thing], error) {
	return aggregate.Emit(touched(c))
}

func (touched) Apply(*thing) {}

// definition returns the process manager "watcher".
func definition(t *testing.T, rejected func(process.At, process.Rejection, *seen) process.Commands) *process.Definition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[thing]{
		Name: "thing", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[thing]{"touch": touch{}}, Events: aggregate.Events[thing]{"touched": touched{}},
	})
	d := process.Define(c, process.Type[seen]{
		Name:     "watcher",
		On:       process.Handlers[seen]{process.On(func(_ process.At, e touched, s *seen) process.Commands { s.N = e.N; return nil })},
		Rejected: rejected,
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return d
}

// A world is an outbox in a store, and a sender that answers as a test says.
type world struct {
	t      *testing.T
	rows   rows.Store
	table  rows.Table
	outbox *Outbox
	cause  eventstore.Position // of the last command

	mu     sync.Mutex
	answer func(command.Command) *command.Failure
	sent   []string // keys with a result, in order
	flying map[string]int
	most   int // commands that were in flight together to one target
}

func newWorld(t *testing.T, d *process.Definition) *world {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w := &world{t: t, rows: store.Rows(), flying: map[string]int{}, answer: func(command.Command) *command.Failure { return nil }}
	w.table = w.open("one")
	w.outbox = New(Config{Process: d, Rows: w.rows, Send: w.send, LogID: store.LogID, Slots: NewSlots(nil), Logger: slog.New(slog.DiscardHandler)})
	w.outbox.pauses = [mostFailures]time.Duration{1, 1, 1, 1, 1}
	return w
}

func (w *world) open(fingerprint string) rows.Table {
	w.t.Helper()
	spec := rows.Spec{Projection: "watcher", Fingerprint: fingerprint, Segments: 1, Columns: []rows.Column{rows.DueColumn}, Process: true, FromTheBeginning: true}
	b, err := w.rows.Ensure(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	table, err := w.rows.Open(w.t.Context(), spec, b.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return table
}

func (w *world) send(_ context.Context, c command.Command) command.Outcome {
	target := c.Stream.String()
	w.mu.Lock()
	w.flying[target]++
	w.most = max(w.most, w.flying[target])
	f := w.answer(c)
	w.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying[target]--
	if f == nil {
		w.sent = append(w.sent, target+" "+c.Key)
	}
	return command.Outcome{Failure: f}
}

// write adds commands to the outbox, one cause for each target.
func (w *world) write(table rows.Table, targets ...string) {
	w.t.Helper()
	list, err := table.Checkpoints(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	b := rows.Batch{From: list[0].Position, Key: "k", Term: list[0].Term}
	for _, target := range targets {
		w.cause++
		b.Commands = append(b.Commands, rows.Command{CommandID: rows.CommandID{Position: w.cause}, Sequence: "s", Target: target, Name: "touch", Data: []byte(`{"n":1}`), Depth: 1})
	}
	b.To = w.cause
	if err := table.Write(w.t.Context(), b); err != nil {
		w.t.Fatal(err)
	}
}

// run sends for a build until the test ends.
func (w *world) run(table rows.Table) *Signal {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	signal := &Signal{}
	list, err := table.Checkpoints(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	signal.Began(list[0].Term.Current())
	var all sync.WaitGroup
	all.Go(func() { w.outbox.Segment(ctx, table.Build().ID, 0, signal) })
	w.t.Cleanup(func() { cancel(); all.Wait() })
	return signal
}

func (w *world) keys(target string) (keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sent {
		if to, key, _ := strings.Cut(s, " "); to == target {
			keys = append(keys, key)
		}
	}
	return keys
}

func (w *world) left() (n int) {
	w.t.Helper()
	list, err := w.rows.Senders(w.t.Context(), "watcher")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range list {
		n += s.Commands
	}
	return n
}

func (w *world) until(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not reached: %s", what)
		}
	}
}

func key(position int) string { return fmt.Sprintf("~watcher:%d.0:0", position) }

// TestCommandsToOneTargetAreSentInOrder sends more commands to one target than a
// segment keeps in memory, to owners that do not always answer.
func TestCommandsToOneTargetAreSentInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, definition(t, nil))
	w.answer = func(c command.Command) *command.Failure {
		switch rand.IntN(100) {
		case 0:
			return command.Busy("busy")
		case 1:
			return command.Timeout(command.RetrySameKey, "no answer")
		case 2:
			return command.Unavailable("no owner")
		}
		if c.Client != "~watcher" || c.Depth != 1 || c.Log == "" || string(c.Data) != `{"n":1}` || time.Until(c.Deadline) > answerIn {
			t.Errorf("the command is %+v", c)
		}
		return nil
	}
	var targets []string
	want := map[string][]string{}
	for i := range mostLoaded {
		target := []string{"thing/a", "thing/a", "thing/a", fmt.Sprint("thing/", i)}[i%4]
		targets = append(targets, target)
		want[target] = append(want[target], key(i+1))
	}
	w.write(w.table, targets[:100]...)
	signal := w.run(w.table)
	w.write(w.table, targets[100:]...)
	signal.Wrote(true, time.Time{})
	w.until("an empty outbox", func() bool { return w.left() == 0 })
	for target, keys := range want {
		if got := w.keys(target); !slices.Equal(got, keys) {
			t.Errorf("%s has got %v, want %v", target, got, keys)
		}
	}
	if w.most != 1 {
		t.Errorf("%d commands were in flight to one target", w.most)
	}
	if s := w.outbox.Stats(); s.Sent != uint64(len(targets)) || s.Retries == 0 || s.Refused != 0 {
		t.Errorf("the figures are %+v", s)
	}
}

// TestAnotherLogEmptiesTheMemory changes the log's id while a command waits, whose
// cause the new log lacks.
func TestAnotherLogEmptiesTheMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, definition(t, nil))
	var id atomic.Pointer[string]
	id.Store(new("one"))
	w.outbox.cfg.LogID = func() string { return *id.Load() }
	w.answer = func(c command.Command) *command.Failure {
		if c.Log == "one" {
			return command.OtherLog(c.Log, "two")
		}
		return nil
	}
	w.write(w.table, "thing/a", "thing/b")
	signal := w.run(w.table)
	w.until("attempts", func() bool { return w.outbox.Stats().Retries > 1 })
	if err := w.rows.Sent(t.Context(), "watcher", []rows.Sent{{CommandID: rows.CommandID{Position: 1}}}); err != nil { // as a restore does
		t.Fatal(err)
	}
	id.Store(new("two"))
	signal.Wrote(true, time.Time{})
	w.until("an empty outbox", func() bool { return w.left() == 0 })
	if a, b := w.keys("thing/a"), w.keys("thing/b"); len(a) != 0 || len(b) != 1 {
		t.Errorf("sent: %v and %v", a, b)
	}
}

func TestTargetIsHeldAfterFiveFailuresUntilAnOperatorDecides(t *testing.T) {
	t.Parallel()
	w := newWorld(t, definition(t, nil))
	broken, attempts := true, 0
	w.answer = func(c command.Command) *command.Failure {
		if broken && c.Stream.ID == "a" && c.Key != key(1) {
			attempts++
			return command.Internal(command.RetryNo)
		}
		return nil
	}
	w.write(w.table, "thing/a", "thing/a", "thing/a", "thing/b", "thing/a")
	w.run(w.table)
	w.until("a held target", func() bool { h, err := w.rows.Held(t.Context(), "watcher", 10); return err == nil && len(h) == 1 })
	w.until("the other target's command", func() bool { return len(w.keys("thing/b")) == 1 && w.left() == 3 })
	held, err := w.rows.Held(t.Context(), "watcher", 10)
	if err != nil || held[0].Position != 2 || held[0].Attempts != mostFailures || !strings.Contains(held[0].Error, "internal") {
		t.Fatalf("held: %+v, %v", held, err)
	}
	w.mu.Lock()
	if attempts != mostFailures {
		t.Errorf("%d attempts, want %d", attempts, mostFailures)
	}
	w.mu.Unlock()
	if ok, err := w.rows.Release(t.Context(), "watcher", held[0].CommandID); !ok || err != nil {
		t.Fatalf("release: %v, %v", ok, err)
	}
	w.until("the target is held again", func() bool { h, err := w.rows.Held(t.Context(), "watcher", 10); return err == nil && len(h) == 1 })
	w.mu.Lock()
	broken = false
	w.mu.Unlock()
	if ok, err := w.rows.Discard(t.Context(), "watcher", held[0].CommandID); !ok || err != nil {
		t.Fatalf("discard: %v, %v", ok, err)
	}
	w.until("an empty outbox", func() bool { return w.left() == 0 })
	if got := w.keys("thing/a"); !slices.Equal(got, []string{key(1), key(3), key(5)}) {
		t.Errorf("the target has got %v", got)
	}
}

func TestFinalOutcomesRemoveTheirCommands(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		failure *command.Failure
		records bool
	}{
		"key_reused":  {command.KeyReused("k"), false},
		"rejected":    {command.Rejected("full", "no room"), true},
		"conflict":    {command.Conflict(eventstore.StreamID{Type: "thing", ID: "a"}, 1, 2), true},
		"bad_request": {command.BadRequest("n", "wrong"), true},
		"not_found":   {command.NotFound("none"), true},
		"too_large":   {command.TooLarge("large"), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, definition(t, func(process.At, process.Rejection, *seen) process.Commands { return nil }))
			var recorded []string
			w.answer = func(c command.Command) *command.Failure {
				if c.Stream.Type == "thing" {
					return test.failure
				}
				recorded = append(recorded, fmt.Sprintf("%s %s %s %d %s", c.Stream, c.Key, c.Name, c.Depth, c.Data))
				if len(recorded) == 1 {
					return command.Busy("once more")
				}
				return nil
			}
			w.write(w.table, "thing/a")
			w.run(w.table)
			w.until("an empty outbox", func() bool { return w.left() == 0 })
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(recorded) > 0 != test.records {
				t.Fatalf("recorded: %v", recorded)
			}
			for _, r := range recorded {
				if want := "watcher/s ~watcher:r:1.0:0 rejected 1 {"; !strings.HasPrefix(r, want) || !strings.Contains(r, `"code":"`+name) {
					t.Errorf("recorded %s, want %s… with the code", r, want)
				}
			}
		})
	}
}

func TestBuildSendsOnceTheOutboxOfOthersIsEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t, definition(t, nil))
	next := w.open("two")
	w.write(w.table, "thing/a", "thing/a")
	if err := w.rows.Handover(t.Context(), w.table.Build().ID, next.Build().ID); err != nil {
		t.Fatal(err)
	}
	w.write(next, "thing/b", "thing/b", "thing/a") // its causes have later positions
	block := true
	w.answer = func(c command.Command) *command.Failure {
		if block {
			return command.Unavailable("no owner")
		}
		return nil
	}
	w.run(next)
	ctx, cancel := context.WithCancel(t.Context())
	var draining sync.WaitGroup
	draining.Go(func() { w.outbox.Drain(ctx, func(build int64) bool { return build == next.Build().ID }) })
	defer func() { cancel(); draining.Wait() }()
	w.until("attempts of the former build", func() bool { return w.outbox.Stats().Retries > 3 })
	w.mu.Lock()
	block = false
	w.mu.Unlock()
	w.until("an empty outbox", func() bool { return w.left() == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sent) != 5 || !strings.HasPrefix(w.sent[0], "thing/a ") || !strings.HasPrefix(w.sent[1], "thing/a ") {
		t.Errorf("sent: %v", w.sent)
	}
}
