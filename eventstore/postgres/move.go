package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Records implements eventstore.Mover.
func (s *Store) Records(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Record, error) {
	var page []eventstore.Record
	log := s.LogID()
	err := s.read(ctx, "read the log", func(c *pgx.Conn) error {
		page = nil
		rows, err := c.Query(ctx, `select pos, n, agg_type, agg_id, version, key, `+micros("at")+`, meta, events, hash
			from commit where pos > $1 order by pos limit $2`, stored.Signed(after), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			r, err := stored.ScanRecord(rows.Scan)
			if err != nil {
				return err
			}
			page = append(page, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return s.core.Records(log, page, after)
}

// Restore implements eventstore.Mover.
func (s *Store) Restore(ctx context.Context, records []eventstore.Record) error {
	return s.core.Restore(records, func(list []stored.Restored) error {
		return s.change(ctx, "restore", func(tx pgx.Tx) error { return restore(ctx, tx, list) })
	})
}

// change runs a transaction that holds the lock of appends.
func (s *Store) change(ctx context.Context, op string, do func(pgx.Tx) error) error {
	var refused *eventstore.RestoreError
	err := s.read(ctx, op, func(c *pgx.Conn) error {
		err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select lock_log()`); err != nil {
				return err
			}
			if err := s.compare(ctx, tx.Conn()); err != nil {
				return err
			}
			return do(tx)
		})
		if errors.As(err, &refused) {
			return nil // the connection is sound
		}
		return err
	})
	if refused != nil {
		return refused
	}
	return err
}

func restore(ctx context.Context, tx pgx.Tx, list []stored.Restored) error {
	log, err := look(ctx, tx.Conn(), 0)
	if err != nil {
		return err
	}
	if err := stored.NotNext(&list[0], log.Head.Position); err != nil {
		return err
	}
	if err := continues(ctx, tx, list); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `delete from outcome o using unnest($1::text[], $2::text[], $3::text[]) k (type, id, key)
		where o.agg_type = k.type and o.agg_id = k.id and o.key = k.key`,
		array(list, streamType), array(list, streamID), array(list, func(r stored.Restored) string { return r.Key })); err != nil {
		return err
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"commit"},
		[]string{"pos", "version", "at", "n", "hash", "agg_type", "agg_id", "key", "meta", "events"},
		pgx.CopyFromSlice(len(list), func(i int) ([]any, error) {
			r := &list[i]
			return []any{
				int64(r.Position), int64(r.Version), r.At, int32(r.N), r.Hash[:], r.Stream.Type, r.Stream.ID, r.Key, r.Meta, r.Events,
			}, nil
		}))
	var e *pgconn.PgError
	if errors.As(err, &e) && e.Code == codeUnique {
		return &eventstore.RestoreError{
			Position: list[0].Position,
			Reason:   fmt.Sprintf("one of %d commits, of which this is the first, has a version or a key that its stream already has", len(list)),
		}
	}
	return err
}

// array returns one column of a list, as a query parameter.
func array[T any](list []stored.Restored, of func(stored.Restored) T) []T {
	values := make([]T, len(list))
	for i, r := range list {
		values[i] = of(r)
	}
	return values
}

func streamType(r stored.Restored) string { return r.Stream.Type }

func streamID(r stored.Restored) string { return r.Stream.ID }

// continues reports the first commit that does not continue its stream.
func continues(ctx context.Context, tx pgx.Tx, list []stored.Restored) error {
	var (
		seen      = make(map[eventstore.StreamID]bool)
		first     []stored.Restored // of each stream
		i, actual int64
	)
	for _, r := range list {
		if !seen[r.Stream] {
			seen[r.Stream] = true
			first = append(first, r)
		}
	}
	err := tx.QueryRow(ctx, `select i, actual from (
			select v.i, v.at, coalesce((select c.version from commit c where c.agg_id = v.id and c.agg_type = v.type
				order by c.version desc limit 1), 0) as actual
			from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality v (type, id, at, i) offset 0
		) s where actual <> at order by i limit 1`,
		array(first, streamType), array(first, streamID), array(first, stored.Restored.Before)).Scan(&i, &actual)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return first[i-1].Discontinued(actual)
}

// Adopt implements eventstore.Mover.
func (s *Store) Adopt(ctx context.Context, id string) error {
	if err := stored.CheckLogID(id); err != nil {
		return err
	}
	var log guard.Log
	err := s.change(ctx, "adopt a log's id", func(tx pgx.Tx) (err error) {
		if log, err = look(ctx, tx.Conn(), 0); err != nil || log.ID == id {
			return err
		}
		if log.Head.Position > 0 {
			return stored.NotAdopted(log.ID, log.Head.Position)
		}
		if _, err = tx.Exec(ctx, `update log set id = $1::uuid`, id); err != nil {
			return err
		}
		log, err = look(ctx, tx.Conn(), 0)
		return err
	})
	if err != nil {
		return err
	}
	s.core.Guard.Trust(log)
	return nil
}
