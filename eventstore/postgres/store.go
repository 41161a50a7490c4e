package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/core"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/postgres/internal/driver"
)

// contract implements Append, Waiting, LogID, Witness, Check and Resume.
type contract = core.Log

// Store implements eventstore.Store and eventstore.Mover. Use Open.
type Store struct {
	contract
	core    *core.Core
	cfg     Config
	dialer  *driver.Dialer
	pool    *pgxpool.Pool // for reads
	rows    *rowStore
	backend *backend // for appends
	loads   chan *load

	closing sync.Once
	closed  chan struct{}
}

var _ eventstore.Mover = (*Store)(nil)

// Open connects to a database, and creates or migrates the log in it. The error
// is eventstore.ErrUnavailable if the database is not reachable or has been
// starting for 30 seconds, and eventstore.ErrSchemaTooNew if a newer program has
// migrated the log.
func Open(ctx context.Context, cfg Config) (*Store, error) { return openAs(ctx, cfg, current) }

func openAs(ctx context.Context, cfg Config, as schema) (*Store, error) {
	cfg, conns, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	configure(conns, cfg)
	s := &Store{cfg: cfg, dialer: driver.New(conns, cfg.ConnectTimeout), loads: make(chan *load), closed: make(chan struct{})}
	if err := s.migrate(ctx, conns.ConnConfig, as); err != nil {
		return nil, err
	}
	log, err := s.firstLook(ctx)
	if err != nil {
		return nil, s.failed(ctx, "open the log", err)
	}
	s.core = core.New(log, s.look)
	s.contract = s.core.Log()
	conns.AfterConnect = s.prepareReads
	if s.pool, err = pgxpool.NewWithConfig(ctx, conns); err != nil {
		return nil, s.failed(ctx, "open the log", err)
	}
	s.backend = &backend{store: s, params: newParams()}
	s.rows = newRowStore(s, conns)
	if cfg.Warm {
		if err := s.warm(ctx); err != nil {
			s.backend.drop()
			s.pool.Close()
			return nil, s.failed(ctx, "open the log", err)
		}
	}
	s.core.Start(batch.Config{
		Backend:   s.backend,
		Committed: cfg.Committed,
		Deadline:  cfg.Deadline,
		Patience:  cfg.Patience,
		Logger:    cfg.Logger,
	})
	s.core.Housekeep(s.expire)
	for range cfg.ReadConns {
		s.core.Go(s.serveLoads)
	}
	return s, nil
}

// configure sets the options of all connections.
func configure(conns *pgxpool.Config, cfg Config) {
	conns.MaxConns = int32(cfg.ReadConns)
	conns.MinConns = 0
	if cfg.Warm {
		conns.MinConns = conns.MaxConns
	}
	conns.ConnConfig.ValidateConnect = refuseStandby
	conns.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	if _, ok := conns.ConnConfig.RuntimeParams["application_name"]; !ok {
		conns.ConnConfig.RuntimeParams["application_name"] = "ganglion"
	}
}

// firstLook reads the head of the log. It logs a warning if a setting of the
// server can lose acknowledged commands.
func (s *Store) firstLook(ctx context.Context) (log guard.Log, err error) {
	c, err := s.dialer.Connect(ctx)
	if err != nil {
		return log, err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	if err := s.prepareSession(ctx, c, readLockTimeout, readStatementTimeout); err != nil {
		return log, err
	}
	var sync string
	if err := c.QueryRow(ctx, `show synchronous_commit`).Scan(&sync); err != nil {
		return log, err
	}
	if sync == "off" || sync == "local" {
		s.cfg.Logger.Warn("synchronous_commit is "+sync+": acknowledged commands can be lost when the server fails",
			"mend", "alter database … set synchronous_commit = on")
	}
	return look(ctx, c, 0)
}

// warm opens all connections, and makes the server plan the statements of
// appends and reads.
func (s *Store) warm(ctx context.Context) error {
	var all errgroup.Group
	all.Go(s.backend.warm)
	conns := make([]*pgxpool.Conn, s.cfg.ReadConns)
	for i := range conns {
		all.Go(func() (err error) {
			conns[i], err = s.pool.Acquire(ctx)
			return err
		})
	}
	err := all.Wait()
	for _, c := range conns { // held until here, so that each Acquire opened its own connection
		if c != nil {
			c.Release()
		}
	}
	return err
}

// look implements the check of the log for core.
func (s *Store) look(ctx context.Context, op string) (mark guard.Mark, log guard.Log, err error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	err = s.withConn(ctx, op, func(c *pgx.Conn) (err error) {
		mark = s.core.Guard.Mark()
		log, err = look(ctx, c, mark.Newest.Position)
		return err
	})
	return mark, log, err
}

// AcceptLoss gives the log a new incarnation and returns its id. An operator
// thereby declares that the events missing from a restored log are lost. Every
// other Store reports that the log went back, until Resume is called on it.
func (s *Store) AcceptLoss(ctx context.Context) (string, error) {
	var log guard.Log
	err := s.withConn(ctx, "accept the loss", func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			for _, sql := range []string{
				`set local statement_timeout = 0`, // there may be many snapshots
				`select lock_log()`,
				`delete from snapshot where pos > coalesce((select max(pos) from commit), 0)`,
				`update log set id = gen_random_uuid()`,
			} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return err
				}
			}
			var err error
			log, err = look(ctx, tx.Conn(), 0)
			return err
		})
	})
	if err != nil {
		return "", err
	}
	s.core.Guard.Trust(log)
	return log.ID, nil
}

// Close implements eventstore.Store. It waits at most Config.Deadline for the
// batch in flight, and then at most Config.ConnectTimeout for a server that does
// not answer.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.core.Committer.Close()
		s.backend.drop()
		s.core.StopTasks()
		close(s.closed)
		silence := time.AfterFunc(s.cfg.ConnectTimeout, s.dialer.Cut)
		defer silence.Stop()
		s.pool.Close()
		s.rows.close()
	})
	return nil
}

// expireStep bounds the number of outcomes that one transaction deletes.
const expireStep = 500

// expire deletes old outcomes, except outcomes that another node is deleting.
// Each step begins where the previous one ended, because deleted rows stay in the
// index while an old snapshot is open.
func (s *Store) expire(ctx context.Context) (deleted int64, err error) {
	var from time.Time
	for {
		var n int64
		err := s.withConn(ctx, "delete old outcomes", func(c *pgx.Conn) error {
			return c.QueryRow(ctx, `with gone as (delete from outcome where (agg_id, agg_type, key) in (
					select agg_id, agg_type, key from outcome where stored >= $2 and stored < now() - $1::interval
					order by stored limit $3 for update skip locked) returning stored)
				select count(*), coalesce(max(stored), $2) from gone`, core.KeepOutcomes, from, expireStep).Scan(&n, &from)
		})
		deleted += n
		if err != nil || n < expireStep {
			return deleted, err
		}
	}
}
