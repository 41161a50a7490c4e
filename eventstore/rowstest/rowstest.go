// Package rowstest is the suite that every implementation of rows.Store passes.
package rowstest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Run runs the suite. newStore returns a store whose database has an empty log and no
// builds.
func Run(t *testing.T, newStore func(t *testing.T) rows.Store) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s rows.Store)
	}{
		{"a build is opened once and found again", testOpen},
		{"a batch moves the checkpoint with its rows", testWrite},
		{"a batch from elsewhere is fenced and writes nothing", testFence},
		{"rivals of one segment lose batches and no row", testRivals},
		{"a batch at the checkpoint mends", testMend},
		{"a writer that has not seen a mend is fenced", testMendFence},
		{"an operator mends a row while its segment moves", testMendRivals},
		{"a batch that is tried stores nothing", testTry},
		{"skipped events are remembered", testSkips},
		{"blocked rows are kept until they are unblocked", testBlocks},
		{"deleted rows leave tombstones until they are purged", testTombstones},
		{"changes are paged by position and key", testChanges},
		{"a question's pages answer as its filter does", testQuestions},
		{"extreme values come back in order", testExtremes},
		{"tables are read as of one moment", testMoment},
		{"a paused projection moves no checkpoint", testPause},
		{"a rewind moves the checkpoint back and fences its writer", testRewind},
		{"a dropped build is gone", testDrop},
		{"states change and a retired build can return", testStates},
		{"a rebuild stands beside the build", testRebuild},
		{"overviews show every build", testOverviews},
		{"blocked rows are listed for several builds", testBlocked},
		{"a build that no program uses expires", testExpire},
		{"a batch writes its commands with rows and checkpoint", testCommands},
		{"an outbox is read in order until outcomes are final", testOutbox},
		{"a held command waits until an operator decides", testHeld},
		{"rejected commands are counted once", testRejected},
		{"commands of other builds are ahead of those of a build", testAhead},
		{"the first build alone begins to send", testOrigin},
		{"process managers and relays of a copy begin paused", testCopy},
		{"a handover ends one term and begins another", testHandover},
		{"rivals of a handover write each command once", testHandoverRivals},
		{"blocked rows are handed over with their own beginning", testHandoverOfBlocks},
		{"a handover back continues where the other build has stopped", testHandBack},
		{"rows are due by the database's clock", testDue},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newStore(t))
		})
	}
}

// spec is a build with a column of each kind, some of which may be absent.
func spec(fingerprint string) rows.Spec {
	return rows.Spec{
		Projection: "list-ings", Fingerprint: fingerprint, Segments: 2,
		Columns: []rows.Column{
			{Name: "at", Kind: rows.Time, Nullable: true},
			{Name: "Item-Name", Kind: rows.Text},
			{Name: "note", Kind: rows.Text, Nullable: true},
			{Name: "open", Kind: rows.Bool},
			{Name: "price", Kind: rows.Int},
			{Name: "rating", Kind: rows.Float, Nullable: true},
		},
		Indexes: [][]int{{3, 4}, {0}, {1}, {2, 5}},
	}
}

// row returns a row of the build that spec describes.
func row(key string, segment int, p eventstore.Position, price int64) rows.Row {
	return rows.Row{
		Key: key, Segment: segment, Position: p,
		Values: []any{nil, "lamp", nil, true, price, nil},
		Data:   []byte(fmt.Sprintf(`{"price":%d}`, price)),
	}
}

func gone(key string, segment int, p eventstore.Position) rows.Row {
	return rows.Row{Key: key, Segment: segment, Position: p, Gone: true}
}

func opened(t *testing.T, s rows.Store, spec rows.Spec) rows.Table {
	t.Helper()
	table, err := open(t, s, spec)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func open(t *testing.T, s rows.Store, spec rows.Spec) (rows.Table, error) {
	t.Helper()
	b, err := s.Ensure(t.Context(), spec)
	if err != nil {
		return nil, err
	}
	return s.Open(t.Context(), spec, b.ID)
}

func write(t *testing.T, table rows.Table, b rows.Batch) {
	t.Helper()
	if b.Key == "" {
		b.Key = fmt.Sprint("key-", b.To)
	}
	if err := table.Write(t.Context(), b); err != nil {
		t.Fatalf("write from %d to %d: %v", b.From, b.To, err)
	}
}

func checkpoints(t *testing.T, table rows.Table) []rows.Checkpoint {
	t.Helper()
	list, err := table.Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// load returns the data of rows by key.
func load(t *testing.T, table rows.Table, keys ...string) map[string]string {
	t.Helper()
	list, err := table.Load(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, r := range list {
		found[r.Key] = fmt.Sprint(r.Segment, " ", r.Position, " ", string(r.Data))
	}
	return found
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func testOpen(t *testing.T, s rows.Store) {
	var tables [8]rows.Table
	var all sync.WaitGroup
	for i := range tables { // together, as nodes that start
		all.Go(func() {
			table, err := open(t, s, spec("one"))
			if err != nil {
				t.Error(err)
				return
			}
			tables[i] = table
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	for _, table := range tables {
		equal(t, "the build", table.Build(), tables[0].Build())
	}
	other := opened(t, s, spec("two"))
	builds, err := s.Builds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the builds", builds, []rows.Build{tables[0].Build(), other.Build()})
	b := builds[0]
	if b.Projection != "list-ings" || b.Fingerprint != "one" || b.Segments != 2 || b.State != rows.Building || b.LogID == "" || b.Since.IsZero() {
		t.Errorf("a new build is %+v", b)
	}
	for i, c := range checkpoints(t, tables[0]) {
		if c.Segment != i || c.Position != 0 || c.Key != "" || c.Floor != 0 || c.Mends != 0 || c.Paused || c.At.IsZero() {
			t.Errorf("a new checkpoint is %+v", c)
		}
	}
}

func testWrite(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{Segment: 0, From: 0, To: 3, Key: "k3", Rows: []rows.Row{row("a", 0, 2, 20), row("b", 0, 3, 30)}})
	write(t, table, rows.Batch{Segment: 1, From: 0, To: 4, Rows: []rows.Row{row("ç/ d", 1, 4, 40)}})
	write(t, table, rows.Batch{Segment: 0, From: 3, To: 5, Rows: []rows.Row{row("a", 0, 5, 50)}})
	write(t, table, rows.Batch{Segment: 0, From: 5, To: 9, Key: "k9"}) // no row is concerned
	equal(t, "the rows", load(t, table, "a", "b", "ç/ d", "none"), map[string]string{
		"a": `0 5 {"price":50}`, "b": `0 3 {"price":30}`, "ç/ d": `1 4 {"price":40}`,
	})
	list := checkpoints(t, table)
	equal(t, "the checkpoints", []any{list[0].Position, list[0].Key, list[1].Position, list[1].Mends}, []any{eventstore.Position(9), "k9", eventstore.Position(4), int64(0)})
	equal(t, "rows of no keys", load(t, table), map[string]string{})
	other := opened(t, s, spec("two"))
	equal(t, "the rows of another build", load(t, other, "a"), map[string]string{})
}

func testFence(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{From: 0, To: 3, Rows: []rows.Row{row("a", 0, 3, 30)}})
	for _, from := range []eventstore.Position{0, 2, 4} {
		err := table.Write(t.Context(), rows.Batch{
			From: from, To: 5, Key: "k", Rows: []rows.Row{row("a", 0, 5, 50), row("b", 0, 5, 50)},
			Block: []rows.Block{{Key: "c", Position: 5}},
		})
		if !errors.Is(err, rows.ErrFenced) {
			t.Errorf("a batch from %d of a checkpoint at 3: got %v, want ErrFenced", from, err)
		}
	}
	equal(t, "the rows", load(t, table, "a", "b"), map[string]string{"a": `0 3 {"price":30}`})
	blocks, err := table.Blocks(t.Context())
	if err != nil || len(blocks) != 0 {
		t.Errorf("a fenced batch has blocked %v, %v", blocks, err)
	}
}

// testRivals lets several writers fold the same events into one row that counts
// them. Each reads the checkpoint and the row, and writes both.
func testRivals(t *testing.T, s rows.Store) {
	const last, rivals = 200, 4
	var lost atomic.Int64
	var all sync.WaitGroup
	for range rivals {
		table := opened(t, s, spec("one"))
		all.Go(func() {
			for {
				list, err := table.Checkpoints(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				at := list[0].Position
				if at == last {
					return
				}
				found, err := table.Load(t.Context(), []string{"sum"})
				if err != nil {
					t.Error(err)
					return
				}
				var sum int64
				if len(found) > 0 {
					if _, err := fmt.Sscanf(string(found[0].Data), `{"price":%d}`, &sum); err != nil {
						t.Error(err)
						return
					}
				}
				to := min(at+3, last)
				for p := at + 1; p <= to; p++ {
					sum += int64(p)
				}
				err = table.Write(t.Context(), rows.Batch{From: at, To: to, Key: "k", Rows: []rows.Row{row("sum", 0, to, sum)}})
				switch {
				case errors.Is(err, rows.ErrFenced):
					lost.Add(1)
				case err != nil:
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	equal(t, "the sum", load(t, opened(t, s, spec("one")), "sum"), map[string]string{"sum": fmt.Sprintf(`0 %d {"price":%d}`, last, last*(last+1)/2)})
	t.Logf("%d batches were lost to rivals", lost.Load())
}

func testMend(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{From: 0, To: 5, Rows: []rows.Row{row("a", 0, 5, 50)}, Block: []rows.Block{{Key: "b", Position: 2, Attempts: 1, Error: "boom"}}})
	write(t, table, rows.Batch{From: 5, To: 5, Key: "key-5", Rows: []rows.Row{row("b", 0, 4, 40)}, Unblock: []string{"b"}})
	c := checkpoints(t, table)[0]
	equal(t, "the mended checkpoint", []any{c.Position, c.Mends, c.Key}, []any{eventstore.Position(5), int64(1), "key-5"})
	equal(t, "the rows", load(t, table, "a", "b"), map[string]string{"a": `0 5 {"price":50}`, "b": `0 4 {"price":40}`})
	if blocks, err := table.Blocks(t.Context()); err != nil || len(blocks) != 0 {
		t.Errorf("after the mend %v is blocked, %v", blocks, err)
	}
}

func testBlocks(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{Segment: 1, From: 0, To: 5, Block: []rows.Block{
		{Key: "b", Position: 4, Attempts: 3, Error: "boom\nat 4"}, {Key: "a", Position: 2, Attempts: 3, Error: "no"},
	}})
	write(t, table, rows.Batch{Segment: 1, From: 5, To: 6, Block: []rows.Block{{Key: "b", Position: 4, Attempts: 6, Error: "boom again"}}})
	blocks, err := table.Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range blocks {
		if blocks[i].At.IsZero() {
			t.Errorf("block %d has no time", i)
		}
		blocks[i].At = time.Time{}
	}
	equal(t, "the blocks", blocks, []rows.Block{
		{Key: "a", Segment: 1, Position: 2, Attempts: 3, Error: "no"}, {Key: "b", Segment: 1, Position: 4, Attempts: 6, Error: "boom again"},
	})
	answer, err := table.Ask(t.Context(), rows.Question{Limit: 1})
	if err != nil || answer.Blocked != 2 {
		t.Errorf("an answer names %d blocked rows, %v; want 2", answer.Blocked, err)
	}
}

func testTombstones(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{From: 0, To: 4, Rows: []rows.Row{row("a", 0, 1, 10), row("b", 0, 2, 20), gone("never", 0, 3)}})
	write(t, table, rows.Batch{From: 4, To: 6, Rows: []rows.Row{gone("a", 0, 5)}})
	equal(t, "the rows", load(t, table, "a", "b", "never"), map[string]string{"b": `0 2 {"price":20}`})
	answer, err := table.Ask(t.Context(), rows.Question{Limit: 10})
	if err != nil || len(answer.Rows) != 1 {
		t.Errorf("a question finds %v, %v; want the row b", answer.Rows, err)
	}
	changed := func() (found []string) {
		t.Helper()
		c, err := table.Changes(t.Context(), []eventstore.Position{0, 0}, rows.Edge{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Rows {
			found = append(found, fmt.Sprintf("%s %d %v %v", r.Key, r.Position, r.Gone, len(r.Data) > 0))
		}
		return found
	}
	equal(t, "the changes", changed(), []string{"b 2 false true", "never 3 true false", "a 5 true false"})
	if err := table.Purge(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	equal(t, "the changes after a purge", changed(), []string{"b 2 false true", "a 5 true false"})
	for _, c := range checkpoints(t, table) {
		equal(t, "the floor", c.Floor, eventstore.Position(4))
	}
	if err := table.Purge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	equal(t, "the floor after an earlier purge", checkpoints(t, table)[0].Floor, eventstore.Position(4))
	write(t, table, rows.Batch{From: 6, To: 7, Rows: []rows.Row{row("a", 0, 7, 70)}})
	equal(t, "a row that returned", load(t, table, "a"), map[string]string{"a": `0 7 {"price":70}`})
}

func testChanges(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	var want []string
	for segment := range 2 {
		b := rows.Batch{Segment: segment, From: 0, To: 40}
		for p := eventstore.Position(1); p <= 40; p += 4 { // five rows at each position
			for i := range 5 {
				key := fmt.Sprintf("%02d-%d-%d", p, segment, i)
				b.Rows = append(b.Rows, row(key, segment, p, int64(p)))
				if segment == 0 && p > 8 || segment == 1 && p > 20 {
					want = append(want, fmt.Sprintf("%03d %s", p, key))
				}
			}
		}
		write(t, table, b)
	}
	slices.Sort(want)
	for _, limit := range []int{1, 3, 5, 7, 1000} {
		var got []string
		next := rows.Edge{}
		for more := true; more; {
			c, err := table.Changes(t.Context(), []eventstore.Position{8, 20}, next, limit)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Checkpoints) != 2 || c.Checkpoints[0].Position != 40 {
				t.Fatalf("the changes come with the checkpoints %v", c.Checkpoints)
			}
			for _, r := range c.Rows {
				got = append(got, fmt.Sprintf("%03d %s", r.Position, r.Key))
				next = rows.Edge{Position: r.Position, Key: r.Key}
			}
			more = c.More
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %s, want %s", limit, strings.Join(got, ", "), strings.Join(want, ", "))
		}
	}
}

func testPause(t *testing.T, s rows.Store) {
	table, other := opened(t, s, spec("one")), opened(t, s, rows.Spec{Projection: "other", Fingerprint: "one", Segments: 1})
	if err := s.Pause(t.Context(), "list-ings", true); err != nil {
		t.Fatal(err)
	}
	for _, from := range []eventstore.Position{0, 1} {
		if err := table.Write(t.Context(), rows.Batch{From: from, To: from + 1, Key: "k"}); !errors.Is(err, rows.ErrPaused) {
			t.Errorf("a write from %d while paused: got %v, want ErrPaused", from, err)
		}
	}
	write(t, table, rows.Batch{Rows: []rows.Row{gone("mended", 0, 0)}})
	if !checkpoints(t, table)[1].Paused || checkpoints(t, other)[0].Paused {
		t.Error("the wrong projection is paused")
	}
	write(t, other, rows.Batch{To: 1})
	for range 2 {
		if err := s.Pause(t.Context(), "list-ings", false); err != nil {
			t.Fatal(err)
		}
	}
	write(t, table, rows.Batch{To: 1, Mends: 1})
}

func testRewind(t *testing.T, s rows.Store) {
	table := opened(t, s, rows.Spec{Projection: "~relay/orders", Fingerprint: "relay", Segments: 1, Relay: true})
	write(t, table, rows.Batch{From: 0, To: 9, Block: []rows.Block{{Key: "event", Position: 9}}, Skip: []rows.Skip{{Key: "event", Position: 4}}})
	if _, err := s.Rewind(t.Context(), table.Build().ID, 1); !errors.Is(err, rows.ErrAhead) {
		t.Errorf("a rewind beyond the log's end: got %v, want ErrAhead", err)
	}
	equal(t, "the checkpoint", checkpoints(t, table)[0].Position, eventstore.Position(9))
	at, err := s.Rewind(t.Context(), table.Build().ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "where it is", at, eventstore.Position(0))
	c := checkpoints(t, table)[0]
	equal(t, "position, key and mends", []any{c.Position, c.Key, c.Mends}, []any{eventstore.Position(0), "", int64(1)})
	blocks, err := table.Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	skips, err := table.Skips(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "what is blocked and skipped", []int{len(blocks), len(skips)}, []int{0, 1})
	if err := table.Write(t.Context(), rows.Batch{From: 0, To: 1, Key: "k"}); !errors.Is(err, rows.ErrFenced) {
		t.Errorf("a writer that has not seen the rewind: got %v, want ErrFenced", err)
	}
	if err := s.Drop(t.Context(), table.Build().ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rewind(t.Context(), table.Build().ID, 0); !errors.Is(err, rows.ErrDropped) {
		t.Errorf("a rewind of a dropped build: got %v, want ErrDropped", err)
	}
}

func testDrop(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{To: 1, Rows: []rows.Row{row("a", 0, 1, 1)}, Block: []rows.Block{{Key: "b", Position: 1}}})
	for range 2 {
		if err := s.Drop(t.Context(), table.Build().ID); err != nil {
			t.Fatal(err)
		}
	}
	for name, call := range map[string]func() error{
		"Write":       func() error { return table.Write(t.Context(), rows.Batch{From: 1, To: 2, Key: "k"}) },
		"Load":        func() error { _, err := table.Load(t.Context(), []string{"a"}); return err },
		"Ask":         func() error { _, err := table.Ask(t.Context(), rows.Question{Limit: 1}); return err },
		"Checkpoints": func() error { _, err := table.Checkpoints(t.Context()); return err },
		"Blocks":      func() error { _, err := table.Blocks(t.Context()); return err },
		"Skips":       func() error { _, err := table.Skips(t.Context()); return err },
		"Try":         func() error { return table.Try(t.Context(), rows.Batch{From: 1, To: 2, Key: "k"}) },
		"Interrupt":   func() error { return table.Interrupt(t.Context(), 0) },
		"Purge":       func() error { return table.Purge(t.Context(), 1) },
		"Changes": func() error {
			_, err := table.Changes(t.Context(), []eventstore.Position{0, 0}, rows.Edge{}, 1)
			return err
		},
	} {
		if err := call(); !errors.Is(err, rows.ErrDropped) {
			t.Errorf("%s of a dropped build: got %v, want ErrDropped", name, err)
		}
	}
	again := opened(t, s, spec("one"))
	if again.Build().ID == table.Build().ID || checkpoints(t, again)[0].Position != 0 || len(load(t, again, "a")) != 0 {
		t.Error("a build that was dropped and opened again is not a new one")
	}
}

func testStates(t *testing.T, s rows.Store) {
	id := opened(t, s, spec("one")).Build().ID
	state := func() rows.Build {
		t.Helper()
		builds, err := s.Builds(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return builds[0]
	}
	for _, want := range []rows.State{rows.Active, rows.Retired} {
		before := state()
		if err := s.SetState(t.Context(), id, want); err != nil {
			t.Fatal(err)
		}
		if b := state(); b.State != want || b.Since.Before(before.Since) {
			t.Errorf("the build is %+v, want state %s and a later time than %v", b, want, before.Since)
		}
	}
	if got := opened(t, s, spec("one")).Build().State; got != rows.Building {
		t.Errorf("a retired build that is opened again is %s, want building", got)
	}
	if got := state().State; got != rows.Building {
		t.Errorf("a retired build that was opened again is stored as %s, want building", got)
	}
}

func testRebuild(t *testing.T, s rows.Store) {
	first := opened(t, s, spec("one"))
	write(t, first, rows.Batch{To: 3, Rows: []rows.Row{row("a", 0, 3, 30)}})
	b, err := s.Rebuild(t.Context(), spec("one"))
	if err != nil {
		t.Fatal(err)
	}
	if b.ID <= first.Build().ID || b.State != rows.Building {
		t.Errorf("the rebuild is %+v, beside %+v", b, first.Build())
	}
	second := opened(t, s, spec("one"))
	equal(t, "the newest build", second.Build(), b)
	write(t, second, rows.Batch{To: 1, Rows: []rows.Row{row("a", 0, 1, 10)}})
	equal(t, "the row of the first build", load(t, first, "a"), map[string]string{"a": `0 3 {"price":30}`})
	equal(t, "the row of the rebuild", load(t, second, "a"), map[string]string{"a": `0 1 {"price":10}`})
	for name, open := range map[string]func() (rows.Table, error){
		"another fingerprint": func() (rows.Table, error) { return s.Open(t.Context(), spec("two"), b.ID) },
		"an unknown id":       func() (rows.Table, error) { return s.Open(t.Context(), spec("one"), b.ID+1000) },
	} {
		if _, err := open(); !errors.Is(err, rows.ErrDropped) {
			t.Errorf("open of %s: got %v, want ErrDropped", name, err)
		}
	}
}
