package processor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// verifyMemory is how many bytes of rows a verification holds by default, and
	// entryBytes what a row costs besides its key and its JSON.
	verifyMemory = 64 << 20
	entryBytes   = 160
	// verifyPage is how many stored rows it reads together.
	verifyPage = 1000
	// verifyAttempts is how often a pass begins again because rows were mended.
	verifyAttempts = 5
	// mostDifferences bounds the differences that a pass reports; it counts all.
	mostDifferences = 1000
	// mostParts bounds how often rows are divided: into 2^20 parts.
	mostParts = 20
)

// A Verifier folds the log from its beginning and compares every row and tombstone
// of a build with the result, while another program may write the build.
//
// It works through one segment after another. While the rows of a segment, as JSON
// with their keys, take more than Memory bytes, it leaves half of them to another
// pass over the log. A page of 1,024 commits is in memory besides.
type Verifier struct {
	Model    *projection.Definition
	Process  *process.Definition // of a process manager, without a Model
	Outboxes rows.Outboxes       // with Process
	Table    rows.Table
	Log      Log
	Memory   int                                             // 0: 64 MiB
	Progress func(segment int, at, head eventstore.Position) // may be nil
	// Report is called for each row that differs.
	Report func(Difference)
}

// A Difference is a row that is not what the log says.
type Difference struct {
	Key     string `json:"key"`
	Segment int    `json:"segment"`
	Stored  string `json:"stored"` // position and value; "" if there is none
	Folded  string `json:"folded"`
	// Command marks a command of a process manager that is not in the log. It is no
	// difference of rows: an aggregate may have refused it.
	Command bool `json:"command,omitempty"`
}

// Verified is what a Verifier has seen.
type Verified struct {
	Build       int64               `json:"build"`
	Position    eventstore.Position `json:"position"` // the lowest of the segments
	Rows        int                 `json:"rows"`
	Tombstones  int                 `json:"tombstones"`
	Passes      int                 `json:"passes"` // over the log
	Differences int                 `json:"differences"`
	Missing     int                 `json:"missing,omitempty"` // commands that are not in the log
}

// errMended reports that rows at earlier positions changed during a pass.
var errMended = errors.New("an operator has mended rows during each attempt: try again")

// Run verifies the build. The error is about the verification, not about rows.
func (v *Verifier) Run(ctx context.Context) (Verified, error) {
	done := Verified{Build: v.Table.Build().ID, Position: math.MaxInt64}
	for segment := range v.Table.Build().Segments {
		parts := []part{{}}
		for attempt := 0; len(parts) > 0; {
			p := &pass{Verifier: v, segment: segment, part: parts[len(parts)-1], memory: v.Memory}
			if p.memory == 0 {
				p.memory = verifyMemory
			}
			err := p.run(ctx)
			if errors.Is(err, errMended) {
				if attempt++; attempt < verifyAttempts {
					continue
				}
			}
			if err != nil {
				return done, err
			}
			parts = append(parts[:len(parts)-1], p.later...)
			p.addTo(&done)
		}
	}
	return done, nil
}

// A part is the rows whose hash ends with some bits.
type part struct {
	bits  int
	value uint32
}

func (p part) has(key string) bool {
	h := fnv.New32()
	_, _ = h.Write([]byte(key))
	return h.Sum32()&(1<<p.bits-1) == p.value
}

// halves divides a part.
func (p part) halves() (part, part) {
	return part{p.bits + 1, p.value}, part{p.bits + 1, p.value | 1<<p.bits}
}

// A pass verifies a part of a segment. It belongs to one goroutine.
type pass struct {
	*Verifier
	segment int
	part    part
	memory  int
	later   []part // what did not fit

	fold    fold
	mends   int64
	at      eventstore.Position // the entries show the log up to here
	entries map[string]*entry
	bytes   int

	expected map[rows.CommandID]rows.Command // commands of events in this pass that were not met yet

	seen        Verified
	differences []Difference
}

// An entry is a row as the log says.
type entry struct {
	data    json.RawMessage // nil if the row is gone
	changed eventstore.Position
	failed  error // an event of the row failed, and it does not wait
	seen    bool
}

func (e *entry) size(key string) int { return len(key) + len(e.data) + entryBytes }

func (p *pass) addTo(all *Verified) {
	all.Rows += p.seen.Rows
	all.Tombstones += p.seen.Tombstones
	all.Differences += p.seen.Differences
	all.Missing += p.seen.Missing
	all.Position = min(all.Position, p.at)
	all.Passes++
	for _, d := range p.differences {
		p.Report(d)
	}
}

func (p *pass) run(ctx context.Context) error {
	list, err := p.Table.Checkpoints(ctx)
	if err != nil {
		return err
	}
	c := list[p.segment]
	if err := sameLog(ctx, p.Log, p.Table.Build(), c); err != nil {
		return err
	}
	p.mends, p.entries, p.expected = c.Mends, map[string]*entry{}, map[rows.CommandID]rows.Command{}
	p.fold = fold{model: modelOf(p.Model, p.Process), segment: p.segment, term: c.Term}
	if err := p.followTo(ctx, c.Position); err != nil {
		return err
	}
	if c, err = p.compareAll(ctx); err != nil {
		return err
	}
	for key, e := range p.entries {
		if !e.seen && (e.data != nil || e.changed > c.Floor) {
			p.differs(key, "", e.text())
		}
	}
	if err := p.missing(ctx); err != nil {
		return err
	}
	return p.unmended(ctx)
}

// unmended returns errMended if rows at earlier positions have changed since the
// pass began.
func (p *pass) unmended(ctx context.Context) error {
	list, err := p.Table.Checkpoints(ctx)
	if err == nil && list[p.segment].Mends != p.mends {
		err = errMended
	}
	return err
}

// followTo folds the log up to a position. Blocks that are stored later than the
// position concern later events only.
func (p *pass) followTo(ctx context.Context, to eventstore.Position) error {
	blocks, err := p.Table.Blocks(ctx)
	if err != nil {
		return err
	}
	skips, err := p.Table.Skips(ctx)
	if err != nil {
		return err
	}
	p.fold.blocked, p.fold.skipped = blockedIn(p.segment, blocks), skippedIn(p.segment, skips)
	for p.at < to {
		commits, err := p.Log.Read(ctx, p.at, mendPage)
		if err != nil {
			return err
		}
		if commits = upTo(commits, to); len(commits) == 0 {
			return errOtherLog
		}
		if err := p.foldPage(commits); err != nil {
			return err
		}
		p.at = commits[len(commits)-1].Position
		p.divide()
		if p.Progress != nil {
			p.Progress(p.segment, p.at, to)
		}
	}
	return nil
}

// divide leaves rows to later passes while they take too much memory.
func (p *pass) divide() {
	for p.bytes > p.memory && p.part.bits < mostParts {
		mine, later := p.part.halves()
		p.part, p.later = mine, append(p.later, later)
		for key, e := range p.entries {
			if !mine.has(key) {
				p.bytes -= e.size(key)
				delete(p.entries, key)
			}
		}
	}
}

// foldPage folds the events of commits into the entries.
func (p *pass) foldPage(commits []eventstore.Commit) error {
	steps, err := p.planned(commits)
	if err != nil {
		return err
	}
	present := map[string]*kept{}
	for _, s := range steps {
		key := s.effect.key
		if !p.part.has(key) {
			continue
		}
		e := p.entries[key]
		if e == nil {
			e = &entry{}
			p.entries[key] = e
			p.bytes += e.size(key)
		}
		if e.failed != nil {
			continue
		}
		k := present[key]
		if k == nil {
			k = &kept{}
			if e.data != nil {
				if k.row, err = p.fold.model.DecodeRow(e.data); err != nil {
					return err
				}
			}
			present[key] = k
		}
		s.depth = 0 // a retry may have begun there
		caused, err := p.fold.applyOne(s, k, p.fold.term.Sends(key, eventstore.Position(s.at.Position)))
		if err != nil {
			e.failed, e.changed = err, eventstore.Position(s.at.Position)
		}
		p.expect(caused)
	}
	p.meet(commits)
	for key, k := range present {
		p.encode(key, k)
	}
	return nil
}

func (p *pass) encode(key string, k *kept) {
	e := p.entries[key]
	if e.failed != nil {
		return
	}
	p.bytes -= e.size(key)
	e.data, e.changed = nil, k.changed
	if k.row != nil {
		e.data, _, e.failed = p.fold.encode(k.row)
	}
	p.bytes += e.size(key)
}

// planned plans commits. A stream whose events name no row, though it does not
// wait, is a difference.
func (p *pass) planned(commits []eventstore.Commit) ([]step, error) {
	for {
		steps, err := p.fold.plan(commits, p.at)
		var failed *fault
		if !errors.As(err, &failed) {
			return steps, err
		}
		p.differs(failed.key, "not blocked", fmt.Sprintf("event %d fails: %v", failed.position, failed.err))
		p.fold.blocked[failed.key] = failed.position
	}
}

// compareAll compares the stored rows of the segment with the entries, page by
// page. It returns the checkpoint of the last page. A segment's rows are written
// in the order of positions, so a row that changes meanwhile comes again.
func (p *pass) compareAll(ctx context.Context) (c rows.Checkpoint, err error) {
	after := make([]eventstore.Position, p.Table.Build().Segments)
	for i := range after {
		if i != p.segment {
			after[i] = math.MaxInt64
		}
	}
	next := rows.Edge{}
	for more := true; more; {
		page, err := p.Table.Changes(ctx, after, next, verifyPage)
		if err != nil {
			return c, err
		}
		if c = page.Checkpoints[p.segment]; c.Mends != p.mends {
			return c, errMended
		}
		if c.Position > p.at {
			if err := p.followTo(ctx, c.Position); err != nil {
				return c, err
			}
		}
		for _, r := range page.Rows {
			next = rows.Edge{Position: r.Position, Key: r.Key}
			if p.part.has(r.Key) {
				p.compare(r)
			}
		}
		more = page.More
	}
	return c, nil
}

func (p *pass) compare(r rows.Row) {
	e := p.entries[r.Key]
	if e == nil {
		p.differs(r.Key, rowText(r.Position, r.Data), "")
		return
	}
	if !e.seen {
		if r.Gone {
			p.seen.Tombstones++
		} else {
			p.seen.Rows++
		}
	}
	e.seen = true
	if e.failed != nil || r.Position != e.changed || r.Gone != (e.data == nil) || !r.Gone && !p.same(r.Data, e.data) {
		p.differs(r.Key, rowText(r.Position, r.Data), e.text())
	}
}

// same reports whether two rows are equal, in whatever form they were encoded.
func (p *pass) same(stored, folded json.RawMessage) bool {
	if bytes.Equal(stored, folded) {
		return true
	}
	row, err := p.fold.model.DecodeRow(stored)
	if err != nil {
		return false
	}
	again, _, err := p.fold.encode(row)
	return err == nil && bytes.Equal(again, folded)
}

func (p *pass) differs(key, stored, folded string) {
	p.seen.Differences++
	if len(p.differences) < mostDifferences {
		p.differences = append(p.differences, Difference{Key: key, Segment: p.segment, Stored: stored, Folded: folded})
	}
}

func (e *entry) text() string {
	if e.failed != nil {
		return fmt.Sprintf("event %d fails: %v", e.changed, e.failed)
	}
	return rowText(e.changed, e.data)
}

func rowText(at eventstore.Position, data json.RawMessage) string {
	if data == nil {
		return fmt.Sprintf("deleted at %d", at)
	}
	return fmt.Sprintf("at %d: %s", at, clip(string(data)))
}
