package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/core"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/postgres/internal/driver"
)

const columns = `pos, n, agg_type, agg_id, version, key, at, meta, events`

const (
	streamSQL = `select ` + columns + ` from commit
		where agg_id = $1 and agg_type = $2 and version > $3 order by version limit $4`
	logSQL = `select ` + columns + ` from commit where pos > $1 order by pos limit $2`
)

// warmReads makes the server plan the reads that commands wait for, with
// parameters that match no row.
func warmReads(ctx context.Context, c *pgx.Conn) error {
	for sql, args := range map[string][]any{
		streamSQL: {"", "", int64(0), 1},
		logSQL:    {int64(math.MaxInt64), 1},
		loadSQL:   loadArgs(eventstore.LoadRequest{Limit: 1}),
	} {
		if _, err := c.Exec(ctx, sql, args...); err != nil {
			return err
		}
	}
	return nil
}

// ReadStream implements eventstore.Store.
func (s *Store) ReadStream(ctx context.Context, id eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error) {
	page, err := s.page(ctx, "read a stream", streamSQL, id.ID, id.Type, stored.Signed(after), limit)
	if err != nil {
		return nil, err
	}
	return page, stored.Contiguous(page, after)
}

// Read implements eventstore.Store.
func (s *Store) Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	log := s.LogID()
	page, err := s.page(ctx, "read the log", logSQL, stored.Signed(after), limit)
	if err != nil {
		return nil, err
	}
	return s.core.Page(log, page, after)
}

// ReadType implements eventstore.Store. It reads every row in the range of
// positions, because an index on the type would slow every append.
func (s *Store) ReadType(ctx context.Context, typ string, after eventstore.Position, limit, scan int) ([]eventstore.Commit, eventstore.Position, error) {
	return core.ReadType(after, limit, scan, func(after eventstore.Position, limit, scan int) ([]eventstore.Commit, eventstore.Position, error) {
		return s.scanType(ctx, typ, after, limit, scan)
	})
}

func (s *Store) scanType(ctx context.Context, typ string, after eventstore.Position, limit, scan int) ([]eventstore.Commit, eventstore.Position, error) {
	const op = "read a type"
	var w core.Window
	err := s.readBounded(ctx, op, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `select min(pos - n), max(pos), sum(n) from commit where pos > $1 and pos <=
			coalesce((select pos from commit where pos >= $2 order by pos limit 1), 9223372036854775807)`,
			stored.Signed(after), stored.Signed(after+eventstore.Position(max(scan, 1)))).Scan(&w.First, &w.UpTo, &w.Events)
	})
	if err != nil {
		return nil, after, err
	}
	return core.TypePage(w, after, limit, func(upTo int64) ([]eventstore.Commit, error) {
		return s.page(ctx, op, `select `+columns+` from commit where pos > $1 and pos <= $2 and agg_type = $3
			order by pos limit $4`, stored.Signed(after), upTo, typ, limit)
	})
}

// Clock returns the time of the database server's clock. It is the only clock
// that all nodes can reach, so they compare their own clocks with it.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var at time.Time
	err := s.readBounded(ctx, "read the clock", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `select clock_timestamp()`).Scan(&at)
	})
	return at, err
}

// Size returns the space that the database and the log take, and the age of the oldest
// transaction id of all databases of the server. The server does not know what its disk
// has left.
func (s *Store) Size(ctx context.Context) (eventstore.Size, error) {
	size := eventstore.Size{Free: -1}
	err := s.readBounded(ctx, "read the size", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `select pg_database_size(current_database()), pg_total_relation_size('commit'),
			(select max(age(datfrozenxid)) from pg_database)`).Scan(&size.Database, &size.Log, &size.TransactionAge)
	})
	return size, err
}

// Head implements eventstore.Store.
func (s *Store) Head(ctx context.Context) (eventstore.Position, error) {
	var head eventstore.Position
	err := s.readBounded(ctx, "read the head", func(ctx context.Context, c *pgx.Conn) error {
		mark := s.core.Guard.Mark()
		log, err := look(ctx, c, mark.Newest.Position)
		if err != nil {
			return err
		}
		head = log.Head.Position
		if !s.core.Guard.Compare(mark, log) {
			return s.core.Guard.Err()
		}
		return s.core.Guard.Saw(log.ID, log.Head)
	})
	return head, err
}

// StreamHead implements eventstore.Store.
func (s *Store) StreamHead(ctx context.Context, id eventstore.StreamID) (eventstore.Head, error) {
	var version, pos int64
	err := s.readBounded(ctx, "read a stream's head", func(ctx context.Context, c *pgx.Conn) error {
		err := c.QueryRow(ctx, `select version, pos from commit where agg_id = $1 and agg_type = $2
			order by version desc limit 1`, id.ID, id.Type).Scan(&version, &pos)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return eventstore.Head{Version: eventstore.Version(version), Position: eventstore.Position(pos)}, err
}

// SaveSnapshot implements eventstore.Store.
func (s *Store) SaveSnapshot(ctx context.Context, snap eventstore.Snapshot) error {
	if err := stored.CheckSnapshot(snap); err != nil {
		return err
	}
	return s.readBounded(ctx, "save a snapshot", func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `with saved as (
				insert into snapshot (agg_id, agg_type, version, pos, at, fingerprint, state)
				values ($1, $2, $3, $4, $5, $6, $7)
				on conflict (agg_id, agg_type, fingerprint) do update
				set version = excluded.version, pos = excluded.pos, at = excluded.at, state = excluded.state, stored = excluded.stored
				where excluded.version >= snapshot.version)
			delete from snapshot where agg_id = $1 and agg_type = $2 and fingerprint <> $6
				and stored < (select max(o.stored) from snapshot o where o.agg_id = $1 and o.agg_type = $2 and o.fingerprint <> $6)`,
			snap.Stream.ID, snap.Stream.Type, int64(snap.Version), int64(snap.Position), snap.At.UTC(),
			snap.Fingerprint, []byte(snap.State))
		return err
	})
}

// Audit implements verify.Source. It also reads a log that went back.
func (s *Store) Audit(ctx context.Context, query string, row func(scan func(dest ...any) error) error) error {
	var answered bool // row was called, so the query must not run again
	var failure error
	err := s.withConn(ctx, "audit", func(c *pgx.Conn) error {
		if answered {
			return failure
		}
		if _, err := c.Exec(ctx, `set statement_timeout = 0`); err != nil {
			return err
		}
		rows, err := c.Query(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			answered = true
			if failure = row(rows.Scan); failure != nil {
				return failure
			}
		}
		failure = rows.Err()
		return failure
	})
	return err
}

// page returns the commits that a query selects.
func (s *Store) page(ctx context.Context, op, query string, args ...any) ([]eventstore.Commit, error) {
	var page []eventstore.Commit
	err := s.readBounded(ctx, op, func(ctx context.Context, c *pgx.Conn) error {
		page = nil
		rows, err := c.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		return each(rows, func(f *stored.Fields) error {
			f.Events = bytes.Clone(f.Events)
			commit, err := f.Commit()
			page = append(page, commit)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return page, nil
}

// each calls row with each commit. It decodes the columns itself, from their
// binary form, because Scan would double the cost of a read. The events of a row
// are valid until row returns.
func each(rows pgx.Rows, row func(*stored.Fields) error) error {
	defer rows.Close()
	var text []byte
	for rows.Next() {
		v := rows.RawValues()
		// One string for all names, which outlive the row.
		text = append(append(append(text[:0], v[2]...), v[3]...), v[5]...)
		names := string(text)
		t, i := len(v[2]), len(v[2])+len(v[3])
		err := row(&stored.Fields{
			Position: int64(binary.BigEndian.Uint64(v[0])),
			N:        int64(int32(binary.BigEndian.Uint32(v[1]))),
			Type:     names[:t],
			ID:       names[t:i],
			Version:  int64(binary.BigEndian.Uint64(v[4])),
			Key:      names[i:],
			Micros:   driver.Micros(v[6]),
			Meta:     v[7],
			Events:   v[8],
		})
		if err != nil {
			return err
		}
	}
	return rows.Err()
}
