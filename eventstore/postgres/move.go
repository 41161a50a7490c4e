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

var _ eventstore.Mover = (*Store)(nil)

// Records implements eventstore.Mover.
func (s *Store) Records(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Record, error) {
	var page []eventstore.Record
	log := s.LogID()
	err := s.read(ctx, "read the log", func(c *pgx.Conn) error {
		page = nil
		rows, err := c.Query(ctx, `select pos, n, agg_type, agg_id, version, key, (extract(epoch from at) * 1000000)::bigint, meta, events, hash
			from commit where pos > $1 order by pos limit $2`, signed(after), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var (
				f    stored.Fields
				hash []byte
			)
			if err := rows.Scan(&f.Position, &f.N, &f.Type, &f.ID, &f.Version, &f.Key, &f.Micros, &f.Meta, &f.Events, &hash); err != nil {
				return err
			}
			r, err := f.Record(hash)
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
	if err := stored.DenseRecords(page, after); err != nil || len(page) == 0 {
		return page, err
	}
	return page, s.guard.Saw(log, guard.Of(&page[len(page)-1].Commit))
}

// Restore implements eventstore.Mover.
func (s *Store) Restore(ctx context.Context, records []eventstore.Record) error {
	list, err := stored.PrepareRestore(records)
	if err != nil || len(list) == 0 {
		return err
	}
	log := s.LogID()
	err = s.change(ctx, "restore", func(tx pgx.Tx) error {
		return restore(ctx, tx, list)
	})
	if err != nil {
		return err
	}
	return s.guard.Saw(log, guard.Of(&records[len(records)-1].Commit))
}

// change runs a transaction that holds the lock which all appends share.
func (s *Store) change(ctx context.Context, op string, do func(pgx.Tx) error) error {
	var refused *eventstore.RestoreError
	err := s.read(ctx, op, func(c *pgx.Conn) error {
		err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select lock_log()`); err != nil {
				return err
			}
			mark := s.guard.Mark()
			log, err := look(ctx, tx.Conn(), mark.Newest.Position)
			if err != nil {
				return err
			}
			if !s.guard.Compare(mark, log) {
				return s.guard.Err()
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
	types, ids, keys := make([]string, len(list)), make([]string, len(list)), make([]string, len(list))
	for i := range list {
		types[i], ids[i], keys[i] = list[i].Stream.Type, list[i].Stream.ID, list[i].Key
	}
	if _, err := tx.Exec(ctx, `delete from outcome o using unnest($1::text[], $2::text[], $3::text[]) k (type, id, key)
		where o.agg_type = k.type and o.agg_id = k.id and o.key = k.key`, types, ids, keys); err != nil {
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
	if errors.As(err, &e) && e.Code == "23505" { // unique_violation
		return &eventstore.RestoreError{
			Position: list[0].Position,
			Reason:   fmt.Sprintf("of the %d commits from here on, one has a version or a key that its stream already has", len(list)),
		}
	}
	return err
}

// continues reports the first commit that does not continue its stream.
func continues(ctx context.Context, tx pgx.Tx, list []stored.Restored) error {
	var (
		seen      = make(map[eventstore.StreamID]bool)
		first     []*stored.Restored
		types     []string
		ids       []string
		at        []int64
		i, actual int64
	)
	for i := range list {
		r := &list[i]
		if !seen[r.Stream] {
			seen[r.Stream] = true
			first = append(first, r)
			types, ids, at = append(types, r.Stream.Type), append(ids, r.Stream.ID), append(at, int64(r.Version)-int64(r.N))
		}
	}
	err := tx.QueryRow(ctx, `select i, actual from (
			select v.i, v.at, coalesce((select c.version from commit c where c.agg_id = v.id and c.agg_type = v.type
				order by c.version desc limit 1), 0) as actual
			from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality v (type, id, at, i) offset 0
		) s where actual <> at order by i limit 1`, types, ids, at).Scan(&i, &actual)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	r := first[i-1]
	return &eventstore.RestoreError{
		Position: r.Position,
		Reason:   fmt.Sprintf("it continues version %d of %s, which is at version %d", at[i-1], r.Stream, actual),
	}
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
	s.guard.Take(log)
	return nil
}
