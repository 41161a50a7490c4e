package eventstore

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrConflict reports that a stream is not at the expected version.
	// ConflictError has the details.
	ErrConflict = errors.New("eventstore: version conflict")

	// ErrKnownKeys reports that keys were used before. KnownKeysError has
	// their first answers.
	ErrKnownKeys = errors.New("eventstore: known keys")

	// ErrInvalid reports data that the database refuses. InvalidError says why.
	ErrInvalid = errors.New("eventstore: invalid data")

	// ErrUnknown reports that it could not be found out whether a unit was
	// stored. Sending the same keys again is safe.
	ErrUnknown = errors.New("eventstore: outcome unknown: the database went away while it was storing")

	// ErrUnavailable reports that the database can't be reached and that
	// nothing was stored.
	ErrUnavailable = errors.New("eventstore: database unavailable")

	// ErrMisconfigured reports a database that refuses this program until somebody
	// changes a configuration: a wrong password, a database that does not exist,
	// missing rights. Such an error is ErrUnavailable as well.
	ErrMisconfigured = errors.New("eventstore: the database refuses this program as it is configured")

	// ErrWentBack reports that the log lost events that were seen before: it
	// was restored from an older copy, or a standby that lagged was promoted.
	ErrWentBack = errors.New("eventstore: the log went back: events that this node has seen are gone; " +
		"restore them, or accept the loss with 'ganglion log accept-loss'")

	// ErrSchemaTooNew reports a database that a newer Ganglion has migrated.
	ErrSchemaTooNew = errors.New("eventstore: the database's schema is newer than this program")

	// ErrDamaged reports a log that breaks its own rules. DamagedError says where.
	ErrDamaged = errors.New("eventstore: damaged log")

	// ErrClosed reports a store that was closed.
	ErrClosed = errors.New("eventstore: closed")
)

// UnavailableError says why the database can't be used.
type UnavailableError struct {
	Reason        string
	Misconfigured bool // trying again will not help
}

func (e *UnavailableError) Error() string { return ErrUnavailable.Error() + ": " + e.Reason }

// Is makes errors.Is(err, ErrUnavailable) hold for every UnavailableError.
func (e *UnavailableError) Is(target error) bool {
	return target == ErrUnavailable || e.Misconfigured && target == ErrMisconfigured
}

// ConflictError says which stream moved, and how far.
type ConflictError struct {
	Stream           StreamID
	Expected, Actual Version
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("eventstore: append to %s: expected version %d, stream is at %d", e.Stream, e.Expected, e.Actual)
}

// Is makes errors.Is(err, ErrConflict) hold for every ConflictError.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// KnownKeysError gives the first answers of those keys of a unit that the log
// already knew, by rising Index.
type KnownKeysError struct {
	Stream StreamID
	Known  []First
}

func (e *KnownKeysError) Error() string {
	return fmt.Sprintf("eventstore: append to %s: %d known keys", e.Stream, len(e.Known))
}

// Is makes errors.Is(err, ErrKnownKeys) hold for every KnownKeysError.
func (e *KnownKeysError) Is(target error) bool { return target == ErrKnownKeys }

// InvalidError says why the database refuses a unit's data.
type InvalidError struct {
	Stream StreamID
	Reason string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("eventstore: append to %s: %s", e.Stream, e.Reason)
}

// Is makes errors.Is(err, ErrInvalid) hold for every InvalidError.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// DamagedError says where the log breaks its own rules.
type DamagedError struct {
	Position Position
	Reason   string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("eventstore: damaged log at position %d: %s", e.Position, e.Reason)
}

// Is makes errors.Is(err, ErrDamaged) hold for every DamagedError.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// WentBackError is [ErrWentBack] with what is known of the loss.
type WentBackError struct {
	// Seen is the newest position that was seen, or that another node told of.
	Seen   Position
	SeenAt time.Time // when its commit was decided
	// Head is where the log ends. If it is less than Seen, the positions between
	// the two are lost; else the log has other events in their place, and how
	// many were lost before those can't be told.
	Head   Position
	HeadAt time.Time // when that was decided; means nothing for an empty log
}

func (e *WentBackError) Error() string {
	if e.Head < e.Seen {
		return fmt.Sprintf("%v (this node has seen position %d and the log ends at %d: %d positions are gone)", ErrWentBack, e.Seen, e.Head, e.Seen-e.Head)
	}
	return fmt.Sprintf("%v (position %d, which this node has seen, has another event now; the log ends at %d)", ErrWentBack, e.Seen, e.Head)
}

// Unwrap returns ErrWentBack.
func (e *WentBackError) Unwrap() error { return ErrWentBack }
