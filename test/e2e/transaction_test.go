package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/test/harness"
)

// freezeMark is a file beside a program. The process whose handler gives it its own
// name freezes.
const freezeMark = "freeze"

// writtenNotes is how many notes the SQL projection of writing has written, and
// their positions.
type writtenNotes struct {
	Notes     int64 `json:"notes"`
	Positions int64 `json:"positions"`
}

// writing is the catalog of notes, with a projection that writes each into a table
// without a key, so that a note that is written twice is there twice. The handler
// stops its own process, within the transaction, if the mark is there.
func writing() *aggregate.Catalog {
	c := notesCatalog(func(e noteWritten, n *noteRow) { *n = noteRow{joined(n.Text, e.Text), e.Team, e.Rank} })
	d := sqlprojection.Define(c, sqlprojection.SQL{
		Name: "written", Setup: []string{`create table written (pos bigint not null)`},
		On: sqlprojection.Handlers{sqlprojection.On(func(ctx context.Context, tx pgx.Tx, at projection.At, e noteWritten) error {
			_, err := tx.Exec(ctx, `insert into written values ($1)`, int64(at.Position))
			if err == nil && e.Text == freezeMark && marked() {
				resumed := make(chan os.Signal, 1)
				signal.Notify(resumed, syscall.SIGCONT)
				err = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				<-resumed // a thread may go on for a moment
			}
			return err
		})},
	})
	query.Define(c, query.Func[notesUpTo, writtenNotes]{
		Name: "written", Access: aggregate.Anyone, From: query.From{d},
		Answer: func(ctx context.Context, _ query.Call, _ notesUpTo, db query.Reader) (w writtenNotes, err error) {
			tx, err := d.Tx(ctx, db)
			if err != nil {
				return w, err
			}
			return w, tx.QueryRow(ctx, `select count(*), count(distinct pos) from written`).Scan(&w.Notes, &w.Positions)
		},
	})
	return c
}

// marked gives the mark the name of this node. It returns false if it is not there.
func marked() bool {
	mark := filepath.Join(filepath.Dir(os.Args[0]), freezeMark)
	return os.Rename(mark, mark+"-"+os.Args[slices.Index(os.Args, "--name")+1]) == nil
}

// TestTransactionOfAFrozenNodeIsEndedAndWrittenOnceByAnother freezes a node between
// two statements of a transaction that holds the lock of a checkpoint. The server
// ends the transaction, another node writes its events, and the frozen node writes
// none of them again when it resumes.
func TestTransactionOfAFrozenNodeIsEndedAndWrittenOnceByAnother(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	program := programAt(t, "notes-written")
	c := startTrioOf(t, database(t), program)
	notes := 0
	send := func(by *harness.Client, text string) (position uint64, err error) {
		f, err := by.Do(ctx, fmt.Sprint("note/", notes), "write", fmt.Sprint("k", notes), writeNote{Text: text})
		return f.Position, err
	}
	written := func(gateway int, text string) {
		t.Helper()
		notes++
		by := &harness.Client{ID: "ada", URLs: c.wsURLs()[gateway : gateway+1]}
		defer by.Leave()
		head, err := send(by, text)
		if err != nil {
			t.Fatal(err)
		}
		s, err := by.Connected(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var got writtenNotes
		harness.Eventually(t, "a query answers", func() error {
			f, err := s.Call(ctx, map[string]any{"op": "query", "query": "written", "data": struct{}{}, "at_least": head, "timeout_ms": 30_000})
			if err != nil || f.Op != "result" {
				return fmt.Errorf("%s %s: %w", f.Code, f.Message, err)
			}
			return json.Unmarshal(f.Data, &got)
		})
		if want := int64(notes); got.Notes != want || got.Positions != want {
			t.Fatalf("%d notes were written, of %d positions; want %d", got.Notes, got.Positions, want)
		}
	}
	written(0, "before")

	mark := filepath.Join(filepath.Dir(program), freezeMark)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	notes++
	for _, url := range c.wsURLs() { // one of them will not answer
		by := &harness.Client{ID: "ada", URLs: []string{url}}
		defer by.Leave()
		go func() { _, _ = send(by, freezeMark) }()
	}
	db, frozen, idle := c.connect(), -1, int32(0)
	harness.Eventually(t, "a process is frozen in a transaction", func() error {
		for i := range c.members {
			if _, err := os.Stat(fmt.Sprintf("%s-n%d", mark, i+1)); err == nil {
				frozen = i
			}
		}
		if frozen < 0 {
			return errors.New("the mark has no name")
		}
		return db.QueryRow(ctx, `select pid from pg_stat_activity
			where state = 'idle in transaction' and datname = current_database() and query like '%insert into written%'`).Scan(&idle)
	})
	resume := sync.OnceFunc(func() { c.members[frozen].Signal(syscall.SIGCONT) })
	t.Cleanup(resume) // a frozen process does not end
	written((frozen+1)%3, "meanwhile")
	harness.Eventually(t, "the server has ended the transaction of the frozen node", func() error { // it frees the locks before it is no longer listed
		var isThere bool
		err := db.QueryRow(ctx, `select exists (select from pg_stat_activity where pid = $1 and state = 'idle in transaction')`, idle).Scan(&isThere)
		if err == nil && isThere {
			err = errors.New("it still stands")
		}
		return err
	})
	resume()
	c.settled()
	written(frozen, "after")
	c.operate(program, 0, "verify")
}
