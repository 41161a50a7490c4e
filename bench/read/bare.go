package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

// barePage is the size of the bare loop's pages and batches, in events.
const barePage = 1000

// bare is the loop that one would write by hand for this one table: read a page of
// the log, load the rows that it concerns, fold, and write rows and checkpoint in
// one transaction, whose statements are sent together. It has no fence, no
// segments, no builds, no blocked rows and no positions in its rows.
//
// With remember, it keeps every row in memory and loads none.
type bare struct {
	store    *postgres.Store
	conn     *pgx.Conn
	table    string
	remember map[string]*listing // nil: rows are loaded
}

// create makes the table again.
func (l *bare) create(ctx context.Context) error {
	_, err := l.conn.Exec(ctx, fmt.Sprintf(`drop table if exists %[1]s, %[1]s_checkpoint;
		create table %[1]s (key text collate "C" primary key, open boolean not null, price bigint not null, data json not null);
		create index on %[1]s (open, price, key);
		create table %[1]s_checkpoint (pos bigint not null) with (fillfactor = 50);
		insert into %[1]s_checkpoint values (0)`, l.table))
	return err
}

// run folds the log up to a position.
func (l *bare) run(ctx context.Context, upTo eventstore.Position) error {
	for at := eventstore.Position(0); at < upTo; {
		next, err := l.step(ctx, at)
		if err != nil {
			return err
		}
		if next == at {
			return fmt.Errorf("the log ends at position %d, want %d", at, upTo)
		}
		at = next
	}
	return nil
}

// step folds the next page of the log after a position, and returns the position of
// its last event.
func (l *bare) step(ctx context.Context, at eventstore.Position) (eventstore.Position, error) {
	page, err := l.store.Read(ctx, at, barePage)
	if err != nil || len(page) == 0 {
		return at, err
	}
	rows, err := l.load(ctx, page)
	if err != nil {
		return at, err
	}
	if err := foldPage(page, rows); err != nil {
		return at, err
	}
	at = page[len(page)-1].Position
	return at, l.write(ctx, rows, at)
}

// load returns the rows that the events of a page concern; new ones are zero.
func (l *bare) load(ctx context.Context, page []eventstore.Commit) (map[string]*listing, error) {
	rows := make(map[string]*listing, len(page))
	keys := make([]string, 0, len(page))
	for i := range page {
		id := page[i].Stream.ID
		if rows[id] != nil {
			continue
		}
		rows[id] = new(listing)
		switch known := l.remember[id]; {
		case known != nil:
			rows[id] = known
		case l.remember != nil:
			l.remember[id] = rows[id]
		default:
			keys = append(keys, id)
		}
	}
	if len(keys) == 0 {
		return rows, nil
	}
	found, err := l.conn.Query(ctx, `select key, data from `+l.table+` where key = any($1)`, keys)
	if err != nil {
		return nil, err
	}
	var key string
	var data []byte
	_, err = pgx.ForEachRow(found, []any{&key, &data}, func() error { return json.Unmarshal(data, rows[key]) })
	return rows, err
}

func foldPage(page []eventstore.Commit, rows map[string]*listing) error {
	for i := range page {
		row := rows[page[i].Stream.ID]
		for _, e := range page[i].Events {
			switch e.Type {
			case "listed":
				var event listed
				if err := json.Unmarshal(e.Data, &event); err != nil {
					return err
				}
				row.list(event)
			case "bid":
				var event bid
				if err := json.Unmarshal(e.Data, &event); err != nil {
					return err
				}
				row.bid(event)
			}
		}
	}
	return nil
}

func (l *bare) write(ctx context.Context, rows map[string]*listing, at eventstore.Position) error {
	var (
		keys   = make([]string, 0, len(rows))
		open   = make([]bool, 0, len(rows))
		prices = make([]int64, 0, len(rows))
		data   = make([]string, 0, len(rows))
	)
	for key, row := range rows {
		text, err := json.Marshal(row)
		if err != nil {
			return err
		}
		keys, open, prices, data = append(keys, key), append(open, row.Open), append(prices, row.Price), append(data, string(text))
	}
	var b pgx.Batch // its statements are one transaction
	b.Queue(`insert into `+l.table+` select u.key, u.open, u.price, u.data::json from unnest($1::text[], $2::boolean[], $3::bigint[], $4::text[]) u (key, open, price, data)
		on conflict (key) do update set open = excluded.open, price = excluded.price, data = excluded.data`, keys, open, prices, data)
	b.Queue(`update `+l.table+`_checkpoint set pos = $1`, int64(at))
	return l.conn.SendBatch(ctx, &b).Close()
}

// rebuild measures the loop over the whole log.
func (l *bare) rebuild(ctx context.Context, b *bench, lots int) (took time.Duration, err error) {
	if err := l.create(ctx); err != nil {
		return 0, err
	}
	if l.remember != nil {
		clear(l.remember)
	}
	start := time.Now()
	if err := l.run(ctx, eventstore.Position(lots*eventsPerLot)); err != nil {
		return 0, err
	}
	took = time.Since(start)
	return took, checkRows(ctx, b.server.Admin, `select count(*), sum((data->>'price')::bigint), sum((data->>'bids')::bigint) from `+l.table, lots)
}
