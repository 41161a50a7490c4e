package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/core"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
)

// Config configures a Store.
type Config struct {
	// Dir is the data directory. Open creates it if it is missing. Required.
	Dir string

	// ReadOnly opens an existing log for reading, even while another process
	// writes it. Appends and all other changes fail.
	ReadOnly bool

	// Committed is called with every batch that this Store has stored. Optional.
	Committed eventstore.Committed

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("sqlite: Dir is required")
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c, nil
}

// contract implements Append, Waiting, LogID, Witness, Check and Resume.
type contract = core.Log

// Store implements eventstore.Store and eventstore.Mover. Use Open.
type Store struct {
	contract
	core *core.Core
	cfg  Config
	db   *database

	using  sync.RWMutex // read-locked by users of db
	closed bool
}

var _ eventstore.Mover = (*Store)(nil)

// Open opens the log in a directory. Unless Config.ReadOnly is set, it creates or
// migrates the log. It fails if another process has the directory open for
// writing, and with eventstore.ErrSchemaTooNew if a newer program has migrated
// the log.
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
	s := &Store{cfg: cfg, db: db}
	s.core = core.New(log, s.look)
	s.contract = s.core.Log()
	s.core.Start(batch.Config{
		Backend:   &backend{db: db, guard: s.core.Guard},
		Committed: cfg.Committed,
		Logger:    cfg.Logger,
	})
	if !cfg.ReadOnly {
		s.core.Housekeep(s.expire)
	}
	return s, nil
}

// Audit implements verify.Source. It also reads a log that went back.
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

// look implements the check of the log for core.
func (s *Store) look(ctx context.Context, op string) (mark guard.Mark, log guard.Log, err error) {
	done, err := s.use()
	if err != nil {
		return mark, log, err
	}
	defer done()
	mark = s.core.Guard.Mark()
	if log, err = s.db.look(ctx, mark.Newest.Position); err != nil {
		err = s.failed(ctx, op, err)
	}
	return mark, log, err
}

// AcceptLoss gives the log a new incarnation and returns its id. An operator
// thereby declares that the events missing from a restored log are lost. Every
// other Store reports that the log went back, until Resume is called on it.
func (s *Store) AcceptLoss(ctx context.Context) (string, error) {
	done, err := s.use()
	if err != nil {
		return "", err
	}
	defer done()
	if _, err := s.db.exec(ctx, `delete from snapshot where pos > coalesce((select max(pos) from "commit"), 0)`); err != nil {
		return "", s.failed(ctx, "accept the loss", err)
	}
	if _, err := s.db.exec(ctx, `update log set id = ?`, uuid.NewString()); err != nil {
		return "", s.failed(ctx, "accept the loss", err)
	}
	log, err := s.db.look(ctx, 0)
	if err != nil {
		return "", s.failed(ctx, "read the log", err)
	}
	s.core.Guard.Trust(log)
	return log.ID, nil
}

// Close implements eventstore.Store.
func (s *Store) Close() error {
	s.core.Committer.Close()
	s.core.StopTasks()
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

// useSound is use for callers that must not use a log that went back. The
// returned context is never cancelled: with a context that can be, the driver
// starts a goroutine to watch it, which costs more than the statement.
func (s *Store) useSound(ctx context.Context) (_ context.Context, done func(), err error) {
	if err := s.core.Guard.Err(); err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("sqlite: %w", context.Cause(ctx))
	}
	done, err = s.use()
	return context.WithoutCancel(ctx), done, err
}

// failed returns the error of a method other than Append.
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

// expireStep bounds the number of outcomes that one transaction deletes, so that
// no append waits long.
const expireStep = 500

// expire deletes old outcomes.
func (s *Store) expire(ctx context.Context) (deleted int64, err error) {
	before := time.Now().Add(-core.KeepOutcomes).UnixMicro()
	for {
		n, err := s.db.exec(ctx, `delete from outcome where (agg_id, agg_type, key) in
			(select agg_id, agg_type, key from outcome where stored < ? order by stored limit ?)`, before, expireStep)
		deleted += n
		if err != nil || n < expireStep {
			return deleted, err
		}
	}
}

// look reads the log's id, the commit at p and the newest commit.
func (d *database) look(ctx context.Context, p eventstore.Position) (guard.Log, error) {
	var (
		log      guard.Log
		at, head guard.Row
	)
	err := d.read.QueryRowContext(ctx, `select (select id from log),
		c.pos, c.agg_type, c.agg_id, c.version, c.key, c.at, h.pos, h.agg_type, h.agg_id, h.version, h.key, h.at
		from (select 1) left join "commit" c on c.pos = ?1
		left join (select * from "commit" order by pos desc limit 1) h`, int64(p)).
		Scan(append(append([]any{&log.ID}, at.Columns()...), head.Columns()...)...)
	log.AtMark, log.Head = at.Commit(), head.Commit()
	return log, err
}

// exec runs a statement outside the batches, and returns the number of changed
// rows.
func (d *database) exec(ctx context.Context, query string, args ...any) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	res, err := d.conn.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
