package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// A ringJob is River's way to ring an alarm.
type ringJob struct {
	N int64 `json:"n"`
}

// Kind is the stored name of such jobs.
func (ringJob) Kind() string { return "ring" }

// A ringer writes a row for each job.
type ringer struct {
	river.WorkerDefaults[ringJob]
	pool *pgxpool.Pool
	seen *sightings
}

// Work implements river.Worker.
func (r *ringer) Work(ctx context.Context, job *river.Job[ringJob]) error {
	if _, err := r.pool.Exec(ctx, `insert into rung (n) values ($1)`, job.Args.N); err != nil {
		return err
	}
	r.seen.effected(job.Args.N, time.Now())
	return nil
}

// riverWith returns a measurement of River with a change of its defaults.
func riverWith(change func(*river.Config)) func(context.Context, string, *timetable) ([]time.Duration, error) {
	return func(ctx context.Context, url string, t *timetable) ([]time.Duration, error) {
		return schedule(ctx, url, t, change)
	}
}

// schedule inserts scheduled jobs and returns how late they were done.
func schedule(ctx context.Context, url string, t *timetable, change func(*river.Config)) (_ []time.Duration, err error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 50 // for 100 workers, each of which needs one for about a millisecond
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	client, err := newRiver(ctx, pool, t.seen, change)
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, client.Stop(context.WithoutCancel(ctx))) }()
	const batch = 1000
	for from := 0; from < t.wakes; from += batch {
		var jobs []river.InsertManyParams
		for i := from; i < min(from+batch, t.wakes); i++ {
			jobs = append(jobs, river.InsertManyParams{Args: ringJob{int64(i)}, InsertOpts: &river.InsertOpts{ScheduledAt: t.due(i)}})
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return nil, err
		}
	}
	return t.lateness(ctx)
}

// newRiver creates River's tables, and a client with 100 workers.
func newRiver(ctx context.Context, pool *pgxpool.Pool, seen *sightings, change func(*river.Config)) (*river.Client[pgx.Tx], error) {
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	if _, err := pool.Exec(ctx, `create table rung (n bigint primary key)`); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &ringer{pool: pool, seen: seen})
	cfg := &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 100}},
		Workers: workers, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	change(cfg)
	return river.NewClient(driver, cfg)
}
