package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

var _ eventstore.Mover = (*Store)(nil)

// Records implements eventstore.Mover.
func (s *Store) Records(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Record, error) {
	const op = "read the log"
	ctx, done, err := s.useSafely(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	log := s.LogID()
	rows, err := s.db.read.QueryContext(ctx, `select `+columns+`, hash from "commit" where pos > ?1 order by pos limit ?2`, signed(after), limit)
	if err != nil {
		return nil, s.failed(ctx, op, err)
	}
	defer rows.Close()
	var page []eventstore.Record
	for rows.Next() {
		var (
			f    stored.Fields
			hash []byte
		)
		if err := rows.Scan(&f.Position, &f.N, &f.Type, &f.ID, &f.Version, &f.Key, &f.Micros, &f.Meta, &f.Events, &hash); err != nil {
			return nil, s.failed(ctx, op, err)
		}
		r, err := f.Record(hash)
		if err != nil {
			return nil, err
		}
		page = append(page, r)
	}
	if err := rows.Err(); err != nil {
		return nil, s.failed(ctx, op, err)
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
	err = s.change(ctx, "restore", func(ctx context.Context) error { return s.db.restore(ctx, list) })
	if err != nil {
		return err
	}
	return s.guard.Saw(log, guard.Of(&records[len(records)-1].Commit))
}

// change runs a transaction that appends wait for. Like them it is not cut
// short by a context.
func (s *Store) change(ctx context.Context, op string, do func(context.Context) error) error {
	ctx, done, err := s.useSafely(ctx)
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
	if err = s.unchanged(ctx); err == nil {
		err = do(ctx)
	}
	if err == nil {
		_, err = s.db.conn.ExecContext(ctx, "commit")
	}
	if err == nil {
		return nil
	}
	// SQLite has ended the transaction by itself after some errors; then
	// there is nothing left to roll back, and this fails.
	_, _ = s.db.conn.ExecContext(ctx, "rollback")
	var refused *eventstore.RestoreError
	if errors.As(err, &refused) || errors.Is(err, eventstore.ErrWentBack) {
		return err
	}
	return s.failed(ctx, op, err)
}

// unchanged reports a log that went back, seen from within a transaction.
func (s *Store) unchanged(ctx context.Context) error {
	mark := s.guard.Mark()
	var (
		base int64
		id   string
		at   looked
	)
	if err := s.db.appends.mark.QueryRowContext(ctx, int64(mark.Newest.Position)).Scan(append([]any{&base, &id}, at.columns()...)...); err != nil {
		return err
	}
	if !s.guard.Compare(mark, guard.Log{ID: id, AtMark: at.commit()}) {
		return s.guard.Err()
	}
	return nil
}

// restore stores the commits within a transaction, by the statement that
// appends use, which checks versions and keys.
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
	reason := fmt.Sprintf("%s already has a commit with the key %q", r.Stream, r.Key)
	if before := int64(r.Version) - int64(r.N); actual != before {
		reason = fmt.Sprintf("it continues version %d of %s, which is at version %d", before, r.Stream, actual)
	}
	return &eventstore.RestoreError{Position: r.Position, Reason: reason}
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
	s.guard.Take(log)
	return nil
}
