package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/rowstest"
)

func TestRows(t *testing.T) {
	t.Parallel()
	rowstest.Run(t, func(t *testing.T) rows.Store {
		t.Helper()
		return postgrestest.New(t).Rows()
	})
}

// openRows returns the rows of a store, and a table in it.
func openRows(t *testing.T, url string) (rows.Store, rows.Table) {
	t.Helper()
	s := open(t, postgres.Config{URL: url})
	t.Cleanup(func() { s.Close() })
	spec := rows.Spec{Projection: "things", Fingerprint: "f", Segments: 1}
	b, err := s.Rows().Ensure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	table, err := s.Rows().Open(t.Context(), spec, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	return s.Rows(), table
}

func TestOpeningATableDoesNotWaitForItsWriters(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	openRows(t, url)
	writer, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(context.Background())
	for _, sql := range []string{"begin", `update r_things_1 set pos = 1`} {
		if _, err := writer.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	openRows(t, url) // fails after the lock timeout if it waits
}

// TestServerEndsTransactionsOfStoppedClients reads the limit that the server applies
// to a transaction in which a node stops: it holds the lock of a checkpoint.
func TestServerEndsTransactionsOfStoppedClients(t *testing.T) {
	t.Parallel()
	store, table := openRows(t, postgrestest.URL(t))
	limit := func(tx pgx.Tx) (text string) {
		if err := tx.QueryRow(t.Context(), `show idle_in_transaction_session_timeout`).Scan(&text); err != nil {
			t.Error(err)
		}
		return text
	}
	writing := table.(interface {
		Prepare(ctx context.Context, statements []string) error
		WriteWith(ctx context.Context, b rows.Batch, do func(context.Context, pgx.Tx) error) error
	})
	if err := writing.Prepare(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	err := writing.WriteWith(t.Context(), rows.Batch{To: 1, Key: "c"}, func(_ context.Context, tx pgx.Tx) error {
		if got := limit(tx); got != "10s" {
			t.Errorf("a writer may stop for %s, want 10s", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = store.Read(t.Context(), func(m rows.Moment) error {
		tx, err := m.(interface {
			Tx(ctx context.Context, t rows.Table) (pgx.Tx, error)
		}).Tx(t.Context(), table)
		if err != nil {
			return err
		}
		if got := limit(tx); got != "1min" {
			t.Errorf("a query may stop for %s, want 1min", got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHandlersWriteValuesWhoseTypesTheServerDoesNotDescribe uses parameters for which
// pgx assumes PostgreSQL's type from Go's, in a handler of a projection.
func TestHandlersWriteValuesWhoseTypesTheServerDoesNotDescribe(t *testing.T) {
	t.Parallel()
	_, table := openRows(t, postgrestest.URL(t))
	writing := table.(interface {
		Prepare(ctx context.Context, statements []string) error
		WriteWith(ctx context.Context, b rows.Batch, do func(context.Context, pgx.Tx) error) error
	})
	setup := []string{`create type mood as enum ('glad', 'sad')`, `create table day (moods mood[], notes text[], data bytea, at timestamptz, n bigint)`}
	if err := writing.Prepare(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	err := writing.WriteWith(t.Context(), rows.Batch{To: 1, Key: "c"}, func(ctx context.Context, tx pgx.Tx) error {
		// An array of an enumeration has a type that pgx does not know.
		if _, err := tx.Exec(ctx, `insert into day (moods) values ($1)`, []string{"sad", "glad"}); err != nil {
			return err
		}
		// In this mode the server describes nothing.
		_, err := tx.Exec(ctx, `update day set notes = $1, data = $2, at = $3, n = $4`,
			pgx.QueryExecModeExec, []string{"a b"}, []byte{0, 1}, at, new(int64(7)))
		if err != nil {
			return err
		}
		var (
			moods, notes []string
			data         []byte
			found        time.Time
			n            int64
		)
		err = tx.QueryRow(ctx, `select moods, notes, data, at, n from day`).Scan(&moods, &notes, &data, &found, &n)
		if got := fmt.Sprint(moods, notes, data, found.Equal(at), n); err == nil && got != "[sad glad] [a b] [0 1] true 7" {
			t.Errorf("the table has %s", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
