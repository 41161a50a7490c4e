package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite"
	sqlite3lib "modernc.org/sqlite/lib"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// statements are the writer's prepared statements.
type statements struct {
	mark, free, commit, outcome, version, find *sql.Stmt
}

const (
	// markSQL reads the head, the incarnation, and the commit at the mark.
	markSQL = `select coalesce((select pos from "commit" order by pos desc limit 1), 0), (select id from log),
		c.pos, c.agg_type, c.agg_id, c.version, c.key, c.at from (select 1) left join "commit" c on c.pos = ?1`

	// freeSQL checks that the stream of a command without events has not moved,
	// and that its key is not known.
	freeSQL = `select ?4 = coalesce((select version from "commit" where agg_id = ?1 and agg_type = ?2 order by version desc limit 1), 0)
		and not exists (select 1 from "commit" where agg_id = ?1 and agg_type = ?2 and key = ?3)
		and not exists (select 1 from outcome where agg_id = ?1 and agg_type = ?2 and key = ?3)`

	// commitSQL inserts a commit, unless its stream is not at the version before
	// its first event or its key is known.
	commitSQL = `insert into "commit" (pos, n, agg_type, agg_id, version, key, hash, at, meta, events)
		select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
		where ?5 - ?2 = coalesce((select version from "commit" where agg_id = ?4 and agg_type = ?3 order by version desc limit 1), 0)
		and not exists (select 1 from outcome where agg_id = ?4 and agg_type = ?3 and key = ?6)
		on conflict do nothing`

	outcomeSQL = `insert into outcome (agg_id, agg_type, key, hash, version, at, answer, stored) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)`

	versionSQL = `select coalesce((select version from "commit" where agg_id = ?1 and agg_type = ?2 order by version desc limit 1), 0)`

	findSQL = `select pos, version, hash, at, meta, events, null from "commit" where agg_id = ?1 and agg_type = ?2 and key = ?3
		union all select 0, version, hash, at, null, null, answer from outcome where agg_id = ?1 and agg_type = ?2 and key = ?3`
)

func (s *statements) prepare(ctx context.Context, c *sql.Conn) error {
	for _, p := range []struct {
		stmt **sql.Stmt
		sql  string
	}{
		{&s.mark, markSQL},
		{&s.free, freeSQL},
		{&s.commit, commitSQL},
		{&s.outcome, outcomeSQL},
		{&s.version, versionSQL},
		{&s.find, findSQL},
	} {
		stmt, err := c.PrepareContext(ctx, p.sql)
		if err != nil {
			return fmt.Errorf("sqlite: prepare: %w", err)
		}
		*p.stmt = stmt
	}
	return nil
}

func (s *statements) close() {
	for _, stmt := range []*sql.Stmt{s.mark, s.free, s.commit, s.outcome, s.version, s.find} {
		if stmt != nil {
			stmt.Close()
		}
	}
}

// backend stores the batches of one Store.
type backend struct {
	db    *database
	guard *guard.Guard
}

// Ready implements batch.Backend.
func (b *backend) Ready() error { return nil }

// Append implements batch.Backend with one transaction per batch.
func (b *backend) Append(units []*stored.Unit, _ bool) (batch.Result, error) {
	d := b.db
	d.mu.Lock()
	defer d.mu.Unlock()
	// A context could not undo a commit, and SQLite needs no deadline.
	ctx := context.Background()
	if _, err := d.conn.ExecContext(ctx, "begin immediate"); err != nil {
		return batch.Result{}, failure("begin", err)
	}
	result, err := b.inTransaction(ctx, units)
	if err != nil {
		// After some errors SQLite has already ended the transaction, so this
		// fails.
		_, _ = d.conn.ExecContext(ctx, "rollback")
		return result, err
	}
	if _, err = d.conn.ExecContext(ctx, "commit"); err != nil {
		f := failure("commit", err)
		_, rollback := d.conn.ExecContext(ctx, "rollback")
		if !unwritten(err) || rollback != nil && !alreadyRolledBack(rollback) {
			f.Kind = batch.Lost // the batch may be on the disk
		}
		return result, f
	}
	return result, nil
}

// unwritten reports whether a COMMIT failed before everything was written, so
// that a rollback undoes it. A failed fsync is not such an error: the pages
// written before it may survive a crash.
func unwritten(err error) bool {
	var e *sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	return e.Code()&0xff == sqlite3lib.SQLITE_FULL || e.Code() == sqlite3lib.SQLITE_IOERR_WRITE
}

// alreadyRolledBack reports whether a ROLLBACK failed because SQLite has already
// rolled back, as it does after most failed writes.
func alreadyRolledBack(err error) bool {
	return strings.Contains(err.Error(), "no transaction is active")
}

func (b *backend) inTransaction(ctx context.Context, units []*stored.Unit) (batch.Result, error) {
	mark := b.guard.Mark()
	log, err := b.db.marked(ctx, mark)
	if err != nil {
		return batch.Result{}, failure("read the head", err)
	}
	if !b.guard.Compare(mark, log) {
		return batch.Result{}, &batch.Failure{Kind: batch.WentBack, Reason: b.guard.Err().Error()}
	}
	base := int64(log.Head.Position)
	result := batch.Result{Log: mark.LogID, Base: log.Head.Position, Verdicts: make([]batch.Verdict, len(units))}
	for i, u := range units {
		verdict, err := b.unit(ctx, u, base)
		if err != nil {
			return batch.Result{}, err
		}
		result.Verdicts[i] = verdict
		if !verdict.Refused() {
			base += int64(u.Events)
		}
	}
	return result, nil
}

// marked reads the log's id, the commit at the mark, and only the position of the
// head.
func (d *database) marked(ctx context.Context, m guard.Mark) (log guard.Log, err error) {
	var (
		head int64
		at   guard.Row
	)
	err = d.appends.mark.QueryRowContext(ctx, int64(m.Newest.Position)).Scan(append([]any{&head, &log.ID}, at.Columns()...)...)
	log.AtMark, log.Head.Position = at.Commit(), eventstore.Position(head)
	return log, err
}

// compare compares the log with the mark, within a transaction.
func (d *database) compare(ctx context.Context, g *guard.Guard) error {
	mark := g.Mark()
	log, err := d.marked(ctx, mark)
	if err != nil {
		return err
	}
	if !g.Compare(mark, log) {
		return g.Err()
	}
	return nil
}

// unit stores a unit after base, or returns the reason why it is refused.
func (b *backend) unit(ctx context.Context, u *stored.Unit, base int64) (batch.Verdict, error) {
	several := len(u.Rows) > 1
	if several {
		if _, err := b.db.conn.ExecContext(ctx, "savepoint unit"); err != nil {
			return batch.Verdict{}, failure("begin a unit", err)
		}
	}
	ok := true
	for i := 0; ok && i < len(u.Rows); i++ {
		var err error
		base += int64(u.Rows[i].N)
		if ok, err = b.row(ctx, u, &u.Rows[i], base); err != nil {
			return batch.Verdict{}, err
		}
	}
	if several {
		end := "release unit"
		if !ok {
			end = "rollback to unit; release unit"
		}
		if _, err := b.db.conn.ExecContext(ctx, end); err != nil {
			return batch.Verdict{}, failure("end a unit", err)
		}
	}
	if ok {
		return batch.Verdict{}, nil
	}
	return b.refusal(ctx, u)
}

// row stores a command whose last event gets the position pos. It returns false
// if the key is known or the stream has moved.
func (b *backend) row(ctx context.Context, u *stored.Unit, r *stored.Row, pos int64) (bool, error) {
	if r.N > 0 {
		res, err := b.db.appends.commit.ExecContext(ctx, pos, r.N, u.Stream.Type, u.Stream.ID, int64(r.Version),
			r.Key, r.Hash[:], r.At.UnixMicro(), text(r.Meta), text(r.Events))
		if err != nil {
			return false, failure("insert", err)
		}
		n, err := res.RowsAffected()
		return n == 1, err
	}
	var free bool
	if err := b.db.appends.free.QueryRowContext(ctx, u.Stream.ID, u.Stream.Type, r.Key, int64(r.Version)).Scan(&free); err != nil {
		return false, failure("check", err)
	}
	if !free || !r.Keep {
		return free, nil
	}
	if _, err := b.db.appends.outcome.ExecContext(ctx, u.Stream.ID, u.Stream.Type, r.Key, r.Hash[:], int64(r.Version),
		r.At.UnixMicro(), text(r.Answer), time.Now().UnixMicro()); err != nil {
		return false, failure("insert an outcome", err)
	}
	return true, nil
}

// refusal returns the reason why a unit was not stored: its known keys or, if it
// has none, the version of the stream.
func (b *backend) refusal(ctx context.Context, u *stored.Unit) (batch.Verdict, error) {
	found, err := b.find(ctx, u)
	if err != nil || len(found) > 0 {
		return batch.Verdict{Found: found}, err
	}
	var v batch.Verdict
	var actual int64
	if err := b.db.appends.version.QueryRowContext(ctx, u.Stream.ID, u.Stream.Type).Scan(&actual); err != nil {
		return batch.Verdict{}, failure("read a version", err)
	}
	if v.Actual = eventstore.Version(actual); v.Actual == u.Expected {
		return batch.Verdict{}, &batch.Failure{Kind: batch.Broken, Reason: "an insert was refused although neither a key nor the version explains it: check the file with 'ganglion verify'"}
	}
	v.Moved = true
	return v, nil
}

// find looks up the keys of a unit.
func (b *backend) find(ctx context.Context, u *stored.Unit) (map[int]batch.Found, error) {
	found := make(map[int]batch.Found)
	for i := range u.Rows {
		var (
			f            batch.Found
			pos, ver, at int64
			hash         []byte
		)
		err := b.db.appends.find.QueryRowContext(ctx, u.Stream.ID, u.Stream.Type, u.Rows[i].Key).
			Scan(&pos, &ver, &hash, &at, &f.Meta, &f.Events, &f.Answer)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, failure("look for a key", err)
		}
		f.Position, f.Version, f.At = eventstore.Position(pos), eventstore.Version(ver), stored.FromMicros(at)
		copy(f.Hash[:], hash)
		found[i] = f
	}
	return found, nil
}

// text converts bytes to SQLite text, and nil to null.
func text(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}

// failure classifies an error within a transaction.
func failure(op string, err error) *batch.Failure {
	f := &batch.Failure{Kind: batch.Broken, Reason: "sqlite: " + op + ": " + err.Error()}
	var e *sqlite3.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3lib.SQLITE_CONSTRAINT, sqlite3lib.SQLITE_TOOBIG, sqlite3lib.SQLITE_MISMATCH, sqlite3lib.SQLITE_RANGE:
			f.Kind = batch.Refused
		case sqlite3lib.SQLITE_BUSY, sqlite3lib.SQLITE_LOCKED:
			f.Kind = batch.Busy
		case sqlite3lib.SQLITE_FULL:
			f.Reason = "sqlite: " + op + ": the disk is full: free space on it"
		}
	}
	return f
}
