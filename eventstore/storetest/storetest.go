// Package storetest is the conformance suite for implementations of
// eventstore.Store. It has a test for every promise of package eventstore.
package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

// Log is an empty log for one test. All functions are required.
type Log struct {
	// Open opens another store on the log. The suite closes it.
	Open func(t *testing.T, committed eventstore.Committed) Store

	// Exec changes the tables without the store. No trigger and no missing
	// right stops it. Tables and columns have the same names in all
	// implementations.
	Exec func(t *testing.T, sql string)

	// Poison makes the database refuse commits of aggregates with the id
	// "poison".
	Poison func(t *testing.T)

	// Unconstrain drops the constraints that keep positions, versions and
	// keys unique.
	Unconstrain func(t *testing.T)

	// SetBack deletes every commit after a position while stores are open, as if
	// an older copy was restored.
	SetBack func(t *testing.T, to eventstore.Position)
}

// Store is the contract, and the other methods that the suite needs.
type Store interface {
	eventstore.Mover
	verify.Source
	AcceptLoss(ctx context.Context) (string, error)
	Waiting() int
}

// Run runs the suite. newLog makes a log for each test.
func Run(t *testing.T, newLog func(t *testing.T) Log) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Log)
	}{
		{"appended commits are read as they were", testRoundTrip},
		{"reads begin and end where requested", testReads},
		{"reads by type examine a bounded range", testReadType},
		{"a conflict in a batch refuses only its unit", testConflictInBatch},
		{"a unit is stored whole or not", testUnitWhole},
		{"units of one stream keep their order", testStreamOrder},
		{"a known key gives its first outcome", testKeys},
		{"a key reused for another command is refused", testReused},
		{"keys are checked before versions", testKeyBeforeVersion},
		{"a kept outcome is final", testKeep},
		{"an outcome on a moved stream is a conflict", testOutcomeMoved},
		{"units that would leave a hole are refused", testHoleRefused},
		{"invalid data fails alone", testPoison},
		{"data that the database refuses fails alone", testDatabaseRefuses},
		{"too deeply nested JSON is refused", testDeepJSON},
		{"batches are announced before their callers get a result", testCommitted},
		{"competing writers duplicate nothing and leave no hole", testFight},
		{"a context ends the wait but not the append", testContext},
		{"a closed store reports that it is closed", testClose},
		{"the newest snapshot is loaded", testSnapshots},
		{"snapshots of two program versions are kept apart", testSnapshotsOfVersions},
		{"a page of a load ends at 1 MiB", testLoadPages},
		{"concurrent loads are independent", testLoads},
		{"a hole in the log is reported as damage", testHole},
		{"a log that went back is detected", testWentBack},
		{"a replaced commit is detected", testReplacedCommit},
		{"a log that went back refuses appends", testWentBackAppend},
		{"a snapshot of lost events is not loaded", testSnapshotOfLostEvents},
		{"an accepted loss reaches running stores by Resume", testAcceptLossElsewhere},
		{"verify finds every kind of fault", testVerify},
		{"verify finds faults that constraints keep out", testVerifyUnconstrained},
		{"commits of another log are restored as they were", testRestore},
		{"commits that do not continue the log are not restored", testRestoreRefuses},
		{"a restored commit replaces an outcome with its key", testRestoreOverOutcomes},
		{"an empty log adopts another id", testAdopt},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newLog(t))
		})
	}
}

// fixture is a log with a store, and helpers of the tests.
type fixture struct {
	t   *testing.T
	log Log
	Store
}

func open(t *testing.T, log Log) fixture { return openWith(t, log, nil) }

func openWith(t *testing.T, log Log, committed eventstore.Committed) fixture {
	t.Helper()
	s := log.Open(t, committed)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return fixture{t, log, s}
}

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

func stream(i int) eventstore.StreamID {
	return eventstore.StreamID{Type: "counter", ID: fmt.Sprint("c", i)}
}

// command makes a command with n events.
func command(key string, n int) eventstore.Command {
	c := eventstore.Command{
		Key:  key,
		Hash: eventstore.Hash{1, 2, 3},
		At:   epoch,
		Meta: eventstore.Meta{Client: "ada"},
	}
	for i := range n {
		c.Events = append(c.Events, eventstore.Event{Type: "added", Form: 1, Data: json.RawMessage(fmt.Sprintf(`{"by": %d}`, i+1))})
	}
	return c
}

func unit(s eventstore.StreamID, expected eventstore.Version, commands ...eventstore.Command) eventstore.Unit {
	return eventstore.Unit{Stream: s, Expected: expected, Commands: commands}
}

func (f fixture) append(u eventstore.Unit) []eventstore.Place {
	f.t.Helper()
	a, err := f.Append(f.t.Context(), u)
	if err != nil {
		f.t.Fatalf("append: %v", err)
	}
	if len(a.Commands) != len(u.Commands) {
		f.t.Fatalf("append: %d places for %d commands", len(a.Commands), len(u.Commands))
	}
	return a.Commands
}

// all reads the whole log.
func (f fixture) all() []eventstore.Commit {
	f.t.Helper()
	var (
		list  []eventstore.Commit
		after eventstore.Position
	)
	for {
		page, err := f.Read(f.t.Context(), after, 100)
		if err != nil {
			f.t.Fatalf("read: %v", err)
		}
		if len(page) == 0 {
			return list
		}
		list = append(list, page...)
		after = page[len(page)-1].Position
	}
}

// keys returns the keys of the whole log, in order.
func (f fixture) keys() []string {
	f.t.Helper()
	var keys []string
	for _, c := range f.all() {
		keys = append(keys, c.Key)
	}
	return keys
}

func (f fixture) wantKeys(want ...string) {
	f.t.Helper()
	if got := f.keys(); !slices.Equal(got, want) {
		f.t.Errorf("the log holds the keys %q, want %q", got, want)
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// patience bounds each wait for an event that should happen soon.
const patience = time.Minute

// receive receives from a channel. what describes the value.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// gate holds a store between two batches, so that later units form the next
// batch. It opens at the latest when the test ends.
type gate struct {
	entered chan struct{} // closed when a batch is announced
	release chan struct{} // closed to let the store continue
	ended   <-chan struct{}
}

func newGate(t *testing.T) *gate {
	return &gate{entered: make(chan struct{}), release: make(chan struct{}), ended: t.Context().Done()}
}

// pass waits until the gate opens.
func (g *gate) pass() {
	close(g.entered)
	select {
	case <-g.release:
	case <-g.ended:
	}
}

// once is a Committed that waits in the first batch.
func (g *gate) once() eventstore.Committed {
	var first sync.Once
	return func(string, []eventstore.Commit) { first.Do(g.pass) }
}

// inOneBatch appends units in one batch, in order, and returns the results. It
// stores one other commit before them.
func inOneBatch(t *testing.T, log Log, units ...eventstore.Unit) (fixture, []eventstore.Appended, []error) {
	t.Helper()
	g := newGate(t)
	f := openWith(t, log, g.once())
	var (
		appended = make([]eventstore.Appended, len(units))
		errs     = make([]error, len(units))
		done     = make(chan int, len(units))
	)
	first := make(chan error, 1)
	go func() {
		_, err := f.Append(t.Context(), unit(eventstore.StreamID{Type: "counter", ID: "gate"}, 0, command("gate", 1)))
		first <- err
	}()
	receive(t, "the first batch", g.entered)
	for i, u := range units {
		go func() {
			appended[i], errs[i] = f.Append(t.Context(), u)
			done <- i
		}()
		waiting(t, f.Store, i+1)
	}
	close(g.release)
	if err := receive(t, "the result of the first batch", first); err != nil {
		t.Fatalf("append: %v", err)
	}
	for range units {
		receive(t, "the results of the second batch", done)
	}
	return f, appended, errs
}

// waiting blocks until n units wait for the next batch.
func waiting(t *testing.T, s Store, n int) {
	t.Helper()
	for end := time.Now().Add(patience); s.Waiting() < n; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("after %v %d units wait for the next batch, not %d", patience, s.Waiting(), n)
		}
	}
}
