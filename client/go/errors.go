package ganglion

import (
	"errors"
	"fmt"
)

// Code is the kind of an [Error].
type Code string

// The codes of the protocol, and then those of this client.
const (
	CodeBadRequest      Code = "bad_request"
	CodeUnsupported     Code = "unsupported"
	CodeUnauthenticated Code = "unauthenticated"
	CodeForbidden       Code = "forbidden"
	CodeNotFound        Code = "not_found" // the gateway knows no such type of aggregate or command
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
	CodeReplaced        Code = "replaced" // a newer session took the place of this member of a consumer group

	CodeCanceled  Code = "canceled" // the caller's context ended; errors.Is finds its error
	CodeClosed    Code = "closed"
	CodeQueueFull Code = "queue_full"
	CodeGap       Code = "gap"
	CodeHandler   Code = "handler"  // the application's handler failed for an event of a consumer group
	CodeProtocol  Code = "protocol" // the server broke the protocol
)

// Retry says what is known about the outcome of a failed request. The client
// itself retries after RetrySameKey and RetryLater; an application sees these
// values only if the client gave up the request.
type Retry string

const (
	RetryNo      Retry = "no"       // not executed, and would fail again
	RetrySameKey Retry = "same_key" // perhaps executed: send it again with the same key
	RetryLater   Retry = "later"    // not executed: send it again later
)

// Error is an error of a server or of this client. errors.Is compares its Code
// with the errors below, and its Reason with [Rejection].
type Error struct {
	Code    Code
	Message string
	Retry   Retry
	// Reason is the aggregate's own code, for a rejection.
	Reason string
	// Key is the key of the command.
	Key string
	// Field is the invalid member of the request.
	Field string
	// Version is the stream's version for a conflict, and the missing version for
	// a gap.
	Version uint64
	// Replayed means that an earlier command with this key was rejected, and that
	// this is its error.
	Replayed bool
	// Resumed means that a gateway has accepted this subscription before, so another one
	// may still serve it.
	Resumed bool

	cause error
}

// Targets for errors.Is.
var (
	// ErrRejected means that a business rule rejected the command. [Rejection]
	// matches one reason.
	ErrRejected error = &Error{Code: CodeRejected}
	// ErrConflict means that the stream was not at the version in WithExpect.
	ErrConflict error = &Error{Code: CodeConflict}
	// ErrUnauthenticated means that the client has no valid token.
	ErrUnauthenticated error = &Error{Code: CodeUnauthenticated}
	// ErrForbidden means that an access rule denied the request.
	ErrForbidden error = &Error{Code: CodeForbidden}
	// ErrCursorAhead means that the cursor is past the end of the log, or belongs
	// to another log: the server lost events that the application knows. Discard
	// the application's copy and start again.
	ErrCursorAhead error = &Error{Code: CodeCursorAhead}
	// ErrClosed means that the client or the subscription was closed. The error's
	// Retry shows whether a command may have been executed.
	ErrClosed error = &Error{Code: CodeClosed}
	// ErrQueueFull means that too many requests are pending. This one was not
	// sent.
	ErrQueueFull error = &Error{Code: CodeQueueFull}
	// ErrGap means that the server left out an event. The subscription has
	// ended, and no event after the gap was delivered.
	ErrGap error = &Error{Code: CodeGap}
	// ErrReplaced means that another process, or another call in this one, consumes
	// the group as the same member.
	ErrReplaced error = &Error{Code: CodeReplaced}
	// ErrRevoked is the cause of the end of a [Delivery]'s context: its segment now
	// belongs to another member, or the connection was lost. An event that was not
	// acknowledged is delivered again.
	ErrRevoked = errors.New("ganglion: the segment was revoked")
)

// Rejection returns a target for errors.Is that matches rejections with one of the
// aggregate's reasons, such as "too_low".
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

// Is reports whether target is an [Error] with the same Code and, if target has
// a Reason, the same Reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Reason == "" || t.Reason == e.Reason)
}

// Unwrap returns the cause, if it is an error from outside this package.
func (e *Error) Unwrap() error { return e.cause }

// wrap returns an error whose cause is an error from outside this package.
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
