package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
)

// SQLSTATEs of the function append.
const (
	codeWentBack  = "GA001"
	codeIsolation = "GA002"
)

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

// reason describes an error without what a client or a log file must not see:
// the URL, the password, and the data of a row.
func reason(err error) string {
	var (
		e       *pgconn.PgError
		connect *pgconn.ConnectError
	)
	switch {
	case errors.As(err, &connect):
		if inner := errors.Unwrap(connect); inner != nil {
			return "can't connect: " + oneLine(inner.Error())
		}
		return "can't connect"
	case errors.As(err, &e):
		// Message names tables and constraints; Detail would quote values.
		return fmt.Sprintf("%s (SQLSTATE %s)", oneLine(e.Message), e.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out"
	}
	return oneLine(err.Error())
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// failed wraps an error of a read.
func (s *Store) failed(ctx context.Context, op string, err error) error {
	for _, ours := range []error{eventstore.ErrWentBack, eventstore.ErrClosed, eventstore.ErrDamaged} {
		if errors.Is(err, ours) {
			return err
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("postgres: %s: %w", op, context.Cause(ctx))
	}
	return fmt.Errorf("%w: postgres: %s: %s", eventstore.ErrUnavailable, op, reason(err))
}

// broken reports whether an error is the connection's and not the statement's,
// so that a read may be tried again on another one.
func broken(err error) bool {
	var e *pgconn.PgError
	return !errors.As(err, &e) || fatal(e)
}
