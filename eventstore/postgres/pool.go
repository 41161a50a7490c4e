package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ganglion-es/ganglion/eventstore"
)

// attempts is the number of attempts of withConn: a connection of the pool may be
// dead.
const attempts = 3

// withConn lends a connection of the pool, even if the log went back.
func (s *Store) withConn(ctx context.Context, op string, use func(*pgx.Conn) error) error {
	return s.lend(ctx, s.pool, op, use)
}

// lend is withConn for any of the store's pools.
func (s *Store) lend(ctx context.Context, pool *pgxpool.Pool, op string, use func(*pgx.Conn) error) error {
	for attempt := 1; ; attempt++ {
		var used, dead bool
		err := pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
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
			// If one connection died, the others probably did too. A caller that
			// gave up, or a connection that was refused, proves nothing about
			// them.
			pool.Reset()
		}
		if attempt == attempts || ctx.Err() != nil || used && !dead || !used && refused(err) {
			return s.failed(ctx, op, err)
		}
	}
}

// read is withConn for callers that must not read a log that went back.
func (s *Store) read(ctx context.Context, op string, use func(*pgx.Conn) error) error {
	if err := s.core.Guard.Err(); err != nil {
		return err
	}
	return s.withConn(ctx, op, func(c *pgx.Conn) error {
		if err := s.core.Guard.Err(); err != nil { // a new connection compares the log
			return err
		}
		return use(c)
	})
}

// readBounded is read with a deadline. Without one, a server that was cut off
// would make a reader wait for minutes. With Config.Patience, a reader waits no
// longer than an append.
func (s *Store) readBounded(ctx context.Context, op string, use func(context.Context, *pgx.Conn) error) error {
	limited, cancel := s.bound(ctx)
	defer cancel()
	if s.cfg.Patience > 0 {
		ctx, end := context.WithCancelCause(limited)
		defer end(nil)
		defer context.AfterFunc(s.core.Committer.Away(), func() { end(errSilent) })()
		defer time.AfterFunc(s.cfg.Patience, s.core.Committer.Probe).Stop()
		limited = ctx
	}
	return s.read(limited, op, func(c *pgx.Conn) error { return use(limited, c) })
}

func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.cfg.Deadline, errSilent)
}
