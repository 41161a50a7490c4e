package stored

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/ganglion-es/ganglion/eventstore"
)

// MaxRestore bounds the commits of one Restore.
const MaxRestore = 10_000

// Restored is a checked and encoded commit of another log.
type Restored struct {
	Row
	Stream   eventstore.StreamID
	Position eventstore.Position
}

// Before returns the version of the stream before the commit.
func (r Restored) Before() int64 { return int64(r.Version) - int64(r.N) }

// Discontinued returns the error for a commit whose stream is at another version.
func (r Restored) Discontinued(actual int64) error {
	return &eventstore.RestoreError{
		Position: r.Position,
		Reason:   fmt.Sprintf("the commit continues version %d of %s, which is at version %d", r.Before(), r.Stream, actual),
	}
}

// PrepareRestore makes all checks that need no database: Append would accept
// every commit, the positions in the list have no hole, and neither have the
// versions of each stream. The error is an *eventstore.RestoreError.
func PrepareRestore(records []eventstore.Record) ([]Restored, error) {
	if len(records) > MaxRestore {
		return nil, &eventstore.RestoreError{Reason: fmt.Sprintf("%d commits together, at most %d are allowed", len(records), MaxRestore)}
	}
	versions := make(map[eventstore.StreamID]eventstore.Version)
	list := make([]Restored, len(records))
	for i := range records {
		r := &records[i]
		wrong := func(format string, args ...any) ([]Restored, error) {
			return nil, &eventstore.RestoreError{Position: r.Position, Reason: fmt.Sprintf(format, args...)}
		}
		n := len(r.Events)
		if n == 0 || r.Version < eventstore.Version(n) || r.Position < eventstore.Position(n) || r.Position > 1<<62 {
			return wrong("a commit of %d events has version %d", n, r.Version)
		}
		if i > 0 && r.First() != records[i-1].Position+1 {
			return wrong("it begins at %d and follows %d", r.First(), records[i-1].Position)
		}
		before := r.Version - eventstore.Version(n)
		if known, ok := versions[r.Stream]; ok && known != before {
			return wrong("version %d of %s follows version %d", before+1, r.Stream, known)
		}
		versions[r.Stream] = r.Version
		u, err := Prepare(eventstore.Unit{Stream: r.Stream, Expected: before, Commands: []eventstore.Command{{
			Key: r.Key, Hash: r.Hash, At: r.At, Meta: r.Meta, Events: r.Events,
		}}})
		var invalid *eventstore.InvalidError
		if errors.As(err, &invalid) {
			return wrong("%s", invalid.Reason)
		}
		if err != nil {
			return nil, err
		}
		list[i] = Restored{Row: u.Rows[0], Stream: r.Stream, Position: r.Position}
	}
	return list, nil
}

// NotNext returns an error if a commit does not follow the head of the log.
func NotNext(first *Restored, head eventstore.Position) error {
	if begin := first.Position - eventstore.Position(first.N) + 1; begin != head+1 {
		return &eventstore.RestoreError{
			Position: begin,
			Reason:   fmt.Sprintf("the log ends at %d, so the next position is %d", head, head+1),
		}
	}
	return nil
}

// NotAdopted returns the error for a log that has events and therefore keeps its
// own id.
func NotAdopted(id string, head eventstore.Position) error {
	return &eventstore.RestoreError{
		Reason: fmt.Sprintf("the log already has positions up to %d as log %s, and keeps that id", head, id),
	}
}

// ScanRecord reads a row: the columns of Fields in their order, and the hash.
func ScanRecord(scan func(...any) error) (r eventstore.Record, err error) {
	var (
		f    Fields
		hash []byte
	)
	if err := scan(append(f.Columns(), &hash)...); err != nil {
		return r, err
	}
	if r.Commit, err = f.Commit(); err != nil {
		return r, err
	}
	if len(hash) != len(r.Hash) {
		return r, &eventstore.DamagedError{
			Position: r.Position, Reason: fmt.Sprintf("the hash has %d bytes, not %d", len(hash), len(r.Hash)),
		}
	}
	copy(r.Hash[:], hash)
	return r, nil
}

// Texts returns the JSON texts that a log stores for a record.
func Texts(r *eventstore.Record) (meta, events []byte, err error) {
	if meta, err = encodeMeta(r.Meta); err != nil {
		return nil, nil, fmt.Errorf("the meta data %w", err)
	}
	events, err = encodeEvents(r.Events)
	return meta, events, err
}

// CheckLogID returns an error if id is not the incarnation of a log.
func CheckLogID(id string) error {
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return &eventstore.RestoreError{Reason: fmt.Sprintf("%.64q is not a log's id: it is a UUID in lower case", id)}
	}
	return nil
}
