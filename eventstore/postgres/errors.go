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
)

// SQLSTATEs: two of the function append, and what a server says that starts or
// stops.
const (
	codeWentBack  = "GA001"
	codeIsolation = "GA002"
	codeStarting  = "57P03"
)

// errStandby reports a server that only follows another one.
var errStandby = errors.New("the server is a standby, and a log is served by its primary: " +
	"name the primary in the URL, or all servers, as in postgres://host1,host2/database, or promote this one")

// errSilent reports a server that did not answer a read within Config.Patience or
// Config.Deadline.
var errSilent = errors.New("the server does not answer: look whether it and the network between are well")

const noLog = "the log's tables and functions are not there, or not for this role: check the schema and the search path, " +
	"and grant the role the rights that docs/eventstore.md lists"

// advice says by SQLSTATE what an operator can do about an error.
var advice = map[string]string{
	codeIsolation: "set default_transaction_isolation to read committed",
	"25006":       "the server is read-only: use the primary, and set default_transaction_read_only to off",
	"28000":       "check the role, and pg_hba.conf",
	"28P01":       "check the role's password",
	"3D000":       "create the database",
	"42501":       "grant the role the rights that docs/eventstore.md lists",
	"42883":       noLog,
	"42P01":       noLog,
	"53100":       "free space on the disk of the database server",
	"53200":       "give the database server more memory",
	"53300":       "close connections, or raise max_connections",
	"55P03":       "somebody holds a lock on the log: look into pg_locks",
	"57014":       "the server is too busy, or an administrator cancelled it",
	"57P01":       "the server's administrator ended the connection",
	codeStarting:  "the server is starting or stopping: wait",
	"58030":       "the database server's disk has failed",
}

// appendFailure says what an error of a call that was sent means for its batch.
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
		// The server ended the connection, perhaps while a finished commit
		// waited for its standby.
		f.Kind = batch.Lost
	default:
		f.Kind = rolledBack(e.Code)
	}
	return f
}

// fatal reports whether the error ended the connection and not only the
// statement. PANIC and FATAL do; the name is not translated.
func fatal(e *pgconn.PgError) bool {
	return e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC"
}

// rolledBack sorts the errors of statements by their SQLSTATE. An error that
// leaves the connection alive ended its transaction without a commit.
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

// isKnownKey reports whether an append was rolled back because a row with its
// key is there.
func isKnownKey(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && !fatal(e) && e.Code == "23505" // unique_violation
}

// reason describes an error without what a client or a log file must not see:
// the URL, the password, and the data of a row.
func reason(err error) string {
	var (
		e       *pgconn.PgError
		connect *pgconn.ConnectError
	)
	switch {
	case errors.As(err, &connect):
		text := "can't connect"
		if inner := errors.Unwrap(connect); inner != nil {
			text += ": " + attempts(inner.Error())
		}
		switch {
		case errors.Is(err, errStandby): // has said it
		case errors.As(err, &e):
			text += advise(e.Code)
		default:
			text += ": look whether the database server runs, and can be reached at this address"
		}
		return text
	case errors.As(err, &e):
		// Message names tables and constraints; Detail would quote values.
		return fmt.Sprintf("%s (SQLSTATE %s)%s", oneLine(e.Message), e.Code, advise(e.Code))
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out: look whether the database server is well"
	}
	return oneLine(err.Error())
}

func advise(code string) string {
	if text := advice[code]; text != "" {
		return ": " + text
	}
	return ""
}

// attempts is one line of what the driver says of its attempts to connect, one on
// each line. With TLS and without it at one address they often fail alike.
func attempts(s string) string {
	var distinct []string
	for line := range strings.Lines(s) {
		if line = oneLine(line); line != "" && !slices.Contains(distinct, line) {
			distinct = append(distinct, line)
		}
	}
	return strings.Join(distinct, "; ")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// failed wraps an error of a read.
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

// misconfigured reports whether trying again will not help, unlike with a server
// that is away, starts, stops, has too many connections or is a standby yet.
func misconfigured(err error) bool {
	var (
		e           *pgconn.PgError
		certificate *tls.CertificateVerificationError
	)
	switch {
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

// refused reports whether the server itself turned a connection down.
func refused(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) || errors.Is(err, errStandby)
}
