package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/eventstore"
)

// follower is a system whose rows follow its log.
type follower struct {
	name       string
	append     func(ctx context.Context, run, caller, n int) (pos int64, err error)
	checkpoint func(ctx context.Context) (int64, error)
	p50, p99   []float64 // milliseconds, one per round
	late       int       // events that were not visible when the round ended
}

// visiblePerSecond is the rate of the experiment, in events.
const visiblePerSecond = 1000

// visible measures the time from the acknowledgement of an event until its row is
// visible to a reader: until the checkpoint that is written with the rows has
// passed the event. One observer asks for it every millisecond, for all systems.
func (b *bench) visible(ctx context.Context, w io.Writer, rounds int, d time.Duration) (ratios []report.Ratio, err error) {
	observer, err := pgx.Connect(ctx, b.server.ConnURL)
	if err != nil {
		return nil, err
	}
	defer observer.Close(context.Background())
	o, build, err := b.followVisible(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { b.committed.Store(nil); err = errors.Join(err, o.stop(ctx)) }()
	list := []*follower{{name: "ours", append: appendTo(b.store), checkpoint: func(ctx context.Context) (pos int64, err error) {
		err = observer.QueryRow(ctx, `select pos from ours.processor_checkpoint where build = $1`, build).Scan(&pos)
		return pos, err
	}}}
	hand, closeHand, err := b.listenLoop(ctx, observer)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeHand()) }()
	list = append(list, hand)
	if b.emmettDir != "" && b.cases.MatchString("emmett") {
		rival, closeEmmett, err := b.emmettFollower(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, closeEmmett()) }()
		list = append(list, rival)
	}
	err = report.TakeTurns(ctx, list, rounds, func(f *follower, round int) error {
		if err := f.sample(ctx, round, d); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return printVisible(w, list)
}

func printVisible(w io.Writer, list []*follower) ([]report.Ratio, error) {
	out := report.Table(w)
	fmt.Fprintf(out, "commit to row visible, %d events/s\tp50\tp99\tworst round\tnot visible in time\t\n", visiblePerSecond)
	var ratios []report.Ratio
	for _, f := range list {
		worst := 0.0
		for _, ms := range f.p99 {
			worst = max(worst, ms)
		}
		fmt.Fprintf(out, "%s\t%.1f ms\t%.1f ms\t%.1f ms\t%d\t\n", f.name, report.Median(f.p50), report.Median(f.p99), worst, f.late)
		if f == list[0] {
			ratios = append(ratios, report.Ratio{Name: "visible: p99 of ours, ms", Values: f.p99, AtMost: 15})
			continue
		}
		r := report.Ratio{Name: "visible: p99 of ours to " + f.name, Values: report.Pairwise(list[0].p99, f.p99, report.Quotient)}
		if f.name == "emmett" {
			r.AtMost = 0.3
		}
		ratios = append(ratios, r)
	}
	return ratios, out.Flush()
}

// sample measures one round.
func (f *follower) sample(ctx context.Context, round int, d time.Duration) error {
	var (
		last   atomic.Int64
		seen   []moved
		failed = make(chan error, 1)
	)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		var err error
		seen, err = watch(watching, f.checkpoint, last.Load, 2*d)
		failed <- err
	}()
	events, err := paced(ctx, round, visiblePerSecond, d, f.append)
	if err != nil {
		stop()
		return errors.Join(err, <-failed)
	}
	last.Store(events[len(events)-1].pos)
	if err := <-failed; err != nil {
		return err
	}
	list := lags(events, seen, time.Now())
	f.p50 = append(f.p50, report.MS(report.Percentile(list, 0.5)))
	f.p99 = append(f.p99, report.MS(report.Percentile(list, 0.99)))
	for _, e := range events {
		if e.pos > seen[len(seen)-1].pos {
			f.late++
		}
	}
	return nil
}

// followVisible starts the engine, and waits until it has caught up.
func (b *bench) followVisible(ctx context.Context) (*ours, int64, error) {
	o, err := follow(ctx, b.store, 1, "visible")
	if err != nil {
		return nil, 0, err
	}
	observe := func(batch []eventstore.Commit) { o.Observe(batch) }
	b.committed.Store(&observe)
	ids, err := o.active(ctx)
	if err != nil {
		return nil, 0, errors.Join(err, o.stop(ctx))
	}
	return o, ids[0], nil
}

// listenLoop is what one would write by hand: a table of events whose inserts
// notify, and a loop that wakes up, reads new events by their sequence numbers,
// folds them into rows that it keeps in memory, and writes rows and checkpoint in
// one transaction. Sequence numbers become visible out of order, so such a loop
// loses events; that favours it here.
func (b *bench) listenLoop(ctx context.Context, observer *pgx.Conn) (f *follower, end func() error, err error) {
	pool, err := openPool(ctx, b.server.ConnURL)
	if err != nil {
		return nil, nil, err
	}
	if _, err := pool.Exec(ctx, `create table hand_events (pos bigserial primary key, lot text not null, version bigint not null, type text not null, data json not null, unique (lot, version))`); err != nil {
		return nil, nil, err
	}
	l := &handLoop{}
	if l.listener, err = pgx.Connect(ctx, b.server.ConnURL); err != nil {
		return nil, nil, err
	}
	l.loop = &bare{conn: l.listener, table: "hand", remember: map[string]*listing{}}
	if err := l.loop.create(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := l.listener.Exec(ctx, `listen hand`); err != nil {
		return nil, nil, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.run(running) }()
	end = func() error {
		stop()
		err := <-ended
		pool.Close()
		_ = l.listener.Close(context.Background())
		return err
	}
	return &follower{
		name: "LISTEN loop by hand",
		append: func(ctx context.Context, run, caller, n int) (pos int64, err error) {
			lot, event := nthAppend(run, caller, n)
			c := command(n, event)
			err = pool.QueryRow(ctx, `with e as (insert into hand_events (lot, version, type, data) values ($1, $2, $3, $4) returning pos) select pos from e, pg_notify('hand', '')`,
				lot, event, c.Events[0].Type, string(c.Events[0].Data)).Scan(&pos)
			return pos, err
		},
		checkpoint: func(ctx context.Context) (pos int64, err error) {
			err = observer.QueryRow(ctx, `select pos from hand_checkpoint`).Scan(&pos)
			return pos, err
		},
	}, end, nil
}

// handLoop is the loop of listenLoop.
type handLoop struct {
	listener *pgx.Conn
	loop     *bare
}

func (l *handLoop) run(ctx context.Context) error {
	for at := int64(0); ; {
		page, err := l.read(ctx, at)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if len(page) == 0 {
			if _, err := l.listener.WaitForNotification(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			continue
		}
		rows, err := l.loop.load(ctx, page)
		if err == nil {
			err = foldPage(page, rows)
		}
		at = int64(page[len(page)-1].Position)
		if err == nil {
			err = l.loop.write(ctx, rows, page[len(page)-1].Position)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

func (l *handLoop) read(ctx context.Context, after int64) ([]eventstore.Commit, error) {
	found, err := l.listener.Query(ctx, `select pos, lot, type, data from hand_events where pos > $1 order by pos limit $2`, after, barePage)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, func(row pgx.CollectableRow) (c eventstore.Commit, err error) {
		c.Events = make([]eventstore.Event, 1)
		err = row.Scan(&c.Position, &c.Stream.ID, &c.Events[0].Type, &c.Events[0].Data)
		return c, err
	})
}

// emmettFollower starts emmett's consumer with its defaults, and the projection
// that writes a batch with one upsert.
func (b *bench) emmettFollower(ctx context.Context) (f *follower, end func() error, err error) {
	e, err := b.emmett(ctx)
	if err != nil {
		return nil, nil, err
	}
	pool, err := openPool(ctx, e.url)
	if err != nil {
		return nil, nil, err
	}
	stop, err := e.follow(ctx)
	if err != nil {
		return nil, nil, err
	}
	end = func() error { pool.Close(); return stop() }
	f = &follower{
		name: "emmett",
		append: func(ctx context.Context, run, caller, n int) (pos int64, err error) {
			lot, event := nthAppend(run, caller, n)
			c := command(n, event)
			var positions []int64
			err = pool.QueryRow(ctx, `select global_positions from emt_append_to_stream(array[$1::text], array[$2::jsonb], array['{}'::jsonb], array['1'], array[$3::text], array['E'], $4, 'lot', $5, 'emt:default')`,
				fmt.Sprintf("%s-%d", lot, n), string(c.Events[0].Data), c.Events[0].Type, lot, event).Scan(&positions)
			if err != nil || len(positions) != 1 {
				return 0, fmt.Errorf("append: positions %v: %w", positions, err)
			}
			return positions[0], nil
		},
		checkpoint: func(ctx context.Context) (pos int64, err error) {
			err = e.conn.QueryRow(ctx, `select coalesce(max(last_processed_checkpoint), '0')::bigint from emt_processors`).Scan(&pos)
			return pos, err
		},
	}
	return f, end, e.caughtUp(ctx, f.checkpoint)
}

// openPool opens the connections on which a rival appends.
func openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 16
	return pgxpool.NewWithConfig(ctx, config)
}
