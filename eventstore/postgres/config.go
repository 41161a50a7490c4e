package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Config configures a Store.
type Config struct {
	// URL names the database: postgres://user:password@host:5432/database, or
	// another form that libpq accepts. Required.
	//
	// It may name several hosts, a primary and its standbys. The store uses the
	// primary, whatever target_session_attrs says.
	URL string

	// Schema is the schema of the log. Open creates it if it is missing. Two logs
	// in one database need two schemas.
	//
	// Defaults to the first schema of the role's search path, which is usually
	// public.
	Schema string

	// Committed is called with every batch that this Store has stored. Optional.
	Committed eventstore.Committed

	// Deadline bounds the attempts of Append to learn the outcome of a batch if
	// the database goes away. An append waits three tenths of it for the lock,
	// and half of it for a result before it closes the connection. Deadline also
	// bounds every read.
	//
	// Defaults to 10 seconds.
	Deadline time.Duration

	// Patience, if it is not 0, bounds how long Append waits for a database that
	// does not answer, because another node may reach it. After that time, units
	// that were sent get eventstore.ErrUnknown. All other units, and reads, get
	// eventstore.ErrUnavailable immediately until the database answers again. The
	// wait is longer in a process whose goroutines wait long for a processor.
	Patience time.Duration

	// ConnectTimeout bounds one attempt to connect to one host. The limit for the
	// login doubles after each login that exceeds it, up to eight times
	// ConnectTimeout, because a busy server completes no login if every client
	// gives up early.
	//
	// Defaults to 3 seconds.
	ConnectTimeout time.Duration

	// ReadConns is the number of connections for reads. More connections serve
	// more concurrent reads. But when a node ends, so do all its connections,
	// which costs the server 10 to 40 ms of processor time each, just when other
	// nodes take over. Loads need few connections, because concurrent loads share
	// a round trip.
	//
	// Defaults to 4.
	ReadConns int

	// Warm makes Open wait until all connections (ReadConns for reads, one for
	// appends) are open and have planned their statements. They then stay open.
	// Without Warm, the first callers wait for this. On a node that took over
	// aggregates under load, hundreds of callers were measured to wait for half a
	// second.
	Warm bool

	// Waiting, if set, is called with the reason while Open waits for a database
	// that is starting.
	Waiting func(error)

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, *pgxpool.Config, error) {
	var errs []error
	c.Deadline = cmp.Or(c.Deadline, 10*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 3*time.Second)
	c.ReadConns = cmp.Or(c.ReadConns, 4)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Deadline < 0 || c.Patience < 0 || c.ConnectTimeout < 0 {
		errs = append(errs, errors.New("postgres: Deadline, Patience or ConnectTimeout is negative"))
	}
	if c.ReadConns < 0 || c.ReadConns > 1000 {
		errs = append(errs, fmt.Errorf("postgres: ReadConns is %d: 1 to 1000 are allowed", c.ReadConns))
	}
	if len(c.Schema) > 63 {
		errs = append(errs, fmt.Errorf("postgres: Schema has %d bytes: at most 63 are allowed", len(c.Schema)))
	}
	var conns *pgxpool.Config
	if c.URL == "" {
		errs = append(errs, errors.New("postgres: URL is required, such as postgres://user@host:5432/database"))
	} else {
		var err error
		if conns, err = pgxpool.ParseConfig(c.URL); err != nil {
			// The error of the driver quotes the URL, which has a password.
			errs = append(errs, errors.New("postgres: the URL is invalid: write postgres://user:password@host:5432/database?sslmode=…"))
		}
	}
	return c, conns, errors.Join(errs...)
}
