package postgres

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
)

// Store implements eventstore.Store. Use Open.
type Store struct {
	cfg       Config
	schema    schema
	conns     *pgxpool.Config // for every connection
	pool      *pgxpool.Pool   // for reads
	sockets   sockets
	loads     chan *load
	guard     *guard.Guard
	backend   *backend
	committer *batch.Committer

	keeping sync.WaitGroup
	cancel  context.CancelFunc // ends the housekeeping and the serving of loads
	closing sync.Once
	closed  chan struct{}
}

var _ eventstore.Store = (*Store)(nil)

// Open connects to a database, and makes or migrates the log in it. It fails
// with eventstore.ErrUnavailable when the database can't be reached, or says for
// 30 seconds that it is starting, and with eventstore.ErrSchemaTooNew when a
// newer program has migrated it.
func Open(ctx context.Context, cfg Config) (*Store, error) { return openAs(ctx, cfg, current) }

func openAs(ctx context.Context, cfg Config, as schema) (*Store, error) {
	cfg, conns, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, conns: conns, schema: as, loads: make(chan *load), closed: make(chan struct{})}
	s.sockets.login.least = cfg.ConnectTimeout
	conns.BeforeConnect = s.limitLogin
	conns.ConnConfig.DialFunc = s.sockets.dialer(conns.ConnConfig.DialFunc)
	conns.ConnConfig.ValidateConnect = refuseStandby
	conns.PingTimeout = cfg.ConnectTimeout
	// By itself the pool asks the server whether a connection lives that was idle
	// for a second: one more way there and back for whoever reads, such as a node
	// that takes over aggregates. Here the socket tells.
	conns.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		return p.IdleDuration > time.Second && !alive(socket(p.Conn.PgConn().Conn()))
	}
	conns.MaxConns = int32(cfg.ReadConns)
	conns.MinConns = 0
	if cfg.Warm {
		conns.MinConns = conns.MaxConns
	}
	conns.ConnConfig.RuntimeParams["client_encoding"] = "UTF8"
	if _, ok := conns.ConnConfig.RuntimeParams["application_name"]; !ok {
		conns.ConnConfig.RuntimeParams["application_name"] = "ganglion"
	}
	if err := s.migrate(ctx); err != nil {
		return nil, err
	}
	if err := s.openPool(ctx); err != nil {
		return nil, err
	}
	s.backend = &backend{store: s}
	if cfg.Warm {
		if err := s.warm(ctx); err != nil {
			s.backend.drop()
			s.pool.Close()
			return nil, s.failed(ctx, "open the log", err)
		}
	}
	s.committer = batch.New(batch.Config{
		Backend:   s.backend,
		Committed: cfg.Committed,
		Saw:       s.guard.Saw,
		Deadline:  cfg.Deadline,
		Patience:  cfg.Patience,
		Logger:    cfg.Logger,
	})
	keep, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.keeping.Go(func() { s.housekeep(keep) })
	for range cfg.ReadConns {
		s.keeping.Go(func() { s.serveLoads(keep) })
	}
	return s, nil
}

// openPool looks at the log for the first time, and opens the connections for
// reads.
func (s *Store) openPool(ctx context.Context) error {
	var sync string
	first, err := pgx.ConnectConfig(ctx, s.connConfig(s.sockets.login.get()))
	if err != nil {
		return s.failed(ctx, "open the log", err)
	}
	log, err := s.firstLook(ctx, first, &sync)
	if err = errors.Join(err, first.Close(ctx)); err != nil {
		return s.failed(ctx, "open the log", err)
	}
	if sync == "off" || sync == "local" {
		s.cfg.Logger.Warn("synchronous_commit is "+sync+": commands that were acknowledged can be lost when the server fails",
			"mend", "alter database … set synchronous_commit = on")
	}
	s.guard = guard.New(log)
	s.conns.AfterConnect = s.afterConnect
	if s.pool, err = pgxpool.NewWithConfig(ctx, s.conns); err != nil {
		return s.failed(ctx, "open the log", err)
	}
	return nil
}

func (s *Store) firstLook(ctx context.Context, c *pgx.Conn, sync *string) (guard.Log, error) {
	if err := s.prepareSession(ctx, c, 5*time.Second, 30*time.Second); err != nil {
		return guard.Log{}, err
	}
	if err := c.QueryRow(ctx, `show synchronous_commit`).Scan(sync); err != nil {
		return guard.Log{}, err
	}
	return look(ctx, c, 0)
}

// warm opens all connections, and has the server plan what appends and reads
// ask of it.
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
	for _, c := range conns { // held until here, or one could be given out twice
		if c != nil {
			c.Release()
		}
	}
	return err
}

// refuseStandby keeps the store off a standby, whatever the URL says of
// target_session_attrs: one that lags would look like a log that went back.
// With several hosts in the URL, the next one is tried.
func refuseStandby(ctx context.Context, c *pgconn.PgConn) error {
	answer := c.ExecParams(ctx, `select pg_is_in_recovery()`, nil, nil, nil, nil).Read()
	if answer.Err != nil {
		return answer.Err
	}
	if len(answer.Rows) == 1 && string(answer.Rows[0][0]) == "t" {
		return errStandby
	}
	if t, ok := socket(c.Conn()).(*tracked); ok {
		t.loggedIn()
	}
	return nil
}

// limitLogin bounds one attempt to connect to one host.
func (s *Store) limitLogin(_ context.Context, c *pgx.ConnConfig) error {
	c.ConnectTimeout = s.sockets.login.get()
	return nil
}

// connConfig configures one attempt to connect, with a limit for each host.
func (s *Store) connConfig(limit time.Duration) *pgx.ConnConfig {
	c := s.conns.ConnConfig.Copy()
	c.ConnectTimeout = limit
	return c
}

// connectBound is how long connecting may take when all hosts but the last one
// are silent, and as long again for preparing the session.
func (s *Store) connectBound(limit time.Duration) time.Duration {
	type host struct {
		name string
		port uint16
	}
	hosts := map[host]struct{}{{s.conns.ConnConfig.Host, s.conns.ConnConfig.Port}: {}}
	for _, f := range s.conns.ConnConfig.Fallbacks {
		hosts[host{f.Host, f.Port}] = struct{}{}
	}
	return limit * time.Duration(len(hosts)+1)
}

// prepareSession makes the settings of a new connection. lock and statement are
// the server's timeouts; 0 is none.
func (s *Store) prepareSession(ctx context.Context, c *pgx.Conn, lock, statement time.Duration) error {
	_, err := c.Exec(ctx, `select set_config('default_transaction_isolation', 'read committed', false),
		set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false), set_config('search_path', $3, false)`,
		milliseconds(lock), milliseconds(statement), pgx.Identifier{s.cfg.Schema}.Sanitize())
	return err
}

func milliseconds(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// afterConnect compares the log behind each new connection with what was seen
// of it. A log that went back is for the methods to report, not for the pool.
func (s *Store) afterConnect(ctx context.Context, c *pgx.Conn) error {
	if err := s.prepareSession(ctx, c, 5*time.Second, 30*time.Second); err != nil {
		return err
	}
	mark := s.guard.Mark()
	log, err := look(ctx, c, mark.Newest.Position)
	if err != nil {
		return err
	}
	if !s.guard.Compare(mark, log) {
		s.cfg.Logger.Debug("the log went back", "position", mark.Newest.Position, "head", log.Head.Position)
	}
	if s.cfg.Warm {
		return warmReads(ctx, c)
	}
	return nil
}

// look reads what a log says about itself and about the commit at p.
func look(ctx context.Context, c *pgx.Conn, p eventstore.Position) (guard.Log, error) {
	var (
		log      guard.Log
		at, head looked
	)
	err := c.QueryRow(ctx, `select (select id::text from log),
		c.pos, c.agg_type, c.agg_id, c.version, c.key, c.at, h.pos, h.agg_type, h.agg_id, h.version, h.key, h.at
		from (select) one left join commit c on c.pos = $1
		left join (select * from commit order by pos desc limit 1) h on true`, int64(p)).
		Scan(append(append([]any{&log.ID}, at.columns()...), head.columns()...)...)
	log.AtMark, log.Head = at.commit(), head.commit()
	return log, err
}

// looked is a row of the table commit that may be missing.
type looked struct {
	pos, version *int64
	typ, id, key *string
	at           *time.Time
}

func (l *looked) columns() []any { return []any{&l.pos, &l.typ, &l.id, &l.version, &l.key, &l.at} }

func (l *looked) commit() guard.Commit {
	if l.pos == nil {
		return guard.Commit{}
	}
	return guard.Commit{
		Position: eventstore.Position(*l.pos),
		Stream:   eventstore.StreamID{Type: *l.typ, ID: *l.id},
		Version:  eventstore.Version(*l.version),
		Key:      *l.key,
		Micros:   l.at.UnixMicro(),
	}
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
	ctx, cancel := s.bound(ctx)
	defer cancel()
	err = s.withConn(ctx, op, func(c *pgx.Conn) (err error) {
		mark = s.guard.Mark()
		log, err = look(ctx, c, mark.Newest.Position)
		return err
	})
	return mark, log, err
}

// AcceptLoss gives the log a new incarnation, by which an operator says that
// what a restored log lacks is lost for good, and returns its id. Every other
// Store reports that the log went back until its Resume.
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
	s.guard.Take(log)
	return log.ID, nil
}

// Close implements eventstore.Store. It waits for the batch in flight, at
// most as long as Config.Deadline, and for a server that does not answer at
// most Config.ConnectTimeout more.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.committer.Close()
		s.backend.drop()
		s.cancel()
		s.keeping.Wait()
		close(s.closed)
		silence := time.AfterFunc(s.cfg.ConnectTimeout, s.sockets.cut)
		defer silence.Stop()
		s.pool.Close()
	})
	return nil
}

// withConn lends a connection for reading, also when the log went back. A
// connection that turns out to be dead is replaced, twice.
func (s *Store) withConn(ctx context.Context, op string, use func(*pgx.Conn) error) error {
	for attempt := 0; ; attempt++ {
		var used, dead bool
		err := s.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			used = true
			err := use(c.Conn())
			dead = err != nil && c.Conn().IsClosed()
			return err
		})
		if err == nil {
			return nil
		}
		select {
		case <-s.closed:
			return eventstore.ErrClosed
		default:
		}
		silent := errors.Is(context.Cause(ctx), errSilent)
		if dead && (silent || ctx.Err() == nil) {
			// Where one connection died, the others probably did. A caller who
			// gives up says nothing about them, nor does one more connection
			// that was refused.
			s.pool.Reset()
		}
		if attempt == 2 || ctx.Err() != nil || used && !dead || !used && refused(err) {
			return s.failed(ctx, op, err)
		}
	}
}

// read is withConn for whoever relies on the log not having gone back.
func (s *Store) read(ctx context.Context, op string, use func(*pgx.Conn) error) error {
	if err := s.guard.Err(); err != nil {
		return err
	}
	return s.withConn(ctx, op, func(c *pgx.Conn) error {
		if err := s.guard.Err(); err != nil { // a new connection has looked
			return err
		}
		return use(c)
	})
}

// ask is read with an end of its own: a server that was cut off does not
// answer, and its silence would hold a reader for minutes. Where others may
// reach it, nobody waits longer than for an append.
func (s *Store) ask(ctx context.Context, op string, use func(context.Context, *pgx.Conn) error) error {
	limited, cancel := s.bound(ctx)
	defer cancel()
	if s.cfg.Patience > 0 {
		ctx, end := context.WithCancelCause(limited)
		defer end(nil)
		defer context.AfterFunc(s.committer.Away(), func() { end(errSilent) })()
		defer time.AfterFunc(s.cfg.Patience, s.committer.Probe).Stop()
		limited = ctx
	}
	return s.read(limited, op, func(c *pgx.Conn) error { return use(limited, c) })
}

func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.cfg.Deadline, errSilent)
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

// expire deletes old outcomes, 500 in a transaction, and leaves those that
// another node is deleting. Each step begins where the one before it ended,
// because what is deleted stays in the index while an old snapshot is open.
func (s *Store) expire(ctx context.Context) (deleted int64, err error) {
	var from time.Time
	for {
		var n int64
		err := s.withConn(ctx, "delete old outcomes", func(c *pgx.Conn) error {
			return c.QueryRow(ctx, `with gone as (delete from outcome where (agg_id, agg_type, key) in (
					select agg_id, agg_type, key from outcome where stored >= $2 and stored < now() - $1::interval
					order by stored limit 500 for update skip locked) returning stored)
				select count(*), coalesce(max(stored), $2) from gone`, s.cfg.KeepOutcomes, from).Scan(&n, &from)
		})
		deleted += n
		if err != nil || n < 500 {
			return deleted, err
		}
	}
}
