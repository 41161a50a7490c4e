package ganglion

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an Error is.
type Code string

// The codes of the protocol, and below them those of this client.
const (
	CodeBadRequest      Code = "bad_request"
	CodeUnsupported     Code = "unsupported"
	CodeUnauthenticated Code = "unauthenticated"
	CodeForbidden       Code = "forbidden"
	CodeNotFound        Code = "not_found" // no such type of aggregate, or command
	CodeRejected        Code = "rejected"
	CodeConflict        Code = "conflict"
	CodeKeyReused       Code = "key_reused" // the key was used with another client, command or data
	CodeCursorAhead     Code = "cursor_ahead"
	CodeTooLarge        Code = "too_large"
	CodeRateLimited     Code = "rate_limited"
	CodeBusy            Code = "busy"
	CodeUnavailable     Code = "unavailable"
	CodeTimeout         Code = "timeout"
	CodeInternal        Code = "internal"

	CodeCanceled  Code = "canceled" // the caller's context ended; errors.Is finds its error
	CodeClosed    Code = "closed"
	CodeQueueFull Code = "queue_full"
	CodeGap       Code = "gap"
	CodeProtocol  Code = "protocol" // the server said what it should not have said
)

// Retry says what is known of a failed request, and so what to do about it.
// The client itself does what RetrySameKey and RetryLater ask for; they reach
// an application only with what the client had to give up.
type Retry string

const (
	RetryNo      Retry = "no"       // it did not happen, and would fail again
	RetrySameKey Retry = "same_key" // whether it happened is unknown: send it again with the same key
	RetryLater   Retry = "later"    // it did not happen
)

// Error is every error of a server, and of this client. errors.Is compares
// its Code with those of the errors below, and with Rejection its Reason too.
type Error struct {
	Code    Code
	Message string
	Retry   Retry
	// Reason is the domain's own code, of a rejection.
	Reason string
	// Key is that of the command.
	Key string
	// Field is the member that is wrong.
	Field string
	// Version is the stream's, of a conflict; the one that is missing, of a gap.
	Version uint64
	// Replayed tells that this command had been refused before, and that this
	// is its first answer.
	Replayed bool

	cause error
}

// Errors to compare with by errors.Is.
var (
	// ErrRejected is a business rule that said no; Rejection is a certain one.
	ErrRejected error = &Error{Code: CodeRejected}
	// ErrConflict is a stream that was not at the version that WithExpect
	// named.
	ErrConflict error = &Error{Code: CodeConflict}
	// ErrUnauthenticated is a client without a valid token.
	ErrUnauthenticated error = &Error{Code: CodeUnauthenticated}
	// ErrForbidden is an access rule that said no.
	ErrForbidden error = &Error{Code: CodeForbidden}
	// ErrCursorAhead is a cursor past the end of the log, or of another log:
	// what the application knows was lost there. Throw it away and start again.
	ErrCursorAhead error = &Error{Code: CodeCursorAhead}
	// ErrClosed is a client or a subscription that was closed. The Retry of a
	// command says whether it may have happened.
	ErrClosed error = &Error{Code: CodeClosed}
	// ErrQueueFull is a request too many that waits for its answer. It was
	// not sent.
	ErrQueueFull error = &Error{Code: CodeQueueFull}
	// ErrGap is something that the server left out. The subscription has
	// ended, and nothing after the gap was delivered.
	ErrGap error = &Error{Code: CodeGap}
)

// Rejection returns the rejection with a reason of the domain's, to compare
// with by errors.Is: Rejection("too_low").
func Rejection(reason string) error { return &Error{Code: CodeRejected, Reason: reason} }

func (e *Error) Error() string {
	s := "ganglion: " + string(e.Code)
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Is makes errors.Is hold for errors of one code and, if target has a
// reason, of that reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Reason == "" || t.Reason == e.Reason)
}

// Unwrap returns what the failure came from, if it came from outside.
func (e *Error) Unwrap() error { return e.cause }

// wrap makes an error of what came from outside.
func wrap(code Code, retry Retry, what string, cause error) *Error {
	var said *Error
	if errors.As(cause, &said) {
		cause = said.cause // the code and the retry are this error's
		what = fmt.Sprintf("%s: %s", what, said.Message)
	} else {
		what = fmt.Sprintf("%s: %v", what, cause)
	}
	return &Error{Code: code, Retry: retry, Message: what, cause: cause}
}
