package engine

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// MaxCommandBytes bounds the data of one command.
	MaxCommandBytes = 64 << 10

	// MaxCommitBytes bounds the events of one command in their stored form,
	// so that a commit always fits into one frame of the feed.
	MaxCommitBytes = 192 << 10
)

// Config configures a Host.
type Config struct {
	// Catalog has the aggregates to run. Required.
	Catalog *aggregate.Catalog

	// Store is the log. The host does not close it. Required.
	Store eventstore.Store

	// Logger defaults to one that discards everything.
	Logger *slog.Logger

	// Now is the clock that commands are decided by.
	//
	// Defaults to time.Now. Deadlines are always measured by time.Now.
	Now func() time.Time

	// MailboxCommands and MailboxBytes bound what waits for one aggregate.
	// Past either, commands are refused as busy.
	//
	// Default to 1,024 commands and 1 MiB.
	MailboxCommands int
	MailboxBytes    int

	// PendingCommands and PendingBytes bound what waits or is in progress on
	// the whole node. Past either, commands are refused as busy; gets that are
	// not answered from memory count as commands without bytes.
	//
	// Default to 65,536 commands and 256 MiB.
	PendingCommands int
	PendingBytes    int

	// Drain bounds how many commands are decided and stored as one unit.
	//
	// Defaults to 256.
	Drain int

	// CachedStates and CachedBytes bound the states kept in memory. A state
	// is counted at an estimate from its encoded size.
	//
	// Default to 100,000 states and 256 MiB.
	CachedStates int
	CachedBytes  int

	// Loads bounds how many aggregates are read from the log at once, each by
	// pages of eventstore.LoadBytes; more wait, at most LoadTimeout.
	//
	// Defaults to 64.
	Loads int

	// LoadTimeout bounds the reading of one aggregate. What was read by then is
	// kept, and the next request continues from it.
	//
	// Defaults to 10 seconds.
	LoadTimeout time.Duration

	// AppendTimeout bounds how long a unit without any deadline waits for a
	// place in the store's batch.
	//
	// Defaults to 30 seconds.
	AppendTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Catalog == nil {
		errs = append(errs, errors.New("host: Catalog is required"))
	} else if err := c.Catalog.Err(); err != nil {
		errs = append(errs, fmt.Errorf("host: Catalog: %w", err))
	}
	if c.Store == nil {
		errs = append(errs, errors.New("host: Store is required"))
	}
	for _, bound := range []struct {
		name  string
		value *int
		usual int
	}{
		{"MailboxCommands", &c.MailboxCommands, 1024},
		{"MailboxBytes", &c.MailboxBytes, 1 << 20},
		{"PendingCommands", &c.PendingCommands, 65_536},
		{"PendingBytes", &c.PendingBytes, 256 << 20},
		{"Drain", &c.Drain, 256},
		{"CachedStates", &c.CachedStates, 100_000},
		{"CachedBytes", &c.CachedBytes, 256 << 20},
		{"Loads", &c.Loads, 64},
	} {
		if *bound.value < 0 {
			errs = append(errs, fmt.Errorf("host: %s is negative", bound.name))
		}
		*bound.value = cmp.Or(*bound.value, bound.usual)
	}
	if c.LoadTimeout < 0 {
		errs = append(errs, errors.New("host: LoadTimeout is negative"))
	}
	if c.AppendTimeout < 0 {
		errs = append(errs, errors.New("host: AppendTimeout is negative"))
	}
	c.LoadTimeout = cmp.Or(c.LoadTimeout, 10*time.Second)
	c.AppendTimeout = cmp.Or(c.AppendTimeout, 30*time.Second)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, errors.Join(errs...)
}
