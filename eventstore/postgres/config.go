package postgres

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Config configures a Store.
type Config struct {
	// URL names the database: postgres://user:password@host:5432/database,
	// or anything else that libpq takes. Required.
	//
	// It may name several hosts, a primary and its standbys: the store uses
	// the one that is the primary, whatever target_session_attrs says.
	URL string

	// Schema is where the log is; it is made if it is missing, and two logs
	// in one database take two schemas.
	//
	// Defaults to the first schema of the role's search path, mostly public.
	Schema string

	// Committed is told of every batch that this Store has stored. Optional.
	Committed eventstore.Committed

	// Deadline is how long Append tries to find out what became of a batch
	// when the database goes away. A third of it is how long an append waits
	// for the lock, and half of it how long it waits for an answer before it
	// takes the connection for dead. It also bounds every read.
	//
	// Defaults to 10 seconds.
	Deadline time.Duration

	// Patience, if it is not 0, is how long Append waits for a database that
	// went away, because others may reach it. Past it, what was sent ends with
	// eventstore.ErrUnknown and the rest with eventstore.ErrUnavailable, at
	// once, until the database is back. Reads end with that as well. A process
	// whose goroutines wait long for a processor waits longer.
	Patience time.Duration

	// ConnectTimeout bounds one attempt to connect to one host. The limit of a
	// login doubles after each one that ran out, up to eight times
	// ConnectTimeout, because a busy server finishes none that all end early.
	//
	// Defaults to 3 seconds.
	ConnectTimeout time.Duration

	// ReadConns is how many connections reads may use. More serve more at once;
	// they also all end with their node, which keeps the server busy (for 10 to
	// 40 ms of a processor each) just when others take over from it. Loads need
	// few: those that come together share the way there and back.
	//
	// Defaults to 4.
	ReadConns int

	// Warm makes Open return only when the connections that appends and reads
	// may use are open, with the plans of what runs on them made, and keeps them
	// open from then on: ReadConns and one. Else the first that need them pay for
	// that; on a node that takes over a part of the aggregates under load those
	// are hundreds, and were seen to wait for half a second.
	Warm bool

	// KeepOutcomes is how long an outcome without events is final.
	//
	// Defaults to 24 hours.
	KeepOutcomes time.Duration

	// Waiting, if set, is told why Open still waits for a database that starts.
	Waiting func(error)

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, *pgxpool.Config, error) {
	var errs []error
	c.Deadline = cmp.Or(c.Deadline, 10*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 3*time.Second)
	c.ReadConns = cmp.Or(c.ReadConns, 4)
	c.KeepOutcomes = cmp.Or(c.KeepOutcomes, 24*time.Hour)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Deadline < 0 || c.Patience < 0 || c.ConnectTimeout < 0 || c.KeepOutcomes < 0 {
		errs = append(errs, errors.New("postgres: a duration is negative"))
	}
	if c.ReadConns < 0 || c.ReadConns > 1000 {
		errs = append(errs, errors.New("postgres: ReadConns is not within 1 to 1000"))
	}
	if len(c.Schema) > 63 {
		errs = append(errs, errors.New("postgres: Schema has more than 63 bytes"))
	}
	var conns *pgxpool.Config
	if c.URL == "" {
		errs = append(errs, errors.New("postgres: URL is required, such as postgres://user@host:5432/database"))
	} else {
		var err error
		if conns, err = pgxpool.ParseConfig(c.URL); err != nil {
			// The error of the library quotes the URL, and the URL has a password in it.
			errs = append(errs, errors.New("postgres: the URL can't be understood: write postgres://user:password@host:5432/database?sslmode=…"))
		}
	}
	return c, conns, errors.Join(errs...)
}
