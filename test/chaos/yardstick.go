package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// tick is one look at what the machine itself costs.
type tick struct {
	at int64
	// late is by how much a short sleep was too long, commit how long a bare
	// INSERT took; 0 while the database was away.
	late, commit time.Duration
}

// yardstick measures, all the time, what no cluster could be faster than: how
// late this machine wakes up who sleeps, and how long its database takes for
// one row. A wait that is no longer than that is nobody's fault.
type yardstick struct {
	ticks []tick
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// measure begins. now is the clock of the load.
func measure(url string, now func() int64) *yardstick {
	ctx, stop := context.WithCancel(context.Background())
	y := &yardstick{stop: stop}
	y.work.Go(func() {
		const pause = 10 * time.Millisecond
		var conn *pgx.Conn
		defer func() {
			if conn != nil {
				_ = conn.Close(context.Background()) // nothing is under way
			}
		}()
		for ctx.Err() == nil {
			before := time.Now()
			sleep(ctx, pause)
			t := tick{at: now(), late: time.Since(before) - pause}
			var err error
			if conn == nil {
				if conn, err = pgx.Connect(ctx, url); err == nil {
					_, err = conn.Exec(ctx, "create schema if not exists yardstick; create table if not exists yardstick.row (at timestamptz default now())")
				}
			} else if before = time.Now(); err == nil {
				_, err = conn.Exec(ctx, "insert into yardstick.row default values")
				t.commit = time.Since(before)
			}
			if err != nil {
				t.commit = 0
				if conn != nil {
					_ = conn.Close(ctx)
					conn = nil
				}
			}
			y.ticks = append(y.ticks, t)
		}
	})
	return y
}

// end ends the measuring and returns what was measured.
func (y *yardstick) end() []tick {
	y.stop()
	y.work.Wait()
	return y.ticks
}

// worst returns the longest stall of the machine and the longest INSERT in a
// stretch of time.
func worst(ticks []tick, begin, end int64) (late, commit time.Duration) {
	for _, t := range ticks {
		if t.at >= begin && t.at-int64(t.late) <= end {
			late, commit = max(late, t.late), max(commit, t.commit)
		}
	}
	return late, commit
}
