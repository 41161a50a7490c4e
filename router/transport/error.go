package transport

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Code says what kind of error a peer has answered.
type Code string

// The codes of errors.
const (
	// Unavailable peers cannot be reached, or broke the connection.
	Unavailable Code = "unavailable"
	// Unimplemented calls are not known to the peer's program, or not part of its roles.
	Unimplemented Code = "unimplemented"
	// FailedPrecondition means that this peer never does what was asked in its present
	// role or version.
	FailedPrecondition Code = "failed_precondition"
	// Aborted calls may succeed if they are repeated.
	Aborted Code = "aborted"
	// InvalidArgument means that the message is wrong.
	InvalidArgument Code = "invalid_argument"
	// ResourceExhausted means that a message is too large.
	ResourceExhausted Code = "resource_exhausted"
	// Canceled calls were ended by the caller, or took longer than the caller's deadline.
	Canceled Code = "canceled"
	// Internal errors have no other code.
	Internal Code = "internal"
)

var statuses = map[Code]int{
	Unavailable: http.StatusServiceUnavailable, Unimplemented: http.StatusNotImplemented, FailedPrecondition: http.StatusPreconditionFailed,
	Aborted: http.StatusConflict, InvalidArgument: http.StatusBadRequest, ResourceExhausted: http.StatusRequestEntityTooLarge,
	Canceled: http.StatusRequestTimeout, Internal: http.StatusInternalServerError,
}

// Error is an error that crosses the wire.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`

	cause error // on the side where it occurred
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, if this side knows it.
func (e *Error) Unwrap() error { return e.cause }

// Errorf returns an error with a code. The verb %w keeps a cause for this process.
func Errorf(code Code, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{code, err.Error(), errors.Unwrap(err)}
}

// CodeOf returns the code of an error: "" for nil, and Internal for an error that is
// not of this package or of a context.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	}
	return Internal
}

// wire returns the form of an error that crosses the wire.
func wire(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeOf(err), Message: err.Error()}
}

func unimplemented(name string) error {
	return Errorf(Unimplemented, "this node does not serve %s: it is older than the caller, or has another role", name)
}
