package stored

import (
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
)

// MaxRestore bounds the commits of one Restore.
const MaxRestore = 10_000

// Restored is a commit of another log that was checked and encoded.
type Restored struct {
	Row
	Stream   eventstore.StreamID
	Position eventstore.Position
}

// PrepareRestore checks all that needs no database: every commit is one that
// Append would take, positions are dense from the first one on, and within the
// list each stream's versions are contiguous. The error is an
// *eventstore.RestoreError.
func PrepareRestore(records []eventstore.Record) ([]Restored, error) {
	if len(records) > MaxRestore {
		return nil, &eventstore.RestoreError{Reason: fmt.Sprintf("%d commits at once, at most %d are allowed", len(records), MaxRestore)}
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
			return wrong("a commit of %d events says version %d", n, r.Version)
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

// NotNext reports commits that don't begin where a log ends.
func NotNext(first *Restored, head eventstore.Position) error {
	if begin := first.Position - eventstore.Position(first.N) + 1; begin != head+1 {
		return &eventstore.RestoreError{
			Position: begin,
			Reason:   fmt.Sprintf("the log ends at %d, so the next position is %d", head, head+1),
		}
	}
	return nil
}

// NotAdopted reports a log that already has a history of its own.
func NotAdopted(id string, head eventstore.Position) error {
	return &eventstore.RestoreError{
		Reason: fmt.Sprintf("the log already holds positions up to %d as log %s, and keeps that id", head, id),
	}
}

// Record makes a record of a row and its hash.
func (f *Fields) Record(hash []byte) (eventstore.Record, error) {
	c, err := f.Commit()
	if err != nil {
		return eventstore.Record{}, err
	}
	r := eventstore.Record{Commit: c}
	if len(hash) != len(r.Hash) {
		return eventstore.Record{}, &eventstore.DamagedError{
			Position: c.Position, Reason: fmt.Sprintf("the hash has %d bytes, not %d", len(hash), len(r.Hash)),
		}
	}
	copy(r.Hash[:], hash)
	return r, nil
}

// DenseRecords is Dense for records.
func DenseRecords(page []eventstore.Record, after eventstore.Position) error {
	commits := make([]eventstore.Commit, len(page))
	for i := range page {
		commits[i] = page[i].Commit
	}
	return Dense(commits, after)
}

// Texts returns the JSON texts that a log keeps of a record.
func Texts(r *eventstore.Record) (meta, events []byte, err error) {
	if meta, err = encodeMeta(r.Meta); err != nil {
		return nil, nil, fmt.Errorf("the meta data %w", err)
	}
	events, err = encodeEvents(r.Events)
	return meta, events, err
}

// CheckLogID reports what is no incarnation of a log.
func CheckLogID(id string) error {
	ok := len(id) == 36
	for i := 0; ok && i < len(id); i++ {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			ok = id[i] == '-'
		} else {
			ok = '0' <= id[i] && id[i] <= '9' || 'a' <= id[i] && id[i] <= 'f'
		}
	}
	if !ok {
		return &eventstore.RestoreError{Reason: fmt.Sprintf("%.64q is no log's id: it is a UUID in lower case", id)}
	}
	return nil
}
