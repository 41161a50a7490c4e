package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// tick is one measurement of the machine.
type tick struct {
	at int64
	// late is the delay by which a short sleep ended too late. commit is the
	// duration of a bare INSERT, 0 without a database.
	late, commit time.Duration
}

// yardstick measures the machine itself: how late a short sleep ends, and how long
// an INSERT takes. No cluster on the machine can be faster.
type yardstick struct {
	ticks []tick
	stop  context.CancelFunc
	work  sync.WaitGroup
}

// measure starts to measure. now is the clock of the load.
func measure(url string, now func() int64) *yardstick {
	ctx, stop := context.WithCancel(context.Background())
	y := &yardstick{stop: stop}
	y.work.Go(func() {
		const pause = 10 * time.Millisecond
		var conn *pgx.Conn
		defer func() {
			if conn != nil {
				_ = conn.Close(context.Background()) // it is idle
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

// end stops measuring and returns the measurements.
func (y *yardstick) end() []tick {
	y.stop()
	y.work.Wait()
	return y.ticks
}

// worst returns the longest delay of a sleep and the longest INSERT between two
// times.
func worst(ticks []tick, begin, end int64) (late, commit time.Duration) {
	for _, t := range ticks {
		if t.at >= begin && t.at-int64(t.late) <= end {
			late, commit = max(late, t.late), max(commit, t.commit)
		}
	}
	return late, commit
}
