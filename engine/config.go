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

	// Logger defaults to a logger that discards everything.
	Logger *slog.Logger

	// Now is the clock by which commands are decided. Deadlines are always
	// measured by time.Now.
	//
	// Defaults to time.Now.
	Now func() time.Time

	// MailboxCommands and MailboxBytes bound the commands that wait for one
	// aggregate. Beyond either, commands are refused as busy.
	//
	// Default to 1,024 commands and 1 MiB.
	MailboxCommands int
	MailboxBytes    int

	// PendingCommands and PendingBytes bound the commands that wait or are in
	// progress on the whole host. Beyond either, commands are refused as busy.
	// A get that the cache does not answer counts as a command without bytes.
	//
	// Default to 65,536 commands and 256 MiB.
	PendingCommands int
	PendingBytes    int

	// Drain bounds the commands that are decided and stored as one unit.
	//
	// Defaults to 256.
	Drain int

	// CachedStates and CachedBytes bound the states in memory. The size of a
	// state is estimated from its encoded size.
	//
	// Default to 100,000 states and 256 MiB.
	CachedStates int
	CachedBytes  int

	// Loads bounds the aggregates that are read from the log concurrently, each
	// in pages of eventstore.LoadBytes. Further ones wait for LoadTimeout at
	// most. Aggregates that only wake-ups wait for use half of them, so that
	// commands of clients are not behind a burst of wake-ups.
	//
	// Defaults to 64.
	Loads int

	// LoadTimeout bounds the reading of one aggregate. Events read by then are
	// kept, and the next request continues from them.
	//
	// Defaults to 10 seconds.
	LoadTimeout time.Duration

	// AppendTimeout bounds how long a unit whose commands have no deadline
	// waits for a place in the store's batch.
	//
	// Defaults to 30 seconds.
	AppendTimeout time.Duration
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Catalog == nil {
		errs = append(errs, errors.New("engine: Catalog is required"))
	} else if err := c.Catalog.Err(); err != nil {
		errs = append(errs, fmt.Errorf("engine: Catalog: %w", err))
	}
	if c.Store == nil {
		errs = append(errs, errors.New("engine: Store is required"))
	}
	for _, bound := range []struct {
		name         string
		value        *int
		defaultValue int
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
			errs = append(errs, fmt.Errorf("engine: %s is %d: it must not be negative", bound.name, *bound.value))
		}
		*bound.value = cmp.Or(*bound.value, bound.defaultValue)
	}
	for _, bound := range []struct {
		name         string
		value        *time.Duration
		defaultValue time.Duration
	}{
		{"LoadTimeout", &c.LoadTimeout, 10 * time.Second},
		{"AppendTimeout", &c.AppendTimeout, 30 * time.Second},
	} {
		if *bound.value < 0 {
			errs = append(errs, fmt.Errorf("engine: %s is %s: it must not be negative", bound.name, *bound.value))
		}
		*bound.value = cmp.Or(*bound.value, bound.defaultValue)
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, errors.Join(errs...)
}
