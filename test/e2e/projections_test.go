package e2e

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/harness"
)

// folder returns the index of the node that folds the only segment of a
// projection while all nodes run.
func (c *cluster) folder(projection string) int {
	var names []string
	for i := range c.members {
		names = append(names, "n"+strconv.Itoa(i+1))
	}
	owner, _ := ring.New(names).Owner(eventstore.StreamID{Type: "~projection", ID: projection + "/0"})
	i, err := strconv.Atoi(owner[1:])
	if err != nil {
		c.t.Fatal(err)
	}
	return i - 1
}

// checkpoint returns how far the rows of a projection are.
func checkpoint(t *testing.T, db *pgx.Conn, projection string) (position uint64) {
	t.Helper()
	err := db.QueryRow(t.Context(), `select coalesce(max(pos), 0) from processor_build b join processor_checkpoint c on c.build = b.id where name = $1`,
		projection).Scan(&position)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

// connect connects to the cluster's database until the test ends.
func (c *cluster) connect() *pgx.Conn {
	c.t.Helper()
	db, err := pgx.Connect(c.t.Context(), c.store)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = db.Close(context.Background()) })
	return db
}

// moves waits until the rows of a projection have moved on twice: the first time
// may be the end of a batch that was under way.
func (c *cluster) moves(db *pgx.Conn, projection string) {
	c.t.Helper()
	began, from, times := time.Now(), checkpoint(c.t, db, projection), 0
	harness.Eventually(c.t, "the rows of "+projection+" move on", func() error {
		if at := checkpoint(c.t, db, projection); at > from {
			from = at
			times++
		}
		if times < 2 {
			return fmt.Errorf("they are at position %d", from)
		}
		return nil
	})
	c.t.Logf("the rows of %s move on after %v", projection, time.Since(began).Round(time.Millisecond))
}

// TestRowsEqualLogAfterBids compares the rows of projections with a fold of the log
// that shares no code with them.
func TestRowsEqualLogAfterBids(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	c.run(bidding())
	c.rowsEqualLog()
}

// TestRowsAreRightAfterTheirNodeFails kills the node that folds a projection under
// load, restarts it, and then freezes it for a while.
func TestRowsAreRightAfterTheirNodeFails(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	db := c.connect()
	failing := c.folder("listings")
	c.run(bidding(
		func() { c.moves(db, "listings") },
		func() { c.members[failing].Kill(); c.moves(db, "listings") },
		func() { c.start(failing); c.settled(); c.moves(db, "listings") },
		func() { c.members[failing].Signal(syscall.SIGSTOP); c.moves(db, "listings") },
		func() { c.members[failing].Signal(syscall.SIGCONT); c.settled(); c.moves(db, "listings") },
	))
	c.rowsEqualLog()
}

// TestRowsAreRightWhileConnectionsEnd ends a random connection to the database
// every 20 ms under load.
func TestRowsAreRightWhileConnectionsEnd(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	db := c.connect()
	ended := 0
	rounds := 100
	if long {
		rounds = 1_500
	}
	c.run(bidding(func() {
		for range rounds {
			tag, err := db.Exec(t.Context(), `select pg_terminate_backend(pid) from (select pid from pg_stat_activity
				where datname = current_database() and application_name = 'ganglion' order by random() limit 1) one`)
			if err != nil {
				t.Error(err)
				return
			}
			ended += int(tag.RowsAffected())
			time.Sleep(20 * time.Millisecond)
		}
	}))
	t.Logf("%d connections were ended", ended)
	c.rowsEqualLog()
}

// TestRowsAreRightWhileNodesJoinAndLeave adds two nodes under load, of which one
// runs projections only, and drains the node that folds a projection.
func TestRowsAreRightWhileNodesJoinAndLeave(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	db := c.connect()
	c.run(bidding(
		func() { c.start(c.add("")); c.start(c.add("processors")); c.settled(); c.moves(db, "listings") },
		func() { c.leave(c.folder("listings")); c.settled(); c.moves(db, "listings") },
	))
	c.rowsEqualLog()
}

// TestNothingIsBlockedWhileDatabaseIsAway stops the database under load.
func TestNothingIsBlockedWhileDatabaseIsAway(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	away := 3 * time.Second
	if long {
		away = 20 * time.Second
	}
	c := startTrio(t, server.URL("postgres"))
	c.run(bidding(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
		time.Sleep(away)
		if err := server.Start(t.Context()); err != nil {
			t.Error(err)
		}
	}))
	c.rowsEqualLog()
}
