package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// Records implements eventstore.Mover.
func (s *Store) Records(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Record, error) {
	const op = "read the log"
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	log := s.LogID()
	rows, err := s.db.read.QueryContext(ctx, `select `+columns+`, hash from "commit" where pos > ?1 order by pos limit ?2`, stored.Signed(after), limit)
	if err != nil {
		return nil, s.failed(ctx, op, err)
	}
	defer rows.Close()
	var page []eventstore.Record
	for rows.Next() {
		r, err := stored.ScanRecord(rows.Scan)
		if err != nil {
			return nil, s.failed(ctx, op, err)
		}
		page = append(page, r)
	}
	if err := rows.Err(); err != nil {
		return nil, s.failed(ctx, op, err)
	}
	return s.core.Records(log, page, after)
}

// Restore implements eventstore.Mover.
func (s *Store) Restore(ctx context.Context, records []eventstore.Record) error {
	return s.core.Restore(records, func(list []stored.Restored) error {
		return s.change(ctx, "restore", func(ctx context.Context) error { return s.db.restore(ctx, list) })
	})
}

// change runs a transaction, and appends wait for it. Like an append, it is not
// cancelled by the context once it has begun.
func (s *Store) change(ctx context.Context, op string, do func(context.Context) error) error {
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.db.mu.Lock()
	defer s.db.mu.Unlock()
	_, err = s.db.conn.ExecContext(ctx, "begin immediate")
	if err != nil {
		return s.failed(ctx, op, err)
	}
	if err = s.db.compare(ctx, s.core.Guard); err == nil {
		err = do(ctx)
	}
	if err == nil {
		_, err = s.db.conn.ExecContext(ctx, "commit")
	}
	if err == nil {
		return nil
	}
	// After some errors SQLite has already ended the transaction, so this fails.
	_, _ = s.db.conn.ExecContext(ctx, "rollback")
	var refused *eventstore.RestoreError
	for _, ours := range append([]error{eventstore.ErrWentBack, rows.ErrFenced, rows.ErrPaused, rows.ErrDropped, rows.ErrAhead, rows.ErrNoHandover, wakes.ErrFenced, errTried}, groups.Errors...) {
		if errors.Is(err, ours) {
			return err
		}
	}
	if errors.As(err, &refused) {
		return err
	}
	return s.failed(ctx, op, err)
}

// restore stores the commits within a transaction. It uses the statement of
// appends, which checks versions and keys.
func (d *database) restore(ctx context.Context, list []stored.Restored) error {
	var head int64
	var outcomes bool
	if err := d.conn.QueryRowContext(ctx, `select coalesce((select max(pos) from "commit"), 0), exists (select 1 from outcome)`).
		Scan(&head, &outcomes); err != nil {
		return err
	}
	if err := stored.NotNext(&list[0], eventstore.Position(head)); err != nil {
		return err
	}
	for i := range list {
		r := &list[i]
		if outcomes {
			if _, err := d.conn.ExecContext(ctx, `delete from outcome where agg_id = ?1 and agg_type = ?2 and key = ?3`,
				r.Stream.ID, r.Stream.Type, r.Key); err != nil {
				return err
			}
		}
		res, err := d.appends.commit.ExecContext(ctx, int64(r.Position), r.N, r.Stream.Type, r.Stream.ID, int64(r.Version),
			r.Key, r.Hash[:], r.At.UnixMicro(), text(r.Meta), text(r.Events))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return err
		}
		if n != 1 {
			return d.whyNotRestored(ctx, r)
		}
	}
	return nil
}

func (d *database) whyNotRestored(ctx context.Context, r *stored.Restored) error {
	var actual int64
	if err := d.appends.version.QueryRowContext(ctx, r.Stream.ID, r.Stream.Type).Scan(&actual); err != nil {
		return err
	}
	if actual != r.Before() {
		return r.Discontinued(actual)
	}
	return &eventstore.RestoreError{Position: r.Position, Reason: fmt.Sprintf("%s already has a commit with the key %q", r.Stream, r.Key)}
}

// Adopt implements eventstore.Mover.
func (s *Store) Adopt(ctx context.Context, id string) error {
	if err := stored.CheckLogID(id); err != nil {
		return err
	}
	err := s.change(ctx, "adopt a log's id", func(ctx context.Context) error {
		var (
			head int64
			own  string
		)
		err := s.db.conn.QueryRowContext(ctx, `select (select id from log), coalesce((select max(pos) from "commit"), 0)`).Scan(&own, &head)
		switch {
		case err != nil || own == id:
			return err
		case head > 0:
			return stored.NotAdopted(own, eventstore.Position(head))
		}
		_, err = s.db.conn.ExecContext(ctx, `update log set id = ?1`, id)
		return err
	})
	if err != nil {
		return err
	}
	log, err := s.db.look(context.WithoutCancel(ctx), 0)
	if err != nil {
		return s.failed(ctx, "read the log", err)
	}
	s.core.Guard.Trust(log)
	return nil
}
