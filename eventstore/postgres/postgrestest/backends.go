package postgrestest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// EndBackends ends a random other connection to a database, every 20 ms at most, until
// stop is called, which returns how many it has ended. It waits until progress, which is
// called on another goroutine, returns a greater number than when it ended the last one:
// a machine that needs longer than 20 ms for a connection would otherwise do nothing
// but connect.
func EndBackends(t *testing.T, url string, progress func() int64) (stop func() int) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		n := 0
		defer func() {
			_ = c.Close(context.Background())
			done <- n
		}()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for last := int64(-1); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := progress()
			if now <= last {
				continue
			}
			last = now
			var ended int
			if err := c.QueryRow(context.WithoutCancel(ctx), `with one as (select pid from pg_stat_activity
				where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend' order by random() limit 1)
				select count(pg_terminate_backend(pid)) from one`).Scan(&ended); err != nil {
				t.Error(err)
				return
			}
			n += ended
		}
	}()
	return func() int {
		cancel()
		return <-done
	}
}
