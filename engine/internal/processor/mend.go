package processor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// mendAttempts bounds how often a mend is folded up to a moving checkpoint. From
	// the third on, the segment is interrupted before.
	mendAttempts = 50
	// mendPage is how many commits a mend or a verification reads together.
	mendPage = 1024
	// mostRefolded bounds the rows that one blocked stream concerns.
	mostRefolded = 10_000
)

// ErrNotBlocked reports that a row does not wait, or no longer at that event.
var ErrNotBlocked = errors.New("the row is not blocked at this event")

// A Mender resumes the blocked rows of one build, while another program may write
// the build. It is safe for concurrent use.
//
// A blocked row is folded from the event at which it waits up to the checkpoint.
// A blocked stream is one whose events name no row, because finding their keys
// failed. The rows that its events concern may show later events of other
// streams, so they are folded again from the beginning of the log. If every row's
// key is its stream's id, only that stream is read.
//
// Events that have waited cause the commands of a process manager now, from depth 0
// on. A row that another build has handed over is folded from the beginning of the
// log, and its events cause commands from where it was handed over. The keys of these
// commands name the build, since the other one may have used the index of the sequence
// for another sequence. If the event at which the row waits concerns other rows in this
// build, Retry refuses, and Skip sends nothing for the row.
//
// The rows are written at the checkpoint, which must not have moved in the
// meantime. If it did, the events since then are folded too, and the segment is
// interrupted: its writer then pauses for 100 ms.
type Mender struct {
	Model   *projection.Definition
	Process *process.Definition       // of a process manager, without a Model
	SQL     *sqlprojection.Definition // of a projection that writes with SQL, without a Model
	Table   rows.Table
	Log     MendLog
}

// Mended is what a Mender has done.
type Mended struct {
	Build   int64
	Key     string
	Segment int
	Events  int // events that waited, and that the rows now show
	// Blocks are the rows of which an event has failed again, so that they wait now.
	Blocks []rows.Block
}

// Retry resumes a blocked row or stream in the order of the log. It stops before
// an event that fails again, at which the row then waits.
func (m *Mender) Retry(ctx context.Context, b rows.Block) (Mended, error) {
	return m.resume(ctx, b, false)
}

// Skip excludes the event at which a row or stream waits, and resumes with the
// next one.
func (m *Mender) Skip(ctx context.Context, b rows.Block) (Mended, error) {
	return m.resume(ctx, b, true)
}

func (m *Mender) resume(ctx context.Context, b rows.Block, skip bool) (Mended, error) {
	if m.SQL != nil {
		return m.resumeSQL(ctx, b, skip)
	}
	w := &mend{Mender: m, fold: fold{model: modelOf(m.Model, m.Process), segment: b.Segment}, target: b, skip: skip}
	for attempt := range mendAttempts {
		if attempt >= 2 {
			if err := m.Table.Interrupt(ctx, b.Segment); err != nil {
				return Mended{}, err
			}
		}
		err := w.attempt(ctx)
		if !errors.Is(err, rows.ErrFenced) {
			return w.done, err
		}
	}
	return Mended{}, fmt.Errorf("the segment moved during each of %d attempts: pause the projection, then try again", mendAttempts)
}

// A mend is the resuming of one row or stream. It belongs to one goroutine.
type mend struct {
	*Mender
	fold
	target rows.Block
	skip   bool

	checkpoint rows.Checkpoint
	waiting    map[string]eventstore.Position // as stored; the fold's blocked lacks the target
	at         eventstore.Position            // the rows show the log up to here
	version    eventstore.Version             // of the sole stream there
	mended     map[string]*mended             // nil before the rows are known
	failed     *fault                         // of the target, if it is a stream
	done       Mended
}

// A mended is a row as a mend has it.
type mended struct {
	kept
	waited int       // late events that it shows
	stored *rows.Row // the last state that can be stored, nil if none was reached
	fits   int       // waited, as of stored
	failed *fault    // the first event after it
	ended  bool      // the event failed, so that later ones wait
	caused []rows.Command
	sent   int // of caused, as of stored
}

// attempt folds the rows up to the checkpoint and writes them. The error is
// rows.ErrFenced if the checkpoint has moved.
func (w *mend) attempt(ctx context.Context) error {
	if err := w.read(ctx); err != nil {
		return err
	}
	if w.mended == nil {
		if err := w.begin(ctx); err != nil {
			return err
		}
	}
	if err := w.eachPage(ctx, w.at, func(commits []eventstore.Commit) error { return w.foldPage(commits) }); err != nil {
		return err
	}
	if w.mended == nil { // a new row is concerned
		return rows.ErrFenced
	}
	w.at = w.checkpoint.Position
	b, changes := w.batch()
	if !changes {
		return nil
	}
	return w.Table.Write(ctx, b)
}

// read reads what has changed since the last attempt.
func (w *mend) read(ctx context.Context) error {
	list, err := w.Table.Checkpoints(ctx)
	if err != nil {
		return err
	}
	blocks, err := w.Table.Blocks(ctx)
	if err != nil {
		return err
	}
	skips, err := w.Table.Skips(ctx)
	if err != nil {
		return err
	}
	w.checkpoint = list[w.segment]
	if err := sameLog(ctx, w.Log, w.Table.Build(), w.checkpoint); err != nil {
		return err
	}
	i := slices.IndexFunc(blocks, func(b rows.Block) bool {
		return b.Segment == w.segment && b.Key == w.target.Key && b.Position == w.target.Position
	})
	if i < 0 {
		return ErrNotBlocked
	}
	if err := w.takenOver(blocks[i]); err != nil {
		return err
	}
	waiting := blockedIn(w.segment, blocks)
	if !maps.Equal(waiting, w.waiting) {
		w.waiting, w.mended = waiting, nil
	}
	if w.mended == nil {
		w.skipped = skippedIn(w.segment, skips)
		if w.skip {
			w.skipped[skipped{w.target.Key, w.target.Position}] = true
		}
		w.blocked = maps.Clone(waiting)
		delete(w.blocked, w.target.Key)
		w.failed = nil
	}
	return nil
}

// takenOver reads what a handover has changed. The error says that the build has not
// reached the position from which it sends.
func (w *mend) takenOver(b rows.Block) error {
	if w.term.Until != w.checkpoint.Term.Until || !slices.EqualFunc(w.term.From, w.checkpoint.Term.From, slices.Equal) || w.target.HandedOver != b.HandedOver || w.target.After != b.After {
		w.mended = nil
	}
	w.term, w.target.HandedOver, w.target.After = w.checkpoint.Term, b.HandedOver, b.After
	if !b.HandedOver || !w.term.Current() {
		return nil
	}
	for _, of := range w.term.From {
		if p := slices.Max(of); p > w.checkpoint.Position {
			return fmt.Errorf("the segment is at position %d and has taken over at %d: try again in a moment", w.checkpoint.Position, p)
		}
	}
	return nil
}

// sends reports whether an event that has waited causes commands now.
func (w *mend) sends(key string, p eventstore.Position) bool {
	if w.target.HandedOver {
		return p > w.target.After && p <= w.term.Until
	}
	return w.term.Sends(key, p)
}

func skippedIn(segment int, skips []rows.Skip) map[skipped]bool {
	found := map[skipped]bool{}
	for _, s := range skips {
		if s.Segment == segment {
			found[skipped{s.Key, s.Position}] = true
		}
	}
	return found
}

// stream returns the stream that the target is, if it is one.
func (w *mend) stream() (eventstore.StreamID, bool) {
	text, ok := strings.CutPrefix(w.target.Key, "~")
	if !ok {
		return eventstore.StreamID{}, false
	}
	id, err := eventstore.ParseStreamID(text)
	return id, err == nil
}

// begin finds the rows that the target concerns, and where to begin with them.
func (w *mend) begin(ctx context.Context) error {
	stream, ok := w.stream()
	if !ok {
		return w.beginRow(ctx)
	}
	found := map[string]*mended{}
	if _, sole := w.sole(); sole {
		if SegmentOf(stream.ID, w.model.Segments()) == w.segment {
			found[stream.ID] = &mended{}
		}
		w.refold(found)
		return nil
	}
	err := w.eachPage(ctx, w.target.Position-1, func(commits []eventstore.Commit) error {
		commits = slices.DeleteFunc(slices.Clone(commits), func(c eventstore.Commit) bool { return c.Stream != stream })
		steps, err := w.planned(commits, w.target.Position-1)
		for _, s := range steps {
			found[s.effect.key] = &mended{}
		}
		if len(found) > mostRefolded {
			return fmt.Errorf("the stream concerns more than %d rows: rebuild the projection instead", mostRefolded)
		}
		return err
	})
	if err != nil {
		return err
	}
	w.refold(found)
	return nil
}

// refold makes the next pages begin with the log's first event, which finds the
// target's failure again.
func (w *mend) refold(found map[string]*mended) {
	delete(w.blocked, w.target.Key)
	w.mended, w.at, w.failed = found, 0, nil
}

func (w *mend) beginRow(ctx context.Context) error {
	m := &mended{}
	if w.target.HandedOver {
		if err := w.checkConcerned(ctx); err != nil {
			return err
		}
		w.refold(map[string]*mended{w.target.Key: m})
		return nil
	}
	list, err := w.Table.Load(ctx, []string{w.target.Key})
	if err != nil {
		return err
	}
	for _, r := range list {
		if m.row, err = w.model.DecodeRow(r.Data); err != nil {
			return err
		}
	}
	w.mended, w.at = map[string]*mended{w.target.Key: m}, w.target.Position-1
	return nil
}

// upTo returns the commits up to a position.
func upTo(commits []eventstore.Commit, p eventstore.Position) []eventstore.Commit {
	n, _ := slices.BinarySearchFunc(commits, p+1, func(c eventstore.Commit, p eventstore.Position) int {
		if c.Position < p {
			return -1
		}
		return 1
	})
	return commits[:n]
}

// planned plans commits. If the target is a stream whose keys still cannot be
// found, its events wait from that one on.
func (w *mend) planned(commits []eventstore.Commit, after eventstore.Position) ([]step, error) {
	for {
		steps, err := w.plan(commits, after)
		var failed *fault
		switch {
		case !errors.As(err, &failed):
			return steps, err
		case failed.key != w.target.Key || w.failed != nil:
			return nil, fmt.Errorf("event %d of %s cannot be read: %w", failed.position, failed.key, failed.err)
		}
		w.failed = failed
		w.blocked[failed.key] = failed.position
	}
}

// foldPage folds the events of commits into the rows. It forgets the rows if an
// event concerns another one.
func (w *mend) foldPage(commits []eventstore.Commit) error {
	if w.mended == nil {
		return nil
	}
	steps, err := w.planned(commits, w.at)
	if err != nil {
		return err
	}
	stream, isStream := w.stream()
	for _, s := range steps {
		m := w.mended[s.effect.key]
		late := eventstore.Position(s.at.Position) >= w.target.Position && (!isStream || s.at.Type == stream.Type && s.at.ID == stream.ID)
		switch {
		case m != nil:
			w.step(m, s, late)
		case isStream && late:
			w.mended = nil
			return nil
		}
	}
	w.at = commits[len(commits)-1].Position
	return nil
}

// step folds one event into a row, unless an earlier one has failed. A late event
// has waited.
func (w *mend) step(m *mended, s step, late bool) {
	if m.ended {
		return
	}
	at := eventstore.Position(s.at.Position)
	s.depth = 0
	if w.target.HandedOver {
		s.effect.k += handedOver(w.Table.Build().ID)
	}
	caused, err := w.applyOne(s, &m.kept, late && w.sends(s.effect.key, at))
	if err != nil {
		m.ended = true
		m.fail(s.effect.key, at, err)
		return
	}
	m.caused = append(m.caused, caused...)
	if late {
		m.waited++
	}
	r := rows.Row{Key: s.effect.key, Segment: w.segment, Position: at, Gone: m.row == nil}
	if !r.Gone {
		var err error
		if r.Data, r.Values, err = w.encode(m.row); err != nil {
			m.fail(r.Key, at, err)
			return
		}
	}
	m.stored, m.fits, m.sent, m.failed = &r, m.waited, len(m.caused), nil
}

// fail remembers the first event after the last state that can be stored.
func (m *mended) fail(key string, at eventstore.Position, err error) {
	if m.failed == nil {
		m.failed = &fault{key, at, err}
	}
}

// batch returns what is to be written, and reports whether that changes anything.
func (w *mend) batch() (b rows.Batch, changes bool) {
	c := w.checkpoint
	b = rows.Batch{Segment: w.segment, From: c.Position, To: c.Position, Key: c.Key, Mends: c.Mends, Term: c.Term}
	w.done = Mended{Build: w.Table.Build().ID, Key: w.target.Key, Segment: w.segment}
	waits := w.failed
	for key, m := range w.mended {
		if m.stored != nil {
			b.Rows = append(b.Rows, *m.stored)
			b.Commands = append(b.Commands, m.caused[:m.sent]...)
			w.done.Events += m.fits
		}
		switch {
		case m.failed == nil:
		case key == w.target.Key:
			waits = m.failed
		default:
			b.Block = append(b.Block, blockOf(m.failed, w.segment, 1))
		}
	}
	if waits == nil {
		b.Unblock = []string{w.target.Key}
	} else {
		again := blockOf(waits, w.segment, 1)
		again.HandedOver, again.After = w.target.HandedOver, w.target.After
		if again.HandedOver && again.After < rows.Endless {
			again.After = max(again.After, waits.position-1)
		}
		b.Block = append(b.Block, again)
	}
	if w.skip {
		b.Skip = []rows.Skip{{Key: w.target.Key, Segment: w.segment, Position: w.target.Position}}
	}
	w.done.Blocks = b.Block
	return b, waits == nil || w.skip || waits.position != w.target.Position
}

func blockOf(f *fault, segment, attempts int) rows.Block {
	return rows.Block{Key: f.key, Segment: segment, Position: f.position, Attempts: attempts, Error: clip(f.err.Error())}
}
