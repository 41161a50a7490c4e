package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
)

// shape is an index that keeps keys unique per aggregate.
type shape struct {
	name string
	// ddl changes a table that has the columns and the other indexes of the
	// table commit. %s is its name.
	ddl string
	// column and value are added to each insert; they may be empty.
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

// keyTable is a table with one shape of index and one kind of key.
type keyTable struct {
	shape  shape
	keys   string // the kind of key
	newKey func() string
	name   string
	insert string

	took []float64 // microseconds per command, one per batch
	wal  int64
}

// commandsPerBatch is the number of commands per transaction.
const commandsPerBatch = 500

// benchmarkKeys fills a table for each shape and kind of key, and prints the cost
// of a command in each. The tables take turns, batch by batch. The server takes a
// checkpoint every 2 s, because after a checkpoint the first change of each page
// writes the whole page to the write-ahead log. A production server takes one
// every 5 minutes, and writes about as many pages between two of them.
func benchmarkKeys(ctx context.Context, w io.Writer, quick bool) (err error) {
	batches, aggregates := 1200, 50_000
	if quick {
		batches = 200
	}
	s, err := startServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	conditions, err := s.Conditions(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s; %s commands per table, %d a transaction, on %s aggregates\n\n", conditions,
		report.Thousands(float64(batches*commandsPerBatch)), commandsPerBatch, report.Thousands(float64(aggregates)))
	tables, err := createKeyTables(ctx, s)
	if err != nil {
		return err
	}
	checkpoint := time.Now()
	err = report.TakeTurns(ctx, tables, batches, func(t *keyTable, batch int) error {
		// Between two rounds, so that it affects all tables alike.
		if batch%2 == 0 && t == tables[0] && time.Since(checkpoint) > 2*time.Second {
			if _, err := s.Admin.Exec(ctx, `checkpoint`); err != nil {
				return err
			}
			checkpoint = time.Now()
		}
		return t.insertBatch(ctx, s, batch, aggregates)
	})
	if err != nil {
		return err
	}
	return printKeyTables(ctx, w, s, tables, float64(batches*commandsPerBatch))
}

// createKeyTables creates a table for each shape and kind of key.
func createKeyTables(ctx context.Context, s *server) ([]*keyTable, error) {
	l, err := openLog(ctx, s, "one") // creates the table commit, which is copied
	if err != nil {
		return nil, err
	}
	if err := l.close(); err != nil {
		return nil, err
	}
	var tables []*keyTable
	for _, kind := range []struct {
		name   string
		newKey func() string
	}{{"UUIDv7", uuid7}, {"random", uuid4}} {
		for i, sh := range shapes {
			t := &keyTable{shape: sh, keys: kind.name, newKey: kind.newKey, name: fmt.Sprintf("keys_%s_%d", kind.name[:1], i)}
			ddl := `create table ` + t.name + ` (like one.commit including constraints);
				create unique index on ` + t.name + ` (pos);
				create unique index on ` + t.name + ` (agg_id, agg_type, version);`
			if sh.ddl != "" {
				ddl += fmt.Sprintf(sh.ddl, t.name)
			}
			if _, err := s.Admin.Exec(ctx, ddl); err != nil {
				return nil, err
			}
			t.insert = `insert into ` + t.name + ` (` + columns + sh.column + `)
				select r.pos, r.version, now(), 1, r.hash, r.type, r.id, r.key, '{"client":"ada"}', r.events` + sh.value + `
				from (select unnest($1::bigint[]) as pos, unnest($2::bigint[]) as version, unnest($3::bytea[]) as hash,
					'counter' as type, unnest($4::text[]) as id, unnest($5::text[]) as key, unnest($6::json[]) as events offset 0) r`
			tables = append(tables, t)
		}
	}
	return tables, nil
}

// insertBatch inserts a batch of commands, and measures it.
func (t *keyTable) insertBatch(ctx context.Context, s *server, batch, aggregates int) error {
	var (
		pos      = make([]int64, commandsPerBatch)
		versions = make([]int64, commandsPerBatch)
		hashes   = make([][]byte, commandsPerBatch)
		ids      = make([]string, commandsPerBatch)
		keys     = make([]string, commandsPerBatch)
		events   = slices.Repeat([]string{string(appendEvents(nil, 1))}, commandsPerBatch)
	)
	for i := range commandsPerBatch {
		n := batch*commandsPerBatch + i
		pos[i], versions[i] = int64(n+1), int64(n/aggregates+1)
		ids[i] = fmt.Sprintf("%d-%08x", n*7919%aggregates, n*7919%aggregates*40503) // 7919 is prime
		hashes[i], keys[i] = []byte(ids[i] + "0123456789abcdef")[:16], t.newKey()
	}
	before, err := s.Usage(ctx)
	if err != nil {
		return err
	}
	started := time.Now()
	if _, err := s.Admin.Exec(ctx, t.insert, pos, versions, hashes, ids, keys, events); err != nil {
		return fmt.Errorf("%s: %w", t.shape.name, err)
	}
	t.took = append(t.took, float64(time.Since(started).Microseconds())/commandsPerBatch)
	after, err := s.Usage(ctx)
	t.wal += after.WAL - before.WAL
	return err
}

// printKeyTables prints the cost of a command in each table.
func printKeyTables(ctx context.Context, w io.Writer, s *server, tables []*keyTable, commands float64) error {
	out := report.Table(w)
	fmt.Fprintln(out, "keys\tindex\tµs/command\tlast tenth\tWAL B/command\tdisk B/command\tindex B/command\t")
	for _, t := range tables {
		size, err := s.Size(ctx, t.name)
		if err != nil {
			return err
		}
		var indexes int64
		if err := s.Admin.QueryRow(ctx, `select pg_indexes_size($1::regclass)`, t.name).Scan(&indexes); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t\n", t.keys, t.shape.name, report.Median(t.took),
			report.Median(t.took[len(t.took)*9/10:]), float64(t.wal)/commands, float64(size)/commands, float64(indexes)/commands)
	}
	return out.Flush()
}
