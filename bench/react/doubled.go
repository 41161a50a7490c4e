package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/eventstore"
)

// endEvery is how often a random backend of the database is ended.
const endEvery = 100 * time.Millisecond

// doubled counts commands of our process manager that were lost or stored twice while
// database backends are ended at random. It counts in the log, after the backends
// have been left alone.
func (b *bench) doubled(ctx context.Context, w io.Writer, commands int) (_ []report.Ratio, err error) {
	url, err := b.database(ctx, "doubled")
	if err != nil {
		return nil, err
	}
	r, err := startRelay(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	seen := r.sample()
	ended, stop, err := endBackends(ctx, b.server.ConnURL, "doubled")
	if err != nil {
		return nil, err
	}
	var last atomic.Int64
	begun := time.Now()
	err = paced(ctx, commandRate, time.Second*time.Duration(commands)/commandRate, func(ctx context.Context, caller, n int) error {
		return r.place(ctx, fmt.Sprintf("%d-%d", caller, n%shopsEach), last.Add(1))
	})
	took := time.Since(begun)
	if err := errors.Join(err, stop()); err != nil {
		return nil, err
	}
	// A commit whose outcome the store has to look up may not be announced: the
	// log decides, this only waits.
	_, waiting := seen.complete(ctx)
	missing, repeated, err := r.countNotes(ctx, last.Load())
	if err != nil {
		return nil, errors.Join(err, waiting)
	}
	out := report.Table(w)
	fmt.Fprintf(out, "commands, a backend ended every %v\tbackends ended\ttime\tmissing\tdoubled\t\n", endEvery)
	fmt.Fprintf(out, "%s\t%d\t%.0f s\t%d\t%d\t\n", report.Thousands(float64(last.Load())), ended.Load(), took.Seconds(), missing, repeated)
	if missing+repeated > 0 {
		err = fmt.Errorf("%d commands are missing and %d are doubled", missing, repeated)
	}
	return nil, errors.Join(err, out.Flush())
}

// countNotes reads the log, and returns how many of the orders up to last have no
// note, and how many notes repeat one.
func (r *relay) countNotes(ctx context.Context, last int64) (missing, repeated int, err error) {
	inLog := newSightings()
	for n := range last {
		inLog.cause(n+1, time.Time{})
	}
	for after, failed := eventstore.Position(0), 0; ; {
		commits, err := r.store.Read(ctx, after, 1000)
		if errors.Is(err, eventstore.ErrUnavailable) && failed < 100 { // a connection that was ended
			failed++
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		if len(commits) == 0 {
			missing, repeated = inLog.missing()
			return missing, repeated, nil
		}
		inLog.record(commits)
		after = commits[len(commits)-1].Position
	}
}

// endBackends ends a random backend of a database every 100 ms until stop is called.
func endBackends(ctx context.Context, url, database string) (ended *atomic.Int64, stop func() error, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	ended = new(atomic.Int64)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(endEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				done <- nil
				return
			}
			var n int64
			err := conn.QueryRow(context.WithoutCancel(ctx), `
				with one as (select pid from pg_stat_activity where datname = $1 order by random() limit 1)
				select count(pg_terminate_backend(pid)) from one`, database).Scan(&n)
			if err != nil {
				done <- err
				return
			}
			ended.Add(n)
		}
	}()
	return ended, func() error {
		cancel()
		return errors.Join(<-done, conn.Close(context.Background()))
	}, nil
}
