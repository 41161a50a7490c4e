package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// errUnfit reports that the database cannot hold a log until an operator changes
// it.
var errUnfit = errors.New("postgres: the database is not fit for a log")

// inspect checks the database on the first connection, and sets s.cfg.Schema. It
// does not change the session: behind a pooler, the session may run another
// program's statement next.
func (s *Store) inspect(ctx context.Context, c *pgx.Conn) error {
	var (
		name               string
		pid                uint32
		version            int
		database, encoding string
		schema             *string
	)
	// A server that only speaks the protocol may not have the functions below.
	if err := c.QueryRow(ctx, `select version()`, pgx.QueryExecModeExec).Scan(&name); err != nil {
		return err
	}
	if product := otherProduct(name); product != "" {
		return fmt.Errorf("%w: the server is %s: a log needs PostgreSQL, on whose locks and order of commits it relies", errUnfit, product)
	}
	err := c.QueryRow(ctx, `select pg_backend_pid(), current_setting('server_version_num')::int, current_database(),
		current_setting('server_encoding'), coalesce(nullif($1, ''), current_schema())`, pgx.QueryExecModeExec, s.cfg.Schema).
		Scan(&pid, &version, &database, &encoding, &schema)
	switch {
	case err != nil:
		return err
	case version < 140000:
		return fmt.Errorf("%w: the server is PostgreSQL %d: version 14 or newer is needed", errUnfit, version/10000)
	case encoding != "UTF8":
		return fmt.Errorf("%w: the encoding of %q is %s, but JSON needs UTF8: "+
			"make a new database with create database … encoding 'UTF8' template template0", errUnfit, database, encoding)
	case schema == nil:
		return fmt.Errorf("%w: no schema of the role's search_path exists: create one, or set the role's search_path", errUnfit)
	}
	s.cfg.Schema = *schema
	ctx, cancel := context.WithTimeout(ctx, s.dialer.Bound())
	defer cancel()
	other, err := s.dialer.Connect(ctx)
	if err != nil {
		return err
	}
	defer other.Close(context.WithoutCancel(ctx))
	if pid != c.PgConn().PID() { // a pooler
		shares, err := sharesSession(ctx, c, other)
		switch {
		case err != nil:
			return err
		case shares:
			return fmt.Errorf("%w: a pooler gives each transaction another session (pool_mode = transaction): "+
				"set pool_mode = session for %q, or connect to the server itself", errUnfit, database)
		}
	}
	locks, err := lockExcludes(ctx, c, other)
	if err == nil && !locks {
		err = fmt.Errorf("%w: advisory locks do nothing on this server (%s), so concurrent nodes would overwrite each other: use PostgreSQL itself", errUnfit, name)
	}
	return err
}

// otherProduct returns the name of the product if the result of version() is not that of
// PostgreSQL, or is that of a product that is derived from it and distributes data.
func otherProduct(version string) string {
	for mark, product := range map[string]string{
		"-YB-": "YugabyteDB", "Redshift": "Amazon Redshift", "Greenplum": "Greenplum", "Materialize": "Materialize",
	} {
		if strings.Contains(version, mark) {
			return product
		}
	}
	name, _, _ := strings.Cut(version, " ")
	if name == "PostgreSQL" || name == "EnterpriseDB" {
		return ""
	}
	return fmt.Sprintf("%.40q", name)
}

// lockExcludes reports whether a lock that one session holds keeps another from taking it,
// as for the locks of appends.
func lockExcludes(ctx context.Context, c, other *pgx.Conn) (bool, error) {
	// Of this probe alone, so that nodes that start together do not wait. It is text, since
	// release builds omit the types with which the driver would encode a number before the
	// connection is set up.
	key := strconv.Itoa(int(rand.Int32()))
	if _, err := c.Exec(ctx, `begin`); err != nil {
		return false, err
	}
	_, err := c.Exec(ctx, `select pg_advisory_xact_lock(1195461199, $1::int)`, pgx.QueryExecModeExec, key)
	var taken bool
	if err == nil {
		err = other.QueryRow(ctx, `select pg_try_advisory_xact_lock(1195461199, $1::int)`, pgx.QueryExecModeExec, key).Scan(&taken)
	}
	_, ended := c.Exec(ctx, `rollback`)
	return !taken, errors.Join(err, ended)
}

// poolerTries is the number of attempts in sharesSession. One attempt suffices
// unless another client of the pooler takes the process that was just released.
const poolerTries = 5

// sharesSession reports whether a pooler runs the transactions of one connection
// in several server processes. It opens a transaction on another connection, and
// checks whether that transaction takes the process of the first connection.
func sharesSession(ctx context.Context, c, other *pgx.Conn) (bool, error) {
	first, err := process(ctx, c)
	for range poolerTries {
		if err != nil {
			return false, err
		}
		if _, err = other.Exec(ctx, `begin`); err != nil {
			return false, err
		}
		held, err1 := process(ctx, other)
		if err1 == nil && held == first {
			return true, nil
		}
		now, err2 := process(ctx, c)
		if err2 == nil && now != first {
			return true, nil
		}
		_, err = other.Exec(ctx, `rollback`)
		err = errors.Join(err, err1, err2)
	}
	return false, err
}

// process returns the id of the server process that runs the statement.
func process(ctx context.Context, c *pgx.Conn) (pid uint32, err error) {
	err = c.QueryRow(ctx, `select pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&pid)
	return pid, err
}
