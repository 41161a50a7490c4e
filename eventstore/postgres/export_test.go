package postgres

import (
	"context"
	"io/fs"
)

// OpenAs opens a log as a program with other migrations would.
func OpenAs(ctx context.Context, cfg Config, files fs.FS, version int64) (*Store, error) {
	return openAs(ctx, cfg, schema{files: files, version: version})
}

// Migrations are those of this program.
var Migrations fs.FS = migrations

// NewestMigration is the number of the newest one.
var NewestMigration = current.version

// Expire deletes old outcomes, as the housekeeping does.
func (s *Store) Expire(ctx context.Context) (int64, error) { return s.expire(ctx) }
