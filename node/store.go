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
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/verify"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// StoreConfig configures OpenStore.
type StoreConfig struct {
	// URL is a postgres:// URL, or the folder of an embedded log. Required.
	URL string
	// Password is used when a postgres:// URL has none.
	Password string
	// Committed is called with every batch that this store commits.
	Committed eventstore.Committed
	// Warm makes OpenStore prepare everything that commands need from the log; see
	// postgres.Config.
	Warm bool
	// Patience is how long appends wait for an unreachable database; see
	// postgres.Config.
	Patience time.Duration
	// Wait is how long OpenStore retries while the database is unreachable or resets
	// connections. It does not retry errors that need a change of the configuration.
	// With 0 it tries once.
	Wait time.Duration
	// Waiting, if set, is called with the error before each retry.
	Waiting func(error)
	// ReadConns bounds the connections for reads; see postgres.Config.
	ReadConns int
	// ReadOnly opens an embedded log even while another process writes it; changes
	// fail. It has no effect on a database.
	ReadOnly bool
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Store is a log with the operations for operators.
type Store interface {
	eventstore.Mover
	verify.Source
	// Rows returns the rows of projections beside the log.
	Rows() rows.Store
	// Groups returns the consumer groups beside the log.
	Groups() groups.Store
	// Wakes returns the table of wake-ups beside the log.
	Wakes() wakes.Store
	// Size returns the space that the log takes.
	Size(ctx context.Context) (eventstore.Size, error)
	// AcceptLoss starts a new incarnation of a log that lost events, and returns its
	// id.
	AcceptLoss(ctx context.Context) (string, error)
}

const (
	storeRetryMin = 100 * time.Millisecond
	storeRetryMax = 2 * time.Second
)

// OpenStore opens a log. It migrates a schema that is older than this program, and
// fails with eventstore.ErrSchemaTooNew if it is newer.
func OpenStore(ctx context.Context, cfg StoreConfig) (Store, error) {
	began := time.Now()
	for pause := storeRetryMin; ; pause = min(2*pause, storeRetryMax) {
		store, err := openStore(ctx, cfg)
		if err == nil || !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrMisconfigured) || cfg.Wait <= 0 {
			return store, err
		}
		left := cfg.Wait - time.Since(began)
		if left <= 0 {
			return nil, fmt.Errorf("the database could not be opened within %v: %w", cfg.Wait, err)
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

// withPassword adds a password to a URL that has none.
func withPassword(raw, password string) (string, error) {
	if password == "" {
		return raw, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("the store's URL is invalid: write postgres://user@host:5432/database") // err would quote the password
	}
	if _, has := u.User.Password(); !has {
		u.User = url.UserPassword(u.User.Username(), password)
	}
	return u.String(), nil
}
