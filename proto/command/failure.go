package command

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Code is the kind of a failure. Clients rely on it.
type Code string

// The codes of the client protocol.
const (
	CodeBadRequest      Code = "bad_request"
	CodeUnsupported     Code = "unsupported"
	CodeUnauthenticated Code = "unauthenticated"
	CodeForbidden       Code = "forbidden"
	CodeNotFound        Code = "not_found"
	CodeRejected        Code = "rejected"
	CodeConflict        Code = "conflict"
	CodeKeyReused       Code = "key_reused"
	CodeCursorAhead     Code = "cursor_ahead"
	CodeTooLarge        Code = "too_large"
	CodeRateLimited     Code = "rate_limited"
	CodeBusy            Code = "busy"
	CodeUnavailable     Code = "unavailable"
	CodeTimeout         Code = "timeout"
	CodeInternal        Code = "internal"
	CodeReplaced        Code = "replaced"
)

// Retry is what a client can do about a failure.
type Retry string

const (
	// RetryNo means that sending the request again would fail again.
	RetryNo Retry = "no"
	// RetrySameKey means that the outcome is unknown. Sending the command
	// again with the same key returns the outcome, and executes the command if
	// it was not executed.
	RetrySameKey Retry = "same_key"
	// RetryLater means that the command was not executed.
	RetryLater Retry = "later"
)

// Failure is the error of a request that was refused or failed. Make one with the
// constructor of its code, such as [NotFound], which sets Retry. The constructors
// format their message as fmt.Sprintf does, but leave it unchanged if there are no
// arguments.
type Failure struct {
	Code    Code
	Reason  string // the aggregate's own code, for CodeRejected
	Message string // for people: what is wrong and what to do
	Retry   Retry
	After   time.Duration // minimum pause before the retry, or 0 if the client chooses
	Version *eventstore.Version
	Field   string // the member of data that is wrong, for CodeBadRequest

	// Key and Replayed are the command's, as in Result.
	Key      string
	Replayed bool

	// Elsewhere means that this node did not execute the command and that
	// another node may: this node is draining, or its program is too old for an
	// event. It is never sent to a client.
	Elsewhere bool

	// Cause is the error behind a CodeUnavailable that an operator can act on,
	// such as the database's. Nodes log it. It is never sent to a client.
	Cause string
}

func (f *Failure) Error() string { return string(f.Code) + ": " + f.Message }

// OnOtherNodes marks f as a failure of this node only, and returns it.
func (f *Failure) OnOtherNodes() *Failure {
	f.Elsewhere = true
	return f
}

// BadRequest refuses a request whose member field is wrong; field is "" if the
// request as a whole is.
func BadRequest(field, format string, args ...any) *Failure {
	f := failure(CodeBadRequest, RetryNo, format, args)
	f.Field = field
	return f
}

// Unsupported refuses a request for a feature that this version of the program does
// not implement.
func Unsupported(format string, args ...any) *Failure {
	return failure(CodeUnsupported, RetryNo, format, args)
}

// Unauthenticated refuses a client without a valid token.
func Unauthenticated(format string, args ...any) *Failure {
	return failure(CodeUnauthenticated, RetryNo, format, args)
}

// Forbidden refuses a request that the client has no right to make.
func Forbidden(format string, args ...any) *Failure {
	return failure(CodeForbidden, RetryNo, format, args)
}

// NotFound refuses a request for a name that does not exist.
func NotFound(format string, args ...any) *Failure {
	return failure(CodeNotFound, RetryNo, format, args)
}

// UnknownType refuses a request for an aggregate type that the catalog lacks.
func UnknownType(typ string) *Failure { return NotFound("unknown aggregate type %s", Quote(typ)) }

// UnknownCommand refuses a command that the aggregate type lacks. known lists the
// names of its commands, or is empty.
func UnknownCommand(typ, name string, known ...string) *Failure {
	f := NotFound("aggregate type %q has no command %s", typ, Quote(name))
	if len(known) > 0 {
		f.Message += "; it has " + strings.Join(known, ", ")
	}
	return f
}

// Rejected reports that a business rule of the aggregate forbids a command. reason
// is the aggregate's code for the rule.
func Rejected(reason, message string) *Failure {
	return &Failure{Code: CodeRejected, Reason: reason, Message: message, Retry: RetryNo}
}

// Conflict refuses a command that expected the stream at another version.
func Conflict(s eventstore.StreamID, version, expected eventstore.Version) *Failure {
	f := failure(CodeConflict, RetryNo, "%s is at version %d, not %d: get its state and decide again", []any{s, version, expected})
	f.Version = &version
	return f
}

// KeyReused refuses a command whose key belongs to a different command.
func KeyReused(key string) *Failure {
	f := failure(CodeKeyReused, RetryNo, "the key was used for another command (client, stream, command or data differ): use a new key for each command", nil)
	f.Key = key
	return f
}

// CursorAhead refuses a cursor that the log has not reached, because events
// that the client has seen were lost.
func CursorAhead(format string, args ...any) *Failure {
	return failure(CodeCursorAhead, RetryNo, format, args)
}

// TooLarge refuses a request or a result that exceeds a size limit.
func TooLarge(format string, args ...any) *Failure {
	return failure(CodeTooLarge, RetryNo, format, args)
}

// RateLimited refuses a request that exceeds a limit of its client. after is
// how long the client must wait; 0 leaves it to the client.
func RateLimited(after time.Duration, format string, args ...any) *Failure {
	f := failure(CodeRateLimited, RetryLater, format, args)
	f.After = after
	return f
}

// Busy refuses a command because a queue is full. The message names the queue. Busy
// adds the advice to retry.
func Busy(format string, args ...any) *Failure {
	return failure(CodeBusy, RetryLater, format+": send the command again later", args)
}

// Unavailable refuses a request that this node or the cluster cannot serve for
// the moment. Nothing was executed.
func Unavailable(format string, args ...any) *Failure {
	return failure(CodeUnavailable, RetryLater, format, args)
}

// OtherLog refuses a command of the program whose cause is in another log than the
// one that its owner has. Nothing was executed. The sender may try again for as long
// as its own log is the command's.
func OtherLog(cause, own string) *Failure {
	return Unavailable("the command's cause is in log %s, and its owner's log is %s: it was not executed", Quote(cause), Quote(own))
}

// Expired reports that the deadline of a command passed before it was begun.
func Expired() *Failure {
	return failure(CodeTimeout, RetryLater, "the command's time ran out before it was executed", nil)
}

// Timeout reports that an answer did not arrive in time.
func Timeout(retry Retry, format string, args ...any) *Failure {
	return failure(CodeTimeout, retry, format, args)
}

// Replaced reports that a newer session took the place of a member of a consumer
// group. The older one must stay away.
func Replaced(format string, args ...any) *Failure {
	return failure(CodeReplaced, RetryNo, format, args)
}

// Internal reports a fault of the program, which the node logs.
func Internal(retry Retry) *Failure {
	return failure(CodeInternal, retry, "internal error: the node's log has the details", nil)
}

func failure(code Code, retry Retry, format string, args []any) *Failure {
	f := &Failure{Code: code, Retry: retry, Message: format}
	if len(args) > 0 {
		f.Message = fmt.Sprintf(format, args...)
	}
	return f
}

// maxQuoted bounds the client's text that a message repeats, in bytes.
const maxQuoted = 64

// Clip shortens a client's text to at most 64 bytes of valid UTF-8, so that an
// error message can repeat it.
func Clip(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	return strings.ToValidUTF8(s[:maxQuoted], "") + "…"
}

// Quote is [Clip] in double quotes, with control characters escaped.
func Quote(s string) string { return strconv.Quote(Clip(s)) }
