package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ganglion-es/ganglion/eventstore"
)

// ErrOtherHistory reports a log that is no earlier part of the file: it holds
// something else, or more.
var ErrOtherHistory = errors.New("the log is not an earlier part of the exported one")

// Import configures an import.
type Import struct {
	// KeepID gives the log the id of the one that was exported, so that
	// clients' cursors stay good. Only a log that is empty can take it, and
	// the exported one must never be written to again: two logs that go on
	// under one id would be taken for one.
	//
	// By default a log keeps the id it has, and clients that come with the id
	// of the exported one are told to start again.
	KeepID bool

	// Progress is told up to which position the log holds the file.
	Progress func(at eventstore.Position)
}

// Run reads a file into a log. What the log holds already must be what the
// file says, and is left alone; so an import that was interrupted goes on where
// it ended. Nobody else may append to the log meanwhile: the import would
// end with an error, and leave a log that is no longer a part of the file.
//
// The error is a *FileError for what is wrong with the file, ErrOtherHistory
// for a log that it can't be imported into, and *eventstore.RestoreError for a
// commit that contradicts those before it. What was imported before the
// error stays.
func (m Import) Run(ctx context.Context, log eventstore.Mover, file io.Reader) (Result, error) {
	in := importer{Import: m, log: log, lines: newLines(file)}
	err := in.run(ctx)
	in.res.Log = log.LogID()
	if err != nil {
		return in.res, fmt.Errorf("transfer: import: %w", err)
	}
	return in.res, nil
}

type importer struct {
	Import
	log   eventstore.Mover
	lines *lines
	res   Result

	head    eventstore.Position // of the log at the start
	at      eventstore.Position // of the last line
	commits int64               // lines so far

	known   []eventstore.Record // of the log, to compare lines with
	pending []eventstore.Record // to be restored
	bytes   int                 // in pending
	a, b    []byte
}

func (m *importer) run(ctx context.Context) error {
	h, err := m.lines.header()
	if err != nil {
		return err
	}
	if err := m.begin(ctx, h); err != nil {
		return err
	}
	for {
		text, err := m.lines.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, errCut):
			if err := m.flush(ctx); err != nil {
				return err
			}
			return &FileError{m.lines.line + 1, fmt.Sprintf("the file is cut off after position %d: "+
				"the log holds what is there; continue the export, or copy the file again, and import it once more", m.at)}
		case err != nil:
			return errors.Join(err, m.flush(ctx))
		}
		if e, ok := parseEnd(text); ok {
			return m.end(ctx, e)
		}
		if err := m.line(ctx, text); err != nil {
			return err
		}
	}
}

// begin compares the log with the file's first line.
func (m *importer) begin(ctx context.Context, h Header) error {
	var err error
	if m.head, err = m.log.Head(ctx); err != nil {
		return err
	}
	if h.After > m.head {
		return fmt.Errorf("the file begins after position %d and the log ends at %d: import what lies between first", h.After, m.head)
	}
	key, err := anchor(ctx, m.log, h.After)
	if err != nil {
		return err
	}
	if key != h.Key {
		return fmt.Errorf("%w: the file begins after the commit %q at position %d, which the log does not hold", ErrOtherHistory, h.Key, h.After)
	}
	m.at, m.res.Head = h.After, h.After
	if m.KeepID {
		return m.log.Adopt(ctx, h.Log)
	}
	return nil
}

// line takes one commit: to be compared, or to be restored.
func (m *importer) line(ctx context.Context, text []byte) error {
	r, err := parseRow(text)
	if err != nil {
		return m.wrong(ctx, "not a commit: %v", err)
	}
	if r.First() != m.at+1 {
		return m.wrong(ctx, "position %d follows position %d: lines are missing, or in another order", r.First(), m.at)
	}
	m.at = r.Position
	m.commits++
	if r.First() <= m.head {
		return m.compare(ctx, r)
	}
	m.pending = append(m.pending, r)
	if m.bytes += len(text); len(m.pending) >= page || m.bytes >= pageBytes {
		return m.flush(ctx)
	}
	return nil
}

// wrong reports a line that is no commit. What comes before it is imported.
func (m *importer) wrong(ctx context.Context, format string, args ...any) error {
	return errors.Join(m.lines.wrong(format, args...), m.flush(ctx))
}

// compare compares a commit of the file with the one that the log has there.
func (m *importer) compare(ctx context.Context, r eventstore.Record) error {
	if len(m.known) == 0 {
		var err error
		if m.known, err = m.log.Records(ctx, r.First()-1, page); err != nil {
			return err
		}
	}
	if len(m.known) > 0 {
		var err error
		if m.a, err = appendRow(m.a[:0], &r); err != nil {
			return m.lines.wrong("%v", err)
		}
		if m.b, err = appendRow(m.b[:0], &m.known[0]); err != nil {
			return err
		}
	}
	if len(m.known) == 0 || !bytes.Equal(m.a, m.b) {
		return fmt.Errorf("%w: at position %d it holds something else than line %d", ErrOtherHistory, r.Position, m.lines.line)
	}
	m.known = m.known[1:]
	m.res.Head = r.Position
	if len(m.known) == 0 {
		m.tell()
	}
	return nil
}

// flush restores what is pending.
func (m *importer) flush(ctx context.Context) error {
	if len(m.pending) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := m.log.Restore(ctx, m.pending); err != nil {
		return err
	}
	m.res.Commits += int64(len(m.pending))
	for i := range m.pending {
		m.res.Events += int64(len(m.pending[i].Events))
	}
	m.res.Head = m.pending[len(m.pending)-1].Position
	m.pending, m.bytes = m.pending[:0], 0
	m.tell()
	return nil
}

func (m *importer) tell() {
	if m.Progress != nil {
		m.Progress(m.res.Head)
	}
}

// end checks the last line.
func (m *importer) end(ctx context.Context, e end) error {
	if *e.End != m.at || e.Commits != m.commits {
		return m.wrong(ctx, "the file should have %d commits up to position %d, and has %d up to %d", e.Commits, *e.End, m.commits, m.at)
	}
	if m.head > m.at {
		return fmt.Errorf("%w: it goes on to position %d, and the file ends at %d", ErrOtherHistory, m.head, m.at)
	}
	if err := m.flush(ctx); err != nil {
		return err
	}
	if _, err := m.lines.next(); !errors.Is(err, io.EOF) {
		return &FileError{m.lines.line, "something follows the last line"}
	}
	return nil
}
