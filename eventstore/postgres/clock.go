package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Clock returns the time of the database server's clock. Nodes compare theirs
// with it, because it is the one that all of them reach.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var at time.Time
	err := s.ask(ctx, "read the clock", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `select clock_timestamp()`).Scan(&at)
	})
	return at, err
}
