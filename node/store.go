package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

// StoreConfig says which log to open.
type StoreConfig struct {
	// URL is a postgres:// URL, or the folder of an embedded log. Required.
	URL string
	// Password is used when a postgres:// URL has none.
	Password string
	// Committed is told of every batch that this store stores.
	Committed eventstore.Committed
	// Warm says that commands will wait for this log: everything that they need
	// of it is made ready first; see postgres.Config.
	Warm bool
	// Patience is how long appends wait for a database that went away; see
	// postgres.Config.
	Patience time.Duration
	// Wait is how long OpenStore waits for a database that can't be reached, or
	// that resets connections. It never waits for what only a change of the
	// configuration mends. 0 is to try once.
	Wait time.Duration
	// Waiting, if set, is told why OpenStore still waits.
	Waiting func(error)
	// ReadConns is how many connections to a database reads may use; see
	// postgres.Config.
	ReadConns int
	// ReadOnly opens an embedded log beside the process that writes it, if one
	// does: everything that would change the log fails. A database is opened as
	// it always is.
	ReadOnly bool
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Store is a log that an operator can open.
type Store interface {
	eventstore.Mover
	verify.Source
	// AcceptLoss writes a new incarnation: the log is right as it is now,
	// though it lost events. It returns the new incarnation's id.
	AcceptLoss(ctx context.Context) (string, error)
}

const (
	storeRetryMin = 100 * time.Millisecond
	storeRetryMax = 2 * time.Second
)

// OpenStore opens a log, migrating its schema if it is older than this
// program; one that is newer is refused with eventstore.ErrSchemaTooNew.
func OpenStore(ctx context.Context, cfg StoreConfig) (Store, error) {
	began := time.Now()
	for pause := storeRetryMin; ; pause = min(2*pause, storeRetryMax) {
		store, err := openStore(ctx, cfg)
		if err == nil || !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrMisconfigured) || cfg.Wait <= 0 {
			return store, err
		}
		left := cfg.Wait - time.Since(began)
		if left <= 0 {
			return nil, fmt.Errorf("gave up the database after %v: %w", cfg.Wait, err)
		}
		if cfg.Waiting != nil {
			cfg.Waiting(err)
		}
		select {
		case <-time.After(min(pause, left)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func openStore(ctx context.Context, cfg StoreConfig) (Store, error) {
	scheme, _, isURL := strings.Cut(cfg.URL, "://")
	switch {
	case !isURL:
		return sqlite.Open(ctx, sqlite.Config{Dir: cfg.URL, Committed: cfg.Committed, ReadOnly: cfg.ReadOnly, Logger: cfg.Logger})
	case scheme == "postgres" || scheme == "postgresql":
		u, err := withPassword(cfg.URL, cfg.Password)
		if err != nil {
			return nil, err
		}
		return postgres.Open(ctx, postgres.Config{
			URL: u, Committed: cfg.Committed, Warm: cfg.Warm, Patience: cfg.Patience, ReadConns: cfg.ReadConns,
			Waiting: cfg.Waiting, Logger: cfg.Logger,
		})
	default:
		return nil, fmt.Errorf("the store %s://… is neither a postgres:// URL nor a folder", scheme)
	}
}

// withPassword puts a password that was kept apart into a URL that has none.
func withPassword(raw, password string) (string, error) {
	if password == "" {
		return raw, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("the store's URL can't be understood: write postgres://user@host:5432/database") // err would quote it
	}
	if _, has := u.User.Password(); !has {
		u.User = url.UserPassword(u.User.Username(), password)
	}
	return u.String(), nil
}
