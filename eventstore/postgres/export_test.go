package postgres

import "context"

// Expire deletes old outcomes, as the housekeeping does.
func (s *Store) Expire(ctx context.Context) (int64, error) { return s.expire(ctx) }
