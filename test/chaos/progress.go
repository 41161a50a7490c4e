package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/test/chaos/check"
)

// sampleEvery is how often the group's table is read.
const sampleEvery = 25 * time.Millisecond

// sampler reads the segments of the consumer group all the time.
type sampler struct {
	samples []check.Progress
	stop    context.CancelFunc
	work    sync.WaitGroup
}

// sample starts to read. now is the clock of the load.
func sample(url string, now func() int64) *sampler {
	ctx, stop := context.WithCancel(context.Background())
	s := &sampler{stop: stop}
	s.work.Go(func() {
		last := map[int]check.Progress{}
		for ctx.Err() == nil {
			conn, err := pgx.Connect(ctx, url)
			for err == nil {
				err = s.read(ctx, conn, now, last)
				sleep(ctx, sampleEvery)
			}
			if conn != nil {
				_ = conn.Close(context.Background()) // it has failed
			}
			sleep(ctx, sampleEvery) // the database may be away
		}
	})
	return s
}

// read adds the segments that have changed.
func (s *sampler) read(ctx context.Context, conn *pgx.Conn, now func() int64, last map[int]check.Progress) error {
	list, err := conn.Query(ctx, `select segment::int, epoch, pos from consumer_segment where name = $1 and segment not like '~%'`, check.GroupName)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(list, func(row pgx.CollectableRow) (p check.Progress, err error) {
		err = row.Scan(&p.Segment, &p.Epoch, &p.Position)
		return p, err
	})
	for _, p := range all {
		if before, ok := last[p.Segment]; !ok || before.Epoch != p.Epoch || before.Position != p.Position {
			p.At = now() // it was so at this time or before
			last[p.Segment] = p
			s.samples = append(s.samples, p)
		}
	}
	return err
}

// end stops reading and returns what was read.
func (s *sampler) end() []check.Progress {
	s.stop()
	s.work.Wait()
	return s.samples
}

// storedAt returns when the commits of auctions were stored, by the database's clock.
func storedAt(ctx context.Context, url string) (map[eventstore.Position]time.Time, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	list, err := conn.Query(ctx, `select pos, pg_xact_commit_timestamp(xmin) from commit where agg_type = 'auction'`)
	if err != nil {
		return nil, err
	}
	all := map[eventstore.Position]time.Time{}
	var position int64
	var at *time.Time
	_, err = pgx.ForEachRow(list, []any{&position, &at}, func() error {
		if at == nil {
			return fmt.Errorf("the database does not know when position %d was stored", position)
		}
		all[eventstore.Position(position)] = at.UTC()
		return nil
	})
	return all, err
}
