package stored

import (
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Dense returns an error if a page of the log, read after a position, has a hole.
func Dense(page []eventstore.Commit, after eventstore.Position) error {
	for i := range page {
		c := &page[i]
		first := c.First()
		if first == after+1 || i == 0 && first <= after {
			after = c.Position
			continue
		}
		reason := fmt.Sprintf("positions %d to %d are missing", after+1, first-1)
		if first <= after {
			reason = fmt.Sprintf("positions %d to %d exist twice", first, after)
		}
		return &eventstore.DamagedError{Position: after + 1, Reason: reason}
	}
	return nil
}

// Contiguous returns an error if a page of a stream, read after a version, has a
// hole.
func Contiguous(page []eventstore.Commit, after eventstore.Version) error {
	for i := range page {
		c := &page[i]
		first := c.FirstVersion()
		if first == after+1 || i == 0 && first <= after {
			after = c.Version
			continue
		}
		reason := fmt.Sprintf("versions %d to %d of %s are missing", after+1, first-1, c.Stream)
		if first <= after {
			reason = fmt.Sprintf("versions %d to %d of %s exist twice", first, after, c.Stream)
		}
		return &eventstore.DamagedError{Position: c.First(), Reason: reason}
	}
	return nil
}

// Fields are the columns of a commit, as a database returns them.
type Fields struct {
	Position, N, Version int64
	Type, ID, Key        string
	Micros               int64
	Meta, Events         []byte // owned by the Fields
}

// Columns returns the destinations of a scan: position, number of events, type,
// id, version, key, microseconds since 1970, meta data and events.
func (f *Fields) Columns() []any {
	return []any{&f.Position, &f.N, &f.Type, &f.ID, &f.Version, &f.Key, &f.Micros, &f.Meta, &f.Events}
}

// Commit decodes a row. The error is an *eventstore.DamagedError for a row that
// this program cannot have written.
func (f *Fields) Commit() (eventstore.Commit, error) {
	damaged := func(reason string) (eventstore.Commit, error) {
		return eventstore.Commit{}, &eventstore.DamagedError{Position: eventstore.Position(max(f.Position, 0)), Reason: reason}
	}
	if f.N < 1 || f.Position < f.N || f.Version < f.N {
		return damaged(fmt.Sprintf("a row of %d events has position %d and version %d", f.N, f.Position, f.Version))
	}
	events, err := DecodeEvents(f.Events, int(f.N))
	if err != nil {
		return damaged(err.Error())
	}
	meta, err := DecodeMeta(f.Meta)
	if err != nil {
		return damaged("the meta data is not the JSON that this program writes")
	}
	return eventstore.Commit{
		Position: eventstore.Position(f.Position),
		Stream:   eventstore.StreamID{Type: f.Type, ID: f.ID},
		Version:  eventstore.Version(f.Version),
		Key:      f.Key,
		At:       FromMicros(f.Micros),
		Meta:     meta,
		Events:   events,
	}, nil
}

// Page builds a page for Load from rows. A first row without events is a
// snapshot, and its key is the fingerprint. The other rows are the commits after
// it. Rows past eventstore.LoadBytes are omitted; their events may be null.
type Page struct {
	eventstore.Loaded
	bytes int
}

// Full reports whether the page is full, so that the caller need not read further
// rows.
func (l *Page) Full() bool { return l.bytes >= eventstore.LoadBytes }

// Add adds the next row.
func (l *Page) Add(f *Fields) error {
	if f.N == 0 && l.Snapshot == nil && len(l.Commits) == 0 {
		l.Snapshot = &eventstore.Snapshot{
			Stream:  eventstore.StreamID{Type: f.Type, ID: f.ID},
			Version: eventstore.Version(f.Version), Position: eventstore.Position(f.Position), At: FromMicros(f.Micros),
			Fingerprint: f.Key, State: f.Events,
		}
		return nil
	}
	if l.Full() || f.Events == nil {
		l.More, l.bytes = true, eventstore.LoadBytes
		return nil
	}
	l.bytes += len(f.Events)
	c, err := f.Commit()
	l.Commits = append(l.Commits, c)
	return err
}

// Check completes the page of a request. It returns the errors of Contiguous.
func (l *Page) Check(r eventstore.LoadRequest) (eventstore.Loaded, error) {
	l.More = l.More || len(l.Commits) == r.Limit
	if l.Snapshot == nil {
		return l.Loaded, Contiguous(l.Commits, r.After)
	}
	return l.Loaded, Contiguous(l.Commits, l.Snapshot.Version)
}

// Window returns an error if a range of rows that was counted but not read has a
// hole. first is the position before the first event, upTo the position of the
// last, and sum the number of events.
func Window(after eventstore.Position, first, upTo, sum int64) error {
	if first >= 0 && eventstore.Position(first) <= after && sum == upTo-first {
		return nil
	}
	return &eventstore.DamagedError{
		Position: after + 1,
		Reason:   fmt.Sprintf("positions from %d to %d are missing or exist twice", after+1, upTo),
	}
}

// CheckLoad returns an error if a request is invalid.
func CheckLoad(r eventstore.LoadRequest) error {
	err := r.Stream.Validate()
	if err == nil && r.Fingerprint != "" {
		err = checkText(r.Fingerprint, MaxNameBytes)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrInvalid, err)
	}
	return nil
}

// CheckSnapshot returns an error if a snapshot cannot be stored.
func CheckSnapshot(s eventstore.Snapshot) error {
	err := s.Stream.Validate()
	if err == nil {
		err = checkText(s.Fingerprint, MaxNameBytes)
	}
	if err == nil {
		err = checkJSON(s.State)
	}
	if err != nil {
		return fmt.Errorf("%w: the snapshot of %s: %w", eventstore.ErrInvalid, s.Stream, err)
	}
	return nil
}

// Signed converts a position or a version to SQL's integers, which end at 2^63-1.
func Signed[T ~uint64](n T) int64 { return int64(min(uint64(n), 1<<63-1)) }
