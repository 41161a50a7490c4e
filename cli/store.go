package cli

import (
	"context"
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/node"
)

// storeFlags select a log.
type storeFlags struct{ Store, StorePasswordFile string }

func (f *storeFlags) addTo(flags *pflag.FlagSet) {
	flags.StringVar(&f.Store, "store", "", "log: a postgres:// `URL`, or the folder of an embedded log")
	flags.StringVar(&f.StorePasswordFile, "store-password-file", "", "`FILE` with the database's password, if the URL has none")
	require(flags, "store")
}

func (f storeFlags) password() (string, error) {
	if f.StorePasswordFile == "" {
		return "", nil
	}
	raw, err := readSecret(f.StorePasswordFile)
	return strings.TrimSpace(string(raw)), err
}

// openOrCreate opens a log, and creates it if it does not exist.
func (f storeFlags) openOrCreate(ctx context.Context, log *slog.Logger) (node.Store, error) {
	return f.openWith(ctx, node.StoreConfig{Logger: log})
}

// openExisting opens a log that exists.
func (f storeFlags) openExisting(ctx context.Context, log *slog.Logger) (node.Store, error) {
	if err := f.exists(); err != nil {
		return nil, err
	}
	return f.openOrCreate(ctx, log)
}

// openToRead opens an existing log for reading, even an embedded one that another
// process has open.
func (f storeFlags) openToRead(ctx context.Context, log *slog.Logger) (node.Store, error) {
	if err := f.exists(); err != nil {
		return nil, err
	}
	return f.openWith(ctx, node.StoreConfig{ReadOnly: true, Logger: log})
}

func (f storeFlags) openWith(ctx context.Context, cfg node.StoreConfig) (_ node.Store, err error) {
	cfg.URL = f.Store
	if cfg.Password, err = f.password(); err != nil {
		return nil, err
	}
	return node.OpenStore(ctx, cfg)
}

// exists rejects a folder without a log: opening it would create an empty one.
func (f storeFlags) exists() error {
	if strings.Contains(f.Store, "://") {
		return nil
	}
	if err := sqlite.Exists(f.Store); err != nil {
		return usagef("no log exists at %s: write a postgres:// URL or the folder of an embedded log", f.Store)
	}
	return nil
}
