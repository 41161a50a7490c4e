package postgres

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

var dialect = rowsql.Dialect{
	Parameter:  "$",
	Prefix:     func(column, parameter string) string { return column + " ^@ " + parameter },
	Bool:       func(b bool) any { return b },
	NullsFirst: " nulls first",
}

// workConns is how many connections the processors of a node use, askConns its
// queries: few, because commands share the server. They are apart, so that slow
// queries do not stop the rows.
const (
	workConns = 3
	askConns  = 4
)

// workIdle and askIdle are after which idle time the server ends the transaction of
// a client that has stopped in it, in milliseconds. A transaction of work holds the
// locks of checkpoints. One of a query keeps the server from removing old rows; its
// code may run between two reads, for at most query.MaxTimeout.
const (
	workIdle = "10000"
	askIdle  = "60000"
)

// rowStore implements rows.Store.
type rowStore struct {
	s          *Store
	work, asks rowPool
}

// rowPool is a pool of connections that is made with its first use.
type rowPool struct {
	config *pgxpool.Config

	mu   sync.Mutex
	pool *pgxpool.Pool // nil before the first use
}

// Rows returns the rows beside the log.
func (s *Store) Rows() rows.Store { return s.rows }

func newRowStore(s *Store, conns *pgxpool.Config) *rowStore {
	of := func(most int32, idle string) rowPool {
		config := conns.Copy()
		config.MaxConns, config.MinConns = most, 0
		config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
			if err := s.prepareSession(ctx, c, readLockTimeout, readStatementTimeout); err != nil {
				return err
			}
			_, err := c.Exec(ctx, `select set_config('idle_in_transaction_session_timeout', $1, false)`, idle)
			return err
		}
		return rowPool{config: config}
	}
	return &rowStore{s: s, work: of(workConns, workIdle), asks: of(askConns, askIdle)}
}

func (r *rowStore) close() {
	r.work.close()
	r.asks.close()
}

func (p *rowPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pool != nil {
		p.pool.Close()
	}
}

// with lends a connection for work, if the log did not go back.
func (r *rowStore) with(ctx context.Context, op string, use func(context.Context, *pgx.Conn) error) error {
	return r.lend(ctx, &r.work, op, use)
}

func (r *rowStore) lend(ctx context.Context, from *rowPool, op string, use func(context.Context, *pgx.Conn) error) error {
	if err := r.s.core.Guard.Err(); err != nil {
		return err
	}
	pool, err := from.connections(r.s)
	if err != nil {
		return err
	}
	ctx, cancel := r.s.bound(ctx)
	defer cancel()
	return r.s.lend(ctx, pool, op, func(c *pgx.Conn) error { return use(ctx, c) })
}

func (p *rowPool) connections(s *Store) (*pgxpool.Pool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-s.closed:
		return nil, eventstore.ErrClosed
	default:
	}
	if p.pool == nil {
		pool, err := pgxpool.NewWithConfig(context.Background(), p.config) // connects later
		if err != nil {
			return nil, s.failed(context.Background(), "open connections for rows", err)
		}
		p.pool = pool
	}
	return p.pool, nil
}
