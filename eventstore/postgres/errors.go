package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/postgres/internal/driver"
)

// SQLSTATEs.
const (
	codeWentBack  = "GA001" // of the function append
	codeIsolation = "GA002" // of the function append
	codeStarting  = "57P03" // the server starts or stops
	codeUnique    = "23505" // unique_violation
)

// errSilent reports that the server did not answer a read within Config.Patience
// or Config.Deadline.
var errSilent = errors.New("the server does not answer: check the server and the network to it")

const noLog = "the log's tables and functions are missing, or this role has no rights on them: check the schema and the search path, " +
	"and grant the role the rights that docs/postgresql.md lists"

// advice states what an operator can do about an error, by SQLSTATE.
var advice = map[string]string{
	codeIsolation: "set default_transaction_isolation to read committed",
	"25006":       "the server is read-only: use the primary, and set default_transaction_read_only to off",
	"28000":       "check the role, and pg_hba.conf",
	"28P01":       "check the role's password",
	"3D000":       "create the database",
	"42501":       "grant the role the rights that docs/postgresql.md lists",
	"42883":       noLog,
	"42P01":       noLog,
	"53100":       "free space on the disk of the database server",
	"53200":       "give the database server more memory",
	"53300":       "close connections, or raise max_connections",
	"55P03":       "another session holds a lock on the log: see pg_locks",
	"57014":       "the server is too busy, or an administrator cancelled the statement",
	"57P01":       "the server's administrator ended the connection",
	codeStarting:  "the server is starting or stopping: wait",
	"58030":       "the database server's disk has failed",
}

// appendFailure classifies an error of a call that was sent.
func appendFailure(err error) *batch.Failure {
	f := &batch.Failure{Reason: reason(err)}
	var e *pgconn.PgError
	switch {
	case !errors.As(err, &e):
		f.Kind = batch.Lost
		if pgconn.SafeToRetry(err) {
			f.Kind = batch.Down
		}
	case fatal(e):
		// The server ended the connection, perhaps while a commit waited for
		// the standby.
		f.Kind = batch.Lost
	default:
		f.Kind = rolledBack(e.Code)
	}
	return f
}

// fatal reports whether the error ended the connection, not only the statement.
// The server does not translate the severity.
func fatal(e *pgconn.PgError) bool {
	return e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC"
}

// rolledBack classifies an error that left the connection alive: its transaction
// was rolled back.
func rolledBack(code string) batch.Kind {
	switch {
	case code == codeWentBack:
		return batch.WentBack
	case code == "55P03", code == "57014", strings.HasPrefix(code, "40"):
		return batch.Busy // lock_timeout, statement_timeout or a cancel, deadlocks
	case strings.HasPrefix(code, "22"), strings.HasPrefix(code, "23"), strings.HasPrefix(code, "54"), code == "21000":
		return batch.Refused // data, constraints, limits such as the size of an index entry
	}
	return batch.Broken // rights, a full disk, a standby, a missing table
}

// isKnownKey reports whether an append was rolled back because a row has its
// key.
func isKnownKey(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && !fatal(e) && e.Code == codeUnique
}

// reason describes an error without secrets: no URL, no password, and no data of
// a row.
func reason(err error) string {
	var (
		e       *pgconn.PgError
		connect *pgconn.ConnectError
		search  *driver.SearchError
	)
	switch {
	case errors.As(err, &connect), errors.As(err, &search):
		text := "can't connect"
		if all := driver.Attempts(err); all != "" {
			text += ": " + all
		}
		switch {
		case errors.Is(err, driver.ErrStandby): // has its own advice
		case errors.As(err, &e):
			text += advise(e.Code)
		default:
			text += ": check that the database server runs and is reachable at this address"
		}
		return text
	case errors.As(err, &e):
		// Message names tables and constraints. Detail would quote values.
		return fmt.Sprintf("%s (SQLSTATE %s)%s", driver.OneLine(e.Message), e.Code, advise(e.Code))
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out: check the database server"
	}
	return driver.OneLine(err.Error())
}

func advise(code string) string {
	if text := advice[code]; text != "" {
		return ": " + text
	}
	return ""
}

// failed returns the error of a method other than Append.
func (s *Store) failed(ctx context.Context, op string, err error) error {
	for _, ours := range []error{eventstore.ErrWentBack, eventstore.ErrClosed, eventstore.ErrDamaged, errUnfit} {
		if errors.Is(err, ours) {
			return err
		}
	}
	switch cause := context.Cause(ctx); {
	case cause == nil:
	case errors.Is(cause, errSilent):
		return fmt.Errorf("%w: postgres: %s: %w", eventstore.ErrUnavailable, op, errSilent)
	default:
		return fmt.Errorf("postgres: %s: %w", op, cause)
	}
	return &eventstore.UnavailableError{Reason: "postgres: " + op + ": " + reason(err), Misconfigured: misconfigured(err)}
}

// misconfigured reports whether only a change of the configuration helps. A
// server that is unreachable, starts, stops, has too many connections or is still
// a standby may recover without an operator. If the URL names several hosts, each must
// need the change: a standby that lags does not have a new database yet.
func misconfigured(err error) bool {
	var (
		e           *pgconn.PgError
		certificate *tls.CertificateVerificationError
		search      *driver.SearchError
	)
	switch {
	case errors.As(err, &search):
		return !slices.ContainsFunc(search.Hosts, func(err error) bool { return !misconfigured(err) })
	case errors.As(err, &e):
		switch e.Code {
		case "3D000", "3F000", "42501", "42883", "42P01", codeIsolation:
			return true
		}
		return strings.HasPrefix(e.Code, "28") // the role, its password, pg_hba.conf
	default:
		return errors.As(err, &certificate)
	}
}

// refused reports whether the server itself refused a connection.
func refused(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) || errors.Is(err, driver.ErrStandby)
}
