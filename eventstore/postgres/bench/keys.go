package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// shape is one way to keep keys unique per aggregate.
type shape struct {
	name string
	// ddl changes a table that has the columns and all other indexes of
	// commit. %s is the table.
	ddl string
	// column and value are what an insert adds, if anything.
	column, value string
}

var shapes = []shape{
	{name: "no index on keys (no promise)"},
	{name: "(agg_id, agg_type, key)", ddl: `create unique index on %s (agg_id, agg_type, key)`},
	{name: "(key, agg_id, agg_type)", ddl: `create unique index on %s (key, agg_id, agg_type)`},
	{
		name: "digest of all three, 16 bytes", ddl: `alter table %[1]s add column digest uuid not null; create unique index on %[1]s (digest)`,
		column: ", digest", value: ", md5(r.type || '/' || r.id || '/' || r.key)::uuid",
	},
	{
		name: "(agg_id, agg_type, key as uuid)", ddl: `alter table %[1]s add column short uuid not null; create unique index on %[1]s (agg_id, agg_type, short)`,
		column: ", short", value: ", r.key::uuid",
	},
}

// benchmarkKeys fills one table for each shape and kind of key, side by side
// and batch by batch, and says what a command costs in each. The server takes
// a checkpoint every other second, as it would every five minutes at a rate
// that fills the same share of its memory: after each, the first change of a
// page writes all of it to the write-ahead log.
func benchmarkKeys(ctx context.Context, w io.Writer, quick bool) (err error) {
	const perBatch = 500
	batches, aggregates := 1200, 50_000
	if quick {
		batches = 200
	}
	s, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	conditions, err := s.conditions(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s; %s commands per table, %d a transaction, on %s aggregates\n\n", conditions,
		thousands(float64(batches*perBatch)), perBatch, thousands(float64(aggregates)))
	l, err := openLog(ctx, s, "one")
	if err != nil {
		return err
	}
	if err := l.close(); err != nil {
		return err
	}

	type table struct {
		shape  shape
		keys   string
		name   string
		insert string
		took   []float64 // microseconds per command, of each batch
		wal    int64
		key    func() string
	}
	var tables []*table
	for _, kind := range []struct {
		name string
		make func() string
	}{{"UUIDv7", uuid7}, {"random", uuid4}} {
		for i, sh := range shapes {
			t := &table{shape: sh, keys: kind.name, key: kind.make, name: fmt.Sprintf("keys_%s_%d", kind.name[:1], i)}
			ddl := `create table ` + t.name + ` (like one.commit including constraints);
				create unique index on ` + t.name + ` (pos);
				create unique index on ` + t.name + ` (agg_id, agg_type, version);`
			if sh.ddl != "" {
				ddl += fmt.Sprintf(sh.ddl, t.name)
			}
			if _, err := s.admin.Exec(ctx, ddl); err != nil {
				return err
			}
			t.insert = `insert into ` + t.name + ` (` + columns + sh.column + `)
				select r.pos, r.version, now(), 1, r.hash, r.type, r.id, r.key, '{"client":"ada"}', r.events` + sh.value + `
				from (select unnest($1::bigint[]) as pos, unnest($2::bigint[]) as version, unnest($3::bytea[]) as hash,
					'counter' as type, unnest($4::text[]) as id, unnest($5::text[]) as key, unnest($6::json[]) as events offset 0) r`
			tables = append(tables, t)
		}
	}
	var (
		pos      = make([]int64, perBatch)
		versions = make([]int64, perBatch)
		hashes   = make([][]byte, perBatch)
		ids      = make([]string, perBatch)
		events   = make([]string, perBatch)
		keys     = make([]string, perBatch)
		body     = string(appendEvents(nil, 1))
	)
	checkpoint := time.Now()
	for b := range batches {
		for i := range perBatch {
			n := b*perBatch + i
			pos[i], versions[i] = int64(n+1), int64(n/aggregates+1)
			ids[i] = fmt.Sprintf("%d-%08x", n*7919%aggregates, n*7919%aggregates*40503) // 7919 is a prime
			hashes[i], events[i] = []byte(ids[i] + "0123456789abcdef")[:16], body
		}
		order := slices.Clone(tables)
		if b%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			for i := range keys {
				keys[i] = t.key()
			}
			before, err := s.usage(ctx)
			if err != nil {
				return err
			}
			begun := time.Now()
			if _, err := s.admin.Exec(ctx, t.insert, pos, versions, hashes, ids, keys, events); err != nil {
				return fmt.Errorf("%s: %w", t.shape.name, err)
			}
			t.took = append(t.took, float64(time.Since(begun).Microseconds())/perBatch)
			after, err := s.usage(ctx)
			if err != nil {
				return err
			}
			t.wal += after.wal - before.wal
		}
		if time.Since(checkpoint) > 2*time.Second {
			if _, err := s.admin.Exec(ctx, `checkpoint`); err != nil {
				return err
			}
			checkpoint = time.Now()
		}
	}

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "keys\tindex\tµs/command\tthe last tenth\tWAL B/command\tdisk B/command\tof that, index\t")
	for _, tb := range tables {
		size, err := s.size(ctx, tb.name)
		if err != nil {
			return err
		}
		var indexes int64
		if err := s.admin.QueryRow(ctx, `select pg_indexes_size($1::regclass)`, tb.name).Scan(&indexes); err != nil {
			return err
		}
		n := float64(batches * perBatch)
		fmt.Fprintf(t, "%s\t%s\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t\n", tb.keys, tb.shape.name, medianOf(tb.took),
			medianOf(tb.took[len(tb.took)*9/10:]), float64(tb.wal)/n, float64(size)/n, float64(indexes)/n)
	}
	return t.Flush()
}
