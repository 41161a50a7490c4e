package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// crashWorld is a log whose every event changes the same rows, on a server that
// crashes.
type crashWorld struct {
	t      *testing.T
	server *postgrestest.Server
	store  *postgres.Store
	table  rows.Table
	sql    bool // the table writes with SQL
}

var crashSpec = rows.Spec{Projection: "crash", Fingerprint: "1", Segments: 1, Columns: []rows.Column{{Name: "n", Kind: rows.Int}}, Indexes: [][]int{{0}}}

const crashRows = 20

// open opens the log and the table, as after a start of a node.
func (w *crashWorld) open() {
	w.t.Helper()
	w.store = open(w.t, postgres.Config{URL: w.server.URL("postgres")})
	if w.sql {
		w.table = sqlBuild(w.t, w.store, crashSpec, `create table effect (row int, n bigint)`)
		return
	}
	b, err := w.store.Rows().Ensure(w.t.Context(), crashSpec)
	if err == nil {
		w.table, err = w.store.Rows().Open(w.t.Context(), crashSpec, b.ID)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// append appends the nth event.
func (w *crashWorld) append(n int) error {
	_, err := w.store.Append(w.t.Context(), unit("a", eventstore.Version(n-1), fmt.Sprint("key", n)))
	return err
}

// write folds the nth event.
func (w *crashWorld) write(n int, block ...rows.Block) error {
	b := rows.Batch{From: eventstore.Position(n - 1), To: eventstore.Position(n), Key: fmt.Sprint("key", n), Block: block}
	if w.sql {
		return w.table.(sqlTable).WriteWith(w.t.Context(), b, func(ctx context.Context, tx pgx.Tx) error {
			for i := range crashRows { // several statements, between which the server may crash
				if _, err := tx.Exec(ctx, `insert into effect values ($1, $2)`, i, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range crashRows {
		b.Rows = append(b.Rows, rows.Row{
			Key: fmt.Sprint("row", i), Position: b.To, Values: []any{int64(n)}, Data: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)),
		})
	}
	return w.table.Write(w.t.Context(), b)
}

// crash ends the server without a last write to the disk, and starts it again.
func (w *crashWorld) crash() {
	w.t.Helper()
	if err := errors.Join(w.server.Crash(), w.server.Start(w.t.Context())); err != nil {
		w.t.Fatal(err)
	}
	w.store.Close()
	w.open()
}

// check returns the checkpoint, after comparing it with the head, with the log's
// commit, and with every row.
func (w *crashWorld) check(wantHead int) int {
	w.t.Helper()
	list, err := w.table.Checkpoints(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	at := int(list[0].Position)
	if head, err := w.store.Head(w.t.Context()); err != nil || int(head) < wantHead || at > int(head) {
		w.t.Fatalf("the log ends at %d (%v), want at least %d, and the checkpoint is at %d", head, err, wantHead, at)
	}
	if want := fmt.Sprint("key", at); at > 0 && list[0].Key != want {
		w.t.Errorf("the checkpoint names the commit %q, want %q", list[0].Key, want)
	}
	if w.sql {
		w.checkEffects(at)
		return at
	}
	found, err := w.table.Ask(w.t.Context(), rows.Question{Limit: 2 * crashRows})
	if err != nil {
		w.t.Fatal(err)
	}
	if want := crashRows * min(at, 1); len(found.Rows) != want {
		w.t.Errorf("at %d there are %d rows, want %d", at, len(found.Rows), want)
	}
	for _, r := range found.Rows {
		if string(r.Data) != fmt.Sprintf(`{"n":%d}`, at) || int(r.Position) != at {
			w.t.Errorf("at %d a row is %s at %d", at, r.Data, r.Position)
		}
	}
	return at
}

// checkEffects checks that each event up to a position has all its effects once,
// and that no later one has any.
func (w *crashWorld) checkEffects(at int) {
	w.t.Helper()
	db, err := pgx.Connect(w.t.Context(), w.server.URL("postgres"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close(w.t.Context())
	var all, different, last int
	err = db.QueryRow(w.t.Context(), fmt.Sprintf(`select count(*), count(distinct (row, n)), coalesce(max(n), 0) from public_crash_%d.effect`, w.table.Build().ID)).
		Scan(&all, &different, &last)
	if err != nil || all != at*crashRows || different != all || last != at {
		w.t.Errorf("at %d there are %d effects, %d different ones, want %d; the last is of event %d; %v", at, all, different, at*crashRows, last, err)
	}
}

// Batches of rows do not wait for the disk. The server's own writer of the
// write-ahead log is slow here, so that a crash loses batches.
func TestCrashedServerLosesWholeBatchesAndNoEvent(t *testing.T) {
	t.Parallel()
	loseBatches(t, false)
}

func TestCrashedServerLosesEffectsOfSQLWithTheirCheckpoint(t *testing.T) {
	t.Parallel()
	loseBatches(t, true)
}

// loseBatches crashes a server several times after, or while, batches are written.
func loseBatches(t *testing.T, sql bool) {
	t.Helper()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true, Settings: map[string]string{"wal_writer_delay": "10s"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w := &crashWorld{t: t, server: server, sql: sql}
	w.open()
	defer func() { w.store.Close() }()
	const rounds, each = 6, 20
	appended, lost := 0, 0
	for round := range rounds {
		for range each {
			appended++
			if err := w.append(appended); err != nil {
				t.Fatal(err)
			}
		}
		at := w.check(appended)
		ended := make(chan error)
		stopAt := at + 5*(round+1)/2
		go func() { // the last rounds crash while a batch is being written
			defer close(ended)
			for n := at + 1; n <= appended; n++ {
				if err := w.write(n); err != nil {
					ended <- err
					return
				}
				if n == stopAt {
					ended <- nil
					if round < rounds/2 {
						return
					}
				}
			}
		}()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if err := server.Crash(); err != nil {
			t.Fatal(err)
		}
		<-ended
		w.crash()
		lost += max(0, stopAt-w.check(appended))
	}
	if lost == 0 {
		t.Error("no crash lost a batch, so this test shows nothing")
	}
	t.Logf("%d crashes lost %d batches", rounds, lost)
}

func TestCrashedServerKeepsBlocks(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true, Settings: map[string]string{"wal_writer_delay": "10s"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w := &crashWorld{t: t, server: server}
	w.open()
	defer func() { w.store.Close() }()
	if err := errors.Join(w.append(1), w.write(1, rows.Block{Key: "row1", Position: 1, Attempts: 3, Error: "why"})); err != nil {
		t.Fatal(err)
	}
	w.crash()
	if at := w.check(1); at != 1 {
		t.Errorf("the checkpoint is at %d, want 1", at)
	}
	if list, err := w.table.Blocks(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("blocks: %v, %v", list, err)
	}
}
