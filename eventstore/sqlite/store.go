package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
)

// Config configures a Store.
type Config struct {
	// Dir is the data directory; it is made if it is missing. Required.
	Dir string

	// ReadOnly opens a log that is there to read it, also beside the process
	// that has it open for writing. Appends and all other changes fail.
	ReadOnly bool

	// Committed is told of every batch that this Store has stored. Optional.
	Committed eventstore.Committed

	// KeepOutcomes is how long an outcome without events is final.
	//
	// Defaults to 24 hours.
	KeepOutcomes time.Duration

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("sqlite: Dir is required"))
	}
	if c.KeepOutcomes < 0 {
		errs = append(errs, errors.New("sqlite: KeepOutcomes is negative"))
	}
	c.KeepOutcomes = cmp.Or(c.KeepOutcomes, 24*time.Hour)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c, errors.Join(errs...)
}

// Store implements eventstore.Store. Use Open.
type Store struct {
	cfg       Config
	db        *database
	guard     *guard.Guard
	committer *batch.Committer

	keeping sync.WaitGroup
	cancel  context.CancelFunc // ends the housekeeping

	using  sync.RWMutex // held for reading by whoever uses db
	closed bool
}

var _ eventstore.Store = (*Store)(nil)

// Open opens the log in a directory, and makes or migrates it unless
// Config.ReadOnly is set. It fails when another process has the directory open
// for writing, and with eventstore.ErrSchemaTooNew when a newer program has
// migrated it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	open := acquire
	if cfg.ReadOnly {
		open = openReadOnly
	}
	db, err := open(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	log, err := db.look(ctx, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlite: read the log: %w", err), db.release())
	}
	s := &Store{cfg: cfg, db: db, guard: guard.New(log)}
	s.committer = batch.New(batch.Config{
		Backend:   &backend{db: db, guard: s.guard},
		Committed: cfg.Committed,
		Saw:       s.guard.Saw,
		Logger:    cfg.Logger,
	})
	keep, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	if !cfg.ReadOnly {
		s.keeping.Go(func() { s.housekeep(keep) })
	}
	return s, nil
}

// Append implements eventstore.Store.
func (s *Store) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	if err := s.guard.Err(); err != nil {
		return eventstore.Appended{}, err
	}
	return s.committer.Append(ctx, u)
}

// Waiting returns how many units wait for the batch in flight to end.
func (s *Store) Waiting() int { return s.committer.Waiting() }

// Audit implements verify.Source. It reads a log that went back as well.
func (s *Store) Audit(ctx context.Context, query string, row func(scan func(dest ...any) error) error) error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	rows, err := s.db.read.QueryContext(ctx, query)
	if err != nil {
		return s.failed(ctx, "audit", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return s.failed(ctx, "audit", err)
		}
	}
	if err := rows.Err(); err != nil {
		return s.failed(ctx, "audit", err)
	}
	return nil
}

// LogID implements eventstore.Store.
func (s *Store) LogID() string { return s.guard.Mark().LogID }

// Witness implements eventstore.Store.
func (s *Store) Witness(log string, c *eventstore.Commit) {
	if !s.guard.Witness(log, guard.Of(c)) {
		s.cfg.Logger.Debug("the log went back: another node has seen a commit that it lacks", "position", c.Position)
	}
}

// Check implements eventstore.Store.
func (s *Store) Check(ctx context.Context) error {
	mark, log, err := s.look(ctx, "check the log")
	if err != nil {
		return err
	}
	return s.guard.Check(mark, log)
}

// Resume implements eventstore.Store.
func (s *Store) Resume(ctx context.Context) (eventstore.Position, error) {
	mark, log, err := s.look(ctx, "look at the log that went back")
	if err != nil {
		return 0, err
	}
	return log.Head.Position, s.guard.Resume(mark, log)
}

// look returns the mark, and what the log said about it, also when the log went
// back.
func (s *Store) look(ctx context.Context, op string) (mark guard.Mark, log guard.Log, err error) {
	done, err := s.use()
	if err != nil {
		return mark, log, err
	}
	defer done()
	mark = s.guard.Mark()
	if log, err = s.db.look(ctx, mark.Newest.Position); err != nil {
		err = s.failed(ctx, op, err)
	}
	return mark, log, err
}

// AcceptLoss gives the log a new incarnation, by which an operator says that
// what a restored log lacks is lost for good, and returns its id. Every other
// Store reports that the log went back until its Resume.
func (s *Store) AcceptLoss(ctx context.Context) (string, error) {
	done, err := s.use()
	if err != nil {
		return "", err
	}
	defer done()
	id := newLogID()
	for _, query := range []string{
		`delete from snapshot where pos > coalesce((select max(pos) from "commit"), 0)`,
		`update log set id = '` + id + `'`,
	} {
		if _, err := s.db.exec(ctx, query); err != nil {
			return "", s.failed(ctx, "accept the loss", err)
		}
	}
	log, err := s.db.look(ctx, 0)
	if err != nil {
		return "", s.failed(ctx, "read the log", err)
	}
	s.guard.Take(log)
	return id, nil
}

// Close implements eventstore.Store.
func (s *Store) Close() error {
	s.committer.Close()
	s.cancel()
	s.keeping.Wait()
	s.using.Lock()
	defer s.using.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.db.release()
}

// use keeps the database open until done is called.
func (s *Store) use() (done func(), err error) {
	s.using.RLock()
	if s.closed {
		s.using.RUnlock()
		return nil, eventstore.ErrClosed
	}
	return s.using.RUnlock, nil
}

// useSafely is use for whoever relies on the log not having gone back. The
// context that it returns does not end: what it is for takes less time than
// the goroutine that the driver starts to watch one that does.
func (s *Store) useSafely(ctx context.Context) (_ context.Context, done func(), err error) {
	if err := s.guard.Err(); err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("sqlite: %w", context.Cause(ctx))
	}
	done, err = s.use()
	return context.WithoutCancel(ctx), done, err
}

// failed wraps an error of the database.
func (s *Store) failed(ctx context.Context, op string, err error) error {
	var damaged *eventstore.DamagedError
	switch {
	case errors.As(err, &damaged):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("sqlite: %s: %w", op, context.Cause(ctx))
	}
	return fmt.Errorf("%w: sqlite: %s: %w", eventstore.ErrUnavailable, op, err)
}

// housekeep forgets outcomes that are older than a day, at the start and
// every ten minutes.
func (s *Store) housekeep(ctx context.Context) {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		if _, err := s.expire(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("could not delete old outcomes", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// expire deletes old outcomes, 500 at a time, so that no append waits long.
func (s *Store) expire(ctx context.Context) (deleted int64, err error) {
	before := time.Now().Add(-s.cfg.KeepOutcomes).UnixMicro()
	for {
		n, err := s.db.exec(ctx, `delete from outcome where (agg_id, agg_type, key) in
			(select agg_id, agg_type, key from outcome where stored < ? order by stored limit 500)`, before)
		deleted += n
		if err != nil || n < 500 {
			return deleted, err
		}
	}
}

// look reads what a log says about itself and about the commit at p.
func (d *database) look(ctx context.Context, p eventstore.Position) (guard.Log, error) {
	var (
		log      guard.Log
		at, head looked
	)
	err := d.read.QueryRowContext(ctx, `select (select id from log),
		c.pos, c.agg_type, c.agg_id, c.version, c.key, c.at, h.pos, h.agg_type, h.agg_id, h.version, h.key, h.at
		from (select 1) left join "commit" c on c.pos = ?1
		left join (select * from "commit" order by pos desc limit 1) h`, int64(p)).
		Scan(append(append([]any{&log.ID}, at.columns()...), head.columns()...)...)
	log.AtMark, log.Head = at.commit(), head.commit()
	return log, err
}

// looked is a row of the table commit that may be missing.
type looked struct {
	pos, version, at sql.NullInt64
	typ, id, key     sql.NullString
}

func (l *looked) columns() []any { return []any{&l.pos, &l.typ, &l.id, &l.version, &l.key, &l.at} }

func (l *looked) commit() guard.Commit {
	if !l.pos.Valid {
		return guard.Commit{}
	}
	return guard.Commit{
		Position: eventstore.Position(l.pos.Int64),
		Stream:   eventstore.StreamID{Type: l.typ.String, ID: l.id.String},
		Version:  eventstore.Version(l.version.Int64),
		Key:      l.key.String,
		Micros:   l.at.Int64,
	}
}

// exec runs a statement outside of the batches, and returns how many rows it
// touched.
func (d *database) exec(ctx context.Context, query string, args ...any) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	res, err := d.conn.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
