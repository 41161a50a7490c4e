//go:build !nosqlite

package ganglion

import (
	"context"

	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

func openEmbedded(ctx context.Context, cfg StoreConfig) (Store, error) {
	return sqlite.Open(ctx, sqlite.Config{Dir: cfg.URL, Committed: cfg.Committed, Logger: cfg.Logger})
}
