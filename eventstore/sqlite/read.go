package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/core"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

const columns = `pos, n, agg_type, agg_id, version, key, at, meta, events`

// ReadStream implements eventstore.Store.
func (s *Store) ReadStream(ctx context.Context, id eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error) {
	page, err := s.page(ctx, "read a stream", `select `+columns+` from "commit"
		where agg_id = ?1 and agg_type = ?2 and version > ?3 order by version limit ?4`, id.ID, id.Type, stored.Signed(after), limit)
	if err != nil {
		return nil, err
	}
	return page, stored.Contiguous(page, after)
}

// Read implements eventstore.Store.
func (s *Store) Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	log := s.LogID()
	page, err := s.page(ctx, "read the log", `select `+columns+` from "commit" where pos > ?1 order by pos limit ?2`, stored.Signed(after), limit)
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
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return nil, after, err
	}
	var w core.Window
	err = s.db.read.QueryRowContext(ctx, `select min(pos - n), max(pos), sum(n) from "commit" where pos > ?1 and pos <=
		coalesce((select pos from "commit" where pos >= ?1 + ?2 order by pos limit 1), 9223372036854775807)`,
		stored.Signed(after), max(scan, 1)).Scan(&w.First, &w.UpTo, &w.Events)
	done()
	if err != nil {
		return nil, after, s.failed(ctx, op, err)
	}
	return core.TypePage(w, after, limit, func(upTo int64) ([]eventstore.Commit, error) {
		return s.page(ctx, op, `select `+columns+` from "commit" where pos > ?1 and pos <= ?2 and agg_type = ?3
			order by pos limit ?4`, stored.Signed(after), upTo, typ, limit)
	})
}

// Size returns the space that the files of the log take, and what their disk has left.
func (s *Store) Size(context.Context) (eventstore.Size, error) {
	size := eventstore.Size{Free: freeOn(s.db.dir)}
	done, err := s.use()
	if err != nil {
		return size, err
	}
	defer done()
	for _, name := range []string{file, file + "-wal"} {
		info, err := os.Stat(filepath.Join(s.db.dir, name))
		switch {
		case err == nil:
			size.Database += info.Size()
		case name == file || !errors.Is(err, os.ErrNotExist):
			return size, fmt.Errorf("sqlite: read the size: %w", err)
		}
	}
	return size, nil
}

// Head implements eventstore.Store.
func (s *Store) Head(ctx context.Context) (eventstore.Position, error) {
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	mark := s.core.Guard.Mark()
	log, err := s.db.look(ctx, mark.Newest.Position)
	if err != nil {
		return 0, s.failed(ctx, "read the head", err)
	}
	if !s.core.Guard.Compare(mark, log) {
		return 0, s.core.Guard.Err()
	}
	return log.Head.Position, s.core.Guard.Saw(log.ID, log.Head)
}

// StreamHead implements eventstore.Store.
func (s *Store) StreamHead(ctx context.Context, id eventstore.StreamID) (eventstore.Head, error) {
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return eventstore.Head{}, err
	}
	defer done()
	var version, pos int64
	err = s.db.read.QueryRowContext(ctx, `select version, pos from "commit" where agg_id = ?1 and agg_type = ?2
		order by version desc limit 1`, id.ID, id.Type).Scan(&version, &pos)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return eventstore.Head{}, s.failed(ctx, "read a stream's head", err)
	}
	return eventstore.Head{Version: eventstore.Version(version), Position: eventstore.Position(pos)}, nil
}

// Load implements eventstore.Store.
func (s *Store) Load(ctx context.Context, r eventstore.LoadRequest) (eventstore.Loaded, error) {
	if err := stored.CheckLoad(r); err != nil {
		return eventstore.Loaded{}, err
	}
	var page stored.Page
	errFull := errors.New("the page is full")
	add := func(f *stored.Fields) error {
		if err := page.Add(f); err != nil || !page.More {
			return err
		}
		return errFull
	}
	// The snapshot comes first, as a row without events. It is joined with its
	// commit, because in a log that went back a snapshot may be newer than its
	// stream or belong to a commit that was replaced.
	err := s.each(ctx, "load a stream", add, `with snap as materialized (select s.*
			from snapshot s join "commit" c on c.pos = s.pos and c.agg_id = s.agg_id and c.agg_type = s.agg_type and c.version = s.version and c.at = s.at
			where s.agg_id = ?1 and s.agg_type = ?2 and s.fingerprint = ?3)
		select pos, 0, agg_type, agg_id, version, fingerprint, at, null, state from snap
		union all select * from (select `+columns+` from "commit"
			where agg_id = ?1 and agg_type = ?2 and version > coalesce((select version from snap), ?4) order by version limit ?5)`,
		r.Stream.ID, r.Stream.Type, r.Fingerprint, stored.Signed(r.After), r.Limit)
	if err != nil && !errors.Is(err, errFull) {
		return eventstore.Loaded{}, err
	}
	return page.Check(r)
}

// SaveSnapshot implements eventstore.Store.
func (s *Store) SaveSnapshot(ctx context.Context, snap eventstore.Snapshot) error {
	if err := stored.CheckSnapshot(snap); err != nil {
		return err
	}
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = s.db.exec(ctx, `insert into snapshot (agg_id, agg_type, version, pos, at, fingerprint, state, stored)
		values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
		on conflict (agg_id, agg_type, fingerprint) do update
		set version = excluded.version, pos = excluded.pos, at = excluded.at, state = excluded.state, stored = excluded.stored
		where excluded.version >= snapshot.version`,
		snap.Stream.ID, snap.Stream.Type, int64(snap.Version), int64(snap.Position), snap.At.UnixMicro(),
		snap.Fingerprint, string(snap.State), time.Now().UnixMicro())
	if err == nil { // after a crash between the statements, one snapshot too many remains until the next save
		_, err = s.db.exec(ctx, `delete from snapshot where agg_id = ?1 and agg_type = ?2 and fingerprint <> ?3
			and stored < (select max(stored) from snapshot where agg_id = ?1 and agg_type = ?2 and fingerprint <> ?3)`,
			snap.Stream.ID, snap.Stream.Type, snap.Fingerprint)
	}
	if err != nil {
		return s.failed(ctx, "save a snapshot", err)
	}
	return nil
}

// page returns the commits that a query selects.
func (s *Store) page(ctx context.Context, op, query string, args ...any) ([]eventstore.Commit, error) {
	var page []eventstore.Commit
	err := s.each(ctx, op, func(f *stored.Fields) error {
		c, err := f.Commit()
		page = append(page, c)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return page, nil
}

// each calls row with each row that a query selects.
func (s *Store) each(ctx context.Context, op string, row func(*stored.Fields) error, query string, args ...any) error {
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return err
	}
	defer done()
	rows, err := s.db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return s.failed(ctx, op, err)
	}
	defer rows.Close()
	for rows.Next() {
		var f stored.Fields
		if err := rows.Scan(f.Columns()...); err != nil {
			return s.failed(ctx, op, err)
		}
		if err := row(&f); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return s.failed(ctx, op, err)
	}
	return nil
}
