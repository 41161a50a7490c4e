package stored

import (
	"fmt"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Dense reports a hole in a page of the log that was read after a position.
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
			reason = fmt.Sprintf("positions %d to %d are there twice", first, after)
		}
		return &eventstore.DamagedError{Position: after + 1, Reason: reason}
	}
	return nil
}

// Contiguous reports a hole in a page of a stream that was read after a version.
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
			reason = fmt.Sprintf("versions %d to %d of %s are there twice", first, after, c.Stream)
		}
		return &eventstore.DamagedError{Position: c.First(), Reason: reason}
	}
	return nil
}

// Fields are the columns of a commit as they come from a table.
type Fields struct {
	Position, N, Version int64
	Type, ID, Key        string
	Micros               int64
	Meta, Events         []byte // not shared with anybody else
}

// Commit makes a commit of a row. What the program can't have written is
// reported as damage.
func (f *Fields) Commit() (eventstore.Commit, error) {
	damaged := func(reason string) (eventstore.Commit, error) {
		return eventstore.Commit{}, &eventstore.DamagedError{Position: eventstore.Position(max(f.Position, 0)), Reason: reason}
	}
	if f.N < 1 || f.Position < f.N || f.Version < f.N {
		return damaged(fmt.Sprintf("a row of %d events says position %d and version %d", f.N, f.Position, f.Version))
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

// Page gathers a page for Load, row by row: perhaps a snapshot, as a row of no
// events whose key is the fingerprint, then commits after it. Rows past
// eventstore.LoadBytes are left out; their events may be null.
type Page struct {
	eventstore.Loaded
	bytes int
}

// Full reports whether the page takes no more rows: the caller need not copy
// or read them.
func (l *Page) Full() bool { return l.bytes >= eventstore.LoadBytes }

// Add takes the next row.
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

// Check ends the page of a request. It reports a hole, as Contiguous does.
func (l *Page) Check(r eventstore.LoadRequest) (eventstore.Loaded, error) {
	l.More = l.More || len(l.Commits) == r.Limit
	if l.Snapshot == nil {
		return l.Loaded, Contiguous(l.Commits, r.After)
	}
	return l.Loaded, Contiguous(l.Commits, l.Snapshot.Version)
}

// Window reports a hole in a range of positions that was only counted: rows
// whose first event follows first and whose last is at upTo, with sum events.
func Window(after eventstore.Position, first, upTo, sum int64) error {
	if first >= 0 && eventstore.Position(first) <= after && sum == upTo-first {
		return nil
	}
	return &eventstore.DamagedError{
		Position: after + 1,
		Reason:   fmt.Sprintf("positions are missing or doubled among %d to %d", after+1, upTo),
	}
}

// CheckLoad reports what is wrong with a request, before a database sees it.
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

// CheckSnapshot reports what keeps a snapshot from being stored.
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
