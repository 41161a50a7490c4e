package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// outboxEvery is how often the outbox by hand is read.
const outboxEvery = 10 * time.Millisecond

// An outbox is the usual way by hand: the transaction of an event also writes a row
// into a table, and a loop reads that table. It carries out up to 1,000 rows with one
// statement, which appends to the targets without loading or deciding anything, so
// it is a lower bound of such a loop.
type outbox struct {
	pool  *pgxpool.Pool
	seen  atomic.Pointer[sightings]
	end   context.CancelFunc
	ended chan error
}

const (
	outboxTables = `
		create table events (stream text not null, version bigint not null, n bigint not null, primary key (stream, version));
		create table outbox (id bigint generated always as identity primary key, target text not null, n bigint not null);`
	outboxPlace = `
		with event as (
			insert into events select 'shop/' || $1::text, coalesce(max(version), 0) + 1, $2::bigint from events where stream = 'shop/' || $1::text)
		insert into outbox (target, n) values ('ledger/' || $1::text, $2::bigint)`
	outboxCarry = `
		with taken as (
			delete from outbox where id in (select id from outbox order by id limit 1000 for update skip locked) returning target, id, n)
		insert into events
			select target, coalesce((select max(version) from events where stream = target), 0) + row_number() over (partition by target order by id), n
			from taken
		returning n`
)

func startOutbox(ctx context.Context, url string) (*outbox, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 51 // one for each caller, and one for the loop
	o := &outbox{ended: make(chan error, 1)}
	if o.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	if _, err := o.pool.Exec(ctx, outboxTables); err != nil {
		o.pool.Close()
		return nil, err
	}
	o.seen.Store(newSightings())
	ctx, o.end = context.WithCancel(ctx)
	go func() { o.ended <- o.run(ctx) }()
	return o, nil
}

func (o *outbox) stop() error {
	o.end()
	err := <-o.ended
	o.pool.Close()
	return err
}

// run reads the outbox every 10 ms.
func (o *outbox) run(ctx context.Context) error {
	tick := time.NewTicker(outboxEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		rows, err := o.pool.Query(ctx, outboxCarry)
		if err == nil {
			var list []int64
			list, err = pgx.CollectRows(rows, pgx.RowTo[int64])
			now, seen := time.Now(), o.seen.Load()
			for _, n := range list {
				seen.effected(n, now)
			}
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
}

func (o *outbox) place(ctx context.Context, shop string, n int64) error {
	_, err := o.pool.Exec(ctx, outboxPlace, shop, n)
	if err == nil {
		o.seen.Load().cause(n, time.Now())
	}
	return err
}

func (o *outbox) sample() *sightings {
	s := newSightings()
	o.seen.Store(s)
	return s
}
