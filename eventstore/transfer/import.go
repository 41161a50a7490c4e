package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// ErrOtherHistory reports that the log is not a prefix of the exported log: it
// has other commits, or more of them.
var ErrOtherHistory = errors.New("the log is not a prefix of the exported log")

// Import configures an import.
type Import struct {
	// KeepID gives the log the id of the exported log, so that clients' cursors
	// stay valid. Only an empty log can take another id. No program may write to
	// the exported log again, because clients cannot tell two logs of one id
	// apart.
	//
	// By default the log keeps its own id, and clients that have a cursor of the
	// exported log must start again. It then counts as a copy: wake-ups are paused
	// until an operator resumes them.
	KeepID bool

	// Progress is called with the position up to which the log has the file's
	// commits.
	Progress func(at eventstore.Position)
}

// Run reads a file into a log. Commits that the log already has must equal the
// file's commits, so Run also continues an interrupted import. No other program
// may append to the log during the import: the import would fail, and the log
// would no longer be a prefix of the exported log.
//
// The error is a *FileError if the file is invalid, ErrOtherHistory if the log is
// not a prefix of the exported log, and an *eventstore.RestoreError for a commit
// that contradicts earlier ones. Commits before the error stay imported.
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

	isCopy  bool                // the log has another id, and its reactions are not paused yet
	head    eventstore.Position // of the log at the start
	at      eventstore.Position // of the last line
	commits int64               // lines so far

	known   []eventstore.Record // of the log, to compare with lines
	pending []eventstore.Record // not yet in the log
	bytes   int                 // of pending
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
		case isEnd(err):
			if err := m.flush(ctx); err != nil {
				return err
			}
			return &FileError{m.lines.line + 1, fmt.Sprintf("the file is cut off after position %d, and the log has been imported up to that position: "+
				"continue the export or copy the file again, and repeat the import", m.at)}
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
func (m *importer) begin(ctx context.Context, h header) error {
	var err error
	if m.head, err = m.log.Head(ctx); err != nil {
		return err
	}
	if h.After > m.head {
		return fmt.Errorf("the file begins after position %d but the log ends at %d: first import a file with what lies between", h.After, m.head)
	}
	key, err := anchor(ctx, m.log, h.After)
	if err != nil {
		return err
	}
	if key != h.Key {
		return fmt.Errorf("%w: the file begins after the commit %q at position %d, which the log does not have", ErrOtherHistory, h.Key, h.After)
	}
	m.at, m.res.Head = h.After, h.After
	if m.KeepID {
		if err := m.log.Adopt(ctx, h.Log); err != nil {
			return err
		}
	}
	m.isCopy = m.log.LogID() != h.Log
	return nil
}

// reactions are what a copy of a log must not begin by itself, by the names under which
// rows.Store.Pause stops them. An operator resumes them.
var reactions = []string{wakes.PauseName, rows.PauseProcesses, groups.PauseName}

// pauseReactions keeps a copy of a log from repeating what the log has caused outside.
func (m *importer) pauseReactions(ctx context.Context) error {
	beside, ok := m.log.(interface{ Rows() rows.Store })
	if !ok || !m.isCopy {
		return nil
	}
	for _, name := range reactions {
		if err := beside.Rows().Pause(ctx, name, true); err != nil {
			return err
		}
	}
	m.isCopy = false // they are paused
	return nil
}

// line handles the line of one commit. It compares the commit with the log's, or
// collects it to be stored.
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

// wrong returns the error of an invalid line. It imports the lines before it.
func (m *importer) wrong(ctx context.Context, format string, args ...any) error {
	return errors.Join(m.lines.wrong(format, args...), m.flush(ctx))
}

// compare compares a commit of the file with that of the log.
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
		return fmt.Errorf("%w: at position %d it differs from line %d", ErrOtherHistory, r.Position, m.lines.line)
	}
	m.known = m.known[1:]
	m.res.Head = r.Position
	if len(m.known) == 0 {
		m.progress()
	}
	return nil
}

// flush writes the pending commits to the log.
func (m *importer) flush(ctx context.Context) error {
	if len(m.pending) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := m.pauseReactions(ctx); err != nil {
		return err
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
	m.progress()
	return nil
}

func (m *importer) progress() {
	if m.Progress != nil {
		m.Progress(m.res.Head)
	}
}

// end checks the last line.
func (m *importer) end(ctx context.Context, e end) error {
	if *e.End != m.at || e.Commits != m.commits {
		return m.wrong(ctx, "by its last line the file should have %d commits up to position %d, but it has %d up to %d", e.Commits, *e.End, m.commits, m.at)
	}
	if m.head > m.at {
		return fmt.Errorf("%w: the log continues to position %d, but the file ends at %d", ErrOtherHistory, m.head, m.at)
	}
	if err := m.flush(ctx); err != nil {
		return err
	}
	if _, err := m.lines.next(); !errors.Is(err, io.EOF) {
		return &FileError{m.lines.line, "something follows the last line"}
	}
	return nil
}
