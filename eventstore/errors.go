package eventstore

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrConflict reports that a stream is not at the expected version. See
	// [ConflictError].
	ErrConflict = errors.New("eventstore: version conflict")

	// ErrKnownKeys reports that the log has keys of the unit. See
	// [KnownKeysError].
	ErrKnownKeys = errors.New("eventstore: known keys")

	// ErrInvalid reports data that cannot be stored. See [InvalidError].
	ErrInvalid = errors.New("eventstore: invalid data")

	// ErrUnknown reports that a unit may or may not have been stored. The caller
	// may safely append the same keys again.
	ErrUnknown = errors.New("eventstore: outcome unknown: the database went away while it was storing")

	// ErrUnavailable reports that the database is not reachable and that nothing
	// was stored.
	ErrUnavailable = errors.New("eventstore: database unavailable")

	// ErrMisconfigured reports that the database refuses this program until an
	// operator changes the configuration: the password is wrong, or the database
	// or a right is missing. Such an error is also ErrUnavailable.
	ErrMisconfigured = errors.New("eventstore: the database refuses this program as it is configured")

	// ErrWentBack reports that the log lacks events that this store has seen: it
	// was restored from an older copy, or a standby that lagged was promoted.
	ErrWentBack = errors.New("eventstore: the log went back: events that this node has seen are gone; " +
		"restore them, or accept the loss with 'ganglion log accept-loss'")

	// ErrSchemaTooNew reports a log that a newer program has migrated.
	ErrSchemaTooNew = errors.New("eventstore: the database's schema is newer than this program")

	// ErrDamaged reports a log that breaks its own rules. See [DamagedError].
	ErrDamaged = errors.New("eventstore: damaged log")

	// ErrClosed reports a closed store.
	ErrClosed = errors.New("eventstore: closed")
)

// UnavailableError is [ErrUnavailable] with the reason.
type UnavailableError struct {
	Reason        string
	Misconfigured bool // the error is also ErrMisconfigured: a retry does not help
}

func (e *UnavailableError) Error() string { return ErrUnavailable.Error() + ": " + e.Reason }

// Is makes errors.Is(err, ErrUnavailable) hold for every UnavailableError.
func (e *UnavailableError) Is(target error) bool {
	return target == ErrUnavailable || e.Misconfigured && target == ErrMisconfigured
}

// ConflictError is [ErrConflict] with the versions.
type ConflictError struct {
	Stream           StreamID
	Expected, Actual Version
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("eventstore: append to %s: expected version %d, stream is at %d", e.Stream, e.Expected, e.Actual)
}

// Is makes errors.Is(err, ErrConflict) hold for every ConflictError.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// KnownKeysError is [ErrKnownKeys] with the first outcomes of the known keys, in
// the order of Index.
type KnownKeysError struct {
	Stream StreamID
	Known  []First
}

func (e *KnownKeysError) Error() string {
	return fmt.Sprintf("eventstore: append to %s: %d known keys", e.Stream, len(e.Known))
}

// Is makes errors.Is(err, ErrKnownKeys) hold for every KnownKeysError.
func (e *KnownKeysError) Is(target error) bool { return target == ErrKnownKeys }

// InvalidError is [ErrInvalid] with the reason.
type InvalidError struct {
	Stream StreamID
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("eventstore: append to %s: %s", e.Stream, e.Reason)
}

// Is makes errors.Is(err, ErrInvalid) hold for every InvalidError.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// DamagedError is [ErrDamaged] with the position.
type DamagedError struct {
	Position Position
	Reason   string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("eventstore: damaged log at position %d: %s", e.Position, e.Reason)
}

// Is makes errors.Is(err, ErrDamaged) hold for every DamagedError.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// WentBackError is [ErrWentBack] with the extent of the loss.
type WentBackError struct {
	// Seen is the newest position that this store or another node has seen.
	Seen   Position
	SeenAt time.Time // when its commit was decided
	// Head is the end of the log. If it is less than Seen, the positions between
	// the two are lost. Otherwise the log has other events at some of the seen
	// positions, and the extent of the loss is unknown.
	Head   Position
	HeadAt time.Time // when the commit at Head was decided; undefined for an empty log
}

func (e *WentBackError) Error() string {
	if e.Head < e.Seen {
		return fmt.Sprintf("%v (this node has seen position %d and the log ends at %d: %d positions are gone)", ErrWentBack, e.Seen, e.Head, e.Seen-e.Head)
	}
	return fmt.Sprintf("%v (position %d, which this node has seen, has another event now; the log ends at %d)", ErrWentBack, e.Seen, e.Head)
}

// Unwrap returns ErrWentBack.
func (e *WentBackError) Unwrap() error { return ErrWentBack }
