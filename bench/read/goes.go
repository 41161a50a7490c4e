package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/modernice/goes/aggregate"
	"github.com/modernice/goes/aggregate/repository"
	"github.com/modernice/goes/backend/postgres"
	"github.com/modernice/goes/codec"
	"github.com/modernice/goes/event"
	"github.com/modernice/goes/helper/streams"
	"github.com/modernice/goes/projection"
	"github.com/modernice/goes/projection/schedule"
)

// goesRival is github.com/modernice/goes, with the same server. Its events are in its
// own table, filled with COPY.
type goesRival struct {
	pool  *pgxpool.Pool
	store *postgres.EventStore
}

// goesID is the id of a lot: goes has UUIDs only.
func goesID(lot int) uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(lotID(lot)))
}

func openGoes(ctx context.Context, url string) (*goesRival, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, err
	}
	names := codec.New()
	codec.Register[listed](names, "listed")
	codec.Register[bid](names, "bid")
	g := &goesRival{pool: pool, store: postgres.NewEventStore(names, postgres.Pool(pool), postgres.Table("goes_events"))}
	if err := g.store.Connect(ctx); err != nil {
		return nil, err
	}
	_, err = pool.Exec(ctx, `create table goes_rows (id uuid primary key, open boolean not null, price bigint not null, data json not null);
		create index on goes_rows (open, price)`)
	return g, err
}

func (g *goesRival) close() { g.pool.Close() }

// fill copies the events of lots into the table.
func (g *goesRival) fill(ctx context.Context, lots int) error {
	start := time.Now().UnixNano()
	source := pgx.CopyFromSlice(lots*eventsPerLot, func(i int) ([]any, error) {
		lot, n := i%lots, i/lots
		typ, value := nthEvent(lot, n)
		data, err := json.Marshal(value)
		return []any{uuid.New(), typ, start + int64(i)*1000, goesID(lot), "lot", n + 1, data}, err
	})
	_, err := g.pool.CopyFrom(ctx, pgx.Identifier{"goes_events"}, []string{"id", "name", "time", "aggregate_id", "aggregate_name", "aggregate_version", "data"}, source)
	if err == nil {
		_, err = g.pool.Exec(ctx, `vacuum analyze goes_events`)
	}
	return err
}

// goesLot is the aggregate, and the model of a row.
type goesLot struct {
	*aggregate.Base
	listing
}

func newGoesLot(id uuid.UUID) *goesLot {
	l := &goesLot{Base: aggregate.New("lot", id)}
	event.ApplyWith(l, func(e event.Of[listed]) { l.list(e.Data()) }, "listed")
	event.ApplyWith(l, func(e event.Of[bid]) { l.bid(e.Data()) }, "bid")
	return l
}

const goesCheck = `select count(*), sum((data->>'price')::bigint), sum((data->>'bids')::bigint) from goes_rows`

// rebuild measures the startup job of a schedule.
func (g *goesRival) rebuild(ctx context.Context, b *bench, lots int, project func(projection.Job) error) (took time.Duration, err error) {
	if _, err := g.pool.Exec(ctx, `truncate goes_rows`); err != nil {
		return 0, err
	}
	start := time.Now()
	ctx, end := context.WithCancel(ctx)
	defer end()
	s := schedule.Periodically(g.store, time.Hour, []string{"listed", "bid"})
	if _, err := s.Subscribe(ctx, project, projection.Startup()); err != nil {
		return 0, err
	}
	took = time.Since(start)
	return took, checkRows(ctx, b.server.Admin, goesCheck, lots)
}

// perAggregate projects as the tutorial of goes does for persisted rows: for each
// aggregate of the job it loads the row, fetches the aggregate, and saves the row.
// goes has a repository of rows for MongoDB; this is the one for PostgreSQL that
// its user would write.
func (g *goesRival) perAggregate(job projection.Job) error {
	lots := repository.New(g.store)
	refs, errs, err := job.Aggregates(job, "lot")
	if err != nil {
		return err
	}
	return streams.Walk(job, func(ref aggregate.Ref) error {
		var data []byte
		err := g.pool.QueryRow(job, `select data from goes_rows where id = $1`, ref.ID).Scan(&data)
		if err != nil && err != pgx.ErrNoRows {
			return err
		}
		l := newGoesLot(ref.ID)
		if err := lots.Fetch(job, l); err != nil {
			return err
		}
		return g.save(job, []uuid.UUID{ref.ID}, []*listing{&l.listing})
	}, refs, errs)
}

// inMemory projects into one model that holds every row in memory, and then saves
// the rows, 1,000 at a time. Nothing survives a failure halfway.
func (g *goesRival) inMemory(job projection.Job) error {
	m := &goesModel{rows: map[uuid.UUID]*listing{}}
	if err := job.Apply(job, m); err != nil {
		return err
	}
	var ids []uuid.UUID
	var rows []*listing
	flush := func() error {
		err := g.save(job, ids, rows)
		ids, rows = ids[:0], rows[:0]
		return err
	}
	for id, row := range m.rows {
		if ids, rows = append(ids, id), append(rows, row); len(ids) == barePage {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// goesModel is a target with the rows of all aggregates.
type goesModel struct{ rows map[uuid.UUID]*listing }

func (m *goesModel) ApplyEvent(e event.Event) {
	id, _, _ := e.Aggregate()
	row := m.rows[id]
	if row == nil {
		row = new(listing)
		m.rows[id] = row
	}
	switch data := e.Data().(type) {
	case listed:
		row.list(data)
	case bid:
		row.bid(data)
	}
}

func (g *goesRival) save(ctx context.Context, ids []uuid.UUID, rows []*listing) error {
	var (
		keys   = make([]string, len(rows))
		open   = make([]bool, len(rows))
		prices = make([]int64, len(rows))
		data   = make([]string, len(rows))
	)
	for i, row := range rows {
		text, err := json.Marshal(row)
		if err != nil {
			return err
		}
		keys[i], open[i], prices[i], data[i] = ids[i].String(), row.Open, row.Price, string(text)
	}
	_, err := g.pool.Exec(ctx, `insert into goes_rows select u.id::uuid, u.open, u.price, u.data::json from unnest($1::text[], $2::boolean[], $3::bigint[], $4::text[]) u (id, open, price, data)
		on conflict (id) do update set open = excluded.open, price = excluded.price, data = excluded.data`, keys, open, prices, data)
	return err
}
