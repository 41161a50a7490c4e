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

// Open opens the log in a directory, and makes or migrates it. It fails when
// another process has the directory open, and with eventstore.ErrSchemaTooNew
// when a newer program has migrated it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	db, err := acquire(ctx, cfg.Dir)
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
	s.keeping.Go(func() { s.housekeep(keep) })
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
func (s *Store) Witness(p eventstore.Position, key string) {
	if !s.guard.Witness(p, key) {
		s.cfg.Logger.Error("the log went back: another node has seen a commit that it lacks", "position", p)
	}
}

// Check implements eventstore.Store. A loss is reported at least once before
// the new log is taken.
func (s *Store) Check(ctx context.Context) error {
	done, err := s.use()
	if err != nil {
		return err
	}
	defer done()
	mark := s.guard.Mark()
	log, err := s.db.look(ctx, mark.Position)
	if err != nil {
		return s.failed(ctx, "check the log", err)
	}
	return s.guard.Settle(mark, log)
}

// AcceptLoss gives the log a new incarnation, by which an operator says that
// what a restored log lacks is lost for good, and returns its id. Every other
// Store takes the log as it is at its next Check.
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
		log     guard.Log
		head    int64
		key     sql.NullString
		headKey sql.NullString
	)
	err := d.read.QueryRowContext(ctx, `select (select id from log), (select key from "commit" where pos = ?1),
		coalesce((select max(pos) from "commit"), 0), (select key from "commit" order by pos desc limit 1)`, int64(p)).
		Scan(&log.ID, &key, &head, &headKey)
	log.Found, log.Key = key.Valid, key.String
	log.Head, log.HeadKey = eventstore.Position(head), headKey.String
	return log, err
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
