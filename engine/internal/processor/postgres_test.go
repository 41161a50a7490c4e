package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

var discard = slog.New(slog.DiscardHandler)

// newPostgres returns a world on PostgreSQL, and the database's URL.
func newPostgres(t *testing.T) (*world, string) {
	t.Helper()
	w := &world{t: t, tail: NewTail(0), at: time.Unix(1, 0)}
	url := postgrestest.URL(t)
	store, err := postgres.Open(t.Context(), postgres.Config{URL: url, Committed: func(_ string, batch []eventstore.Commit) { w.tail.Add(batch) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w.store = store
	return w, url
}

// appendUntil appends payments, each again with its key until it is stored.
func (w *world) appendUntil(stop *atomic.Bool, stream string, sums []int64) {
	for i := 0; !stop.Load(); i++ {
		to := rand.IntN(len(sums))
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "account", ID: stream}, Expected: eventstore.Version(i), Commands: []eventstore.Command{{
			Key: fmt.Sprint(stream, i), At: w.at, Events: []eventstore.Event{{Type: "paid", Data: fmt.Appendf(nil, `{"amount":%d,"to":"r%d"}`, i, to)}},
		}}}
		for {
			_, err := w.store.Append(w.t.Context(), u)
			if err == nil || errors.Is(err, eventstore.ErrKnownKeys) {
				break
			}
			if !errors.Is(err, eventstore.ErrUnavailable) && !errors.Is(err, eventstore.ErrUnknown) {
				w.t.Error(err)
				return
			}
		}
		sums[to] += int64(i)
	}
}

// TestKilledBackendsBlockNothing ends random backends while two processors write the
// same segments.
func TestKilledBackendsBlockNothing(t *testing.T) {
	t.Parallel()
	w, url := newPostgres(t)
	model := balances(t, never)
	for range 2 {
		w.start(model, all)
	}
	table := w.table(model)
	position := func() (at eventstore.Position) {
		if list, err := table.Checkpoints(t.Context()); err == nil {
			at = list[0].Position
		}
		return at
	}
	stop := postgrestest.EndBackends(t, url, func() int64 { return int64(position()) })
	var end atomic.Bool
	sums := make([]int64, 30)
	var writing sync.WaitGroup
	writing.Go(func() { w.appendUntil(&end, "a", sums) })
	w.eventually("200 events are folded", func() bool { return position() > 200 })
	end.Store(true)
	writing.Wait()
	killed := stop()
	w.caughtUp(table)
	for i, sum := range sums {
		if got := w.row(table, fmt.Sprint("r", i)); sum > 0 && !strings.HasPrefix(got, fmt.Sprintf(`{"sum":%d,`, sum)) { // a row without payments need not exist
			t.Errorf("row r%d is %s, want the sum %d", i, got, sum)
		}
	}
	w.wantBlocks(table)
	if _, found := w.verify(model, table, 0); len(found) != 0 {
		t.Errorf("the rows differ: %q", found)
	}
	t.Logf("%d backends were ended during %d events", killed, w.tail.Head())
}

// TestDeadlockBlocksNothing locks a row and then its checkpoint, the opposite order
// of a batch. PostgreSQL ends the batch, since it looks for deadlocks a second after
// a statement began to wait, and in the test's own session after 10 s. It may end the
// test's session if that is a second late.
func TestDeadlockBlocksNothing(t *testing.T) {
	t.Parallel()
	w, url := newPostgres(t)
	model := balances(t, never)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if _, err := c.Exec(t.Context(), "set deadlock_timeout = '10s'"); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf(`"r_balances_%d"`, table.Build().ID)
	locked := fmt.Sprintf("update %s set pos = pos where key = 'x'", name)
	checkpoint := fmt.Sprintf("update processor_checkpoint set pos = pos where build = %d and segment = %d", table.Build().ID, SegmentOf("x", 2))
	paying, ended := 1, 0
	for ; ended < 3 && paying < 10; paying++ {
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), locked); err != nil {
			t.Fatal(err)
		}
		w.pay("a", eventstore.Version(paying), paid{Amount: 1, To: "x"})
		w.eventually("the processor waits for the row", func() bool {
			var waiting int
			if err := tx.QueryRow(t.Context(), "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()").Scan(&waiting); err != nil {
				t.Fatal(err)
			}
			return waiting > 0
		})
		var refused *pgconn.PgError
		switch _, err := tx.Exec(t.Context(), checkpoint); {
		case err == nil:
			ended++
		case !errors.As(err, &refused) || refused.Code != "40P01":
			t.Fatal(err)
		}
		_ = tx.Rollback(t.Context())
	}
	if ended < 3 {
		t.Errorf("only %d batches were ended in %d deadlocks", ended, paying)
	}
	w.caughtUp(table)
	w.want(table, "x", fmt.Sprintf(`{"sum":%d,"events":%[1]d}`, paying))
	w.wantBlocks(table)
}

// A label is a row with an indexed text, of which PostgreSQL takes 2,704 bytes.
type label struct {
	Text string `json:"text"`
}

func labels(t *testing.T) *projection.Definition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[account]{
		Name:     "account",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[account]{"deposit": deposit{}},
		Events:   aggregate.Events[account]{"paid": paid{}},
	})
	p := projection.Define(c, projection.Table[label]{
		Name: "labels",
		On: projection.Handlers[label]{
			projection.OnKey(func(_ projection.At, e paid) string { return e.To[:2] }, func(_ projection.At, e paid, l *label) { l.Text += e.To[2:] }),
		},
		Indexes: [][]string{{"text"}},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return p.Definition
}

// TestRefusedRowAloneIsBlockedAtItsEvent stores rows of which one is too long for
// its index, from the second of its events on.
func TestRefusedRowAloneIsBlockedAtItsEvent(t *testing.T) {
	t.Parallel()
	w, _ := newPostgres(t)
	model := labels(t)
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	random := func(n int) string { // which cannot be compressed much
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[rand.IntN(len(alphabet))]
		}
		return string(b)
	}
	var payments []paid
	for i := range 40 {
		payments = append(payments, paid{To: fmt.Sprintf("%02d", i) + "short"})
	}
	payments[10] = paid{To: "09" + random(100)}   // position 11
	payments[20] = paid{To: "09" + random(8_000)} // position 21
	payments[30] = paid{To: "09" + random(10)}    // position 31
	w.pay("a", 0, payments...)
	w.pay("a", 40, paid{To: "01late"}, paid{To: "09late"})
	w.start(model, all)
	table := w.table(model)
	w.caughtUp(table)
	w.wantBlocks(table, "09 21")
	for i := range 40 {
		want := fmt.Sprintf(`{"text":"%s"}`, map[bool]string{true: "shortlate", false: "short"}[i == 1])
		if i == 9 || i == 10 || i == 20 || i == 30 { // the blocked row, and the ones without an event
			continue
		}
		w.want(table, fmt.Sprintf("%02d", i), want)
	}
	if got := w.row(table, "09"); len(got) != len(`{"text":"short"}`)+100 {
		t.Errorf("the blocked row is %s, want its first two events", got)
	}
	if b := w.blocks(table)[0]; b.Attempts != attempts || !strings.Contains(b.Error, "index row size") {
		t.Errorf("the block is %+v", b)
	}
	if done, err := w.mender(model, table).Skip(t.Context(), w.blocks(table)[0]); err != nil || len(done.Blocks) != 0 {
		t.Errorf("a skip: got %+v, %v", done, err)
	}
	if got := w.row(table, "09"); len(got) != len(`{"text":"shortlate"}`)+110 {
		t.Errorf("after the skip the row is %s", got)
	}
	if _, found := w.verify(model, table, 0); len(found) != 0 {
		t.Errorf("the rows differ: %q", found)
	}
}

// TestRebuildAfterAnAcceptedLossEqualsTheLog gives the log another incarnation.
func TestRebuildAfterAnAcceptedLossEqualsTheLog(t *testing.T) {
	t.Parallel()
	w, _ := newPostgres(t)
	model := balances(t, never)
	p, _ := w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	w.eventually("the build is active", func() bool { return w.state(table.Build().ID) == rows.Active })
	if _, err := w.store.AcceptLoss(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.tail.Reset(1) // as a node does when it adopts the incarnation
	w.pay("a", 1, paid{Amount: 1, To: "x"})
	w.eventually("the segments stop", func() bool {
		stopped := 0
		for _, s := range p.Stats().Segments {
			if s.Stopped == RetryOtherLog {
				stopped++
			}
		}
		return stopped == 2
	})
	w.want(table, "x", `{"sum":1,"events":1}`)
	again, err := w.store.Rows().Rebuild(t.Context(), SpecOf(model))
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the rebuild is active", func() bool { return w.state(again.ID) == rows.Active })
	table = w.table(model)
	w.pay("a", 2, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	w.want(table, "x", `{"sum":3,"events":3}`)
	if done, found := w.verify(model, table, 0); len(found) != 0 || done.Build != again.ID {
		t.Errorf("%+v: the rows differ: %q", done, found)
	}
}
