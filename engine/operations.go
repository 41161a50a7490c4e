package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// OperationsConfig configures Operations. All fields are required.
type OperationsConfig struct {
	Catalog *aggregate.Catalog
	Store   eventstore.Store
	Rows    rows.Store
}

// Operations are what operators do with the projections and process managers of a
// log, whether or not nodes run. Retry, Skip and Verify fold events with the handlers of this program,
// in the builds of its own definition. Its methods are safe for concurrent use,
// also by several programs.
type Operations struct{ cfg OperationsConfig }

// NewOperations returns the operations on the projections of a log.
func NewOperations(cfg OperationsConfig) *Operations { return &Operations{cfg} }

// A SegmentState is how one segment of a build stands.
type SegmentState struct {
	Projection  string              `json:"projection"`
	Build       int64               `json:"build"`
	Fingerprint string              `json:"fingerprint"`
	Segment     int                 `json:"segment"`
	Position    eventstore.Position `json:"position"`
	Lag         uint64              `json:"lag"`     // events behind the head of the log
	State       string              `json:"state"`   // building, active or retired
	Paused      bool                `json:"paused"`  // by an operator
	Blocked     int                 `json:"blocked"` // rows that wait for an operator
	// Stopped is why the segment cannot continue, "" if it can.
	Stopped string `json:"stopped,omitempty"`
	// Own reports whether the build is of this program's definition.
	Own bool `json:"own"`
}

// OtherLog is the SegmentState.Stopped of a build whose rows show another log: one
// that was restored to an earlier point, or whose loss was accepted.
const OtherLog = "other log"

// Segments returns the segments of all builds, without relays, sorted by projection,
// build and segment.
func (o *Operations) Segments(ctx context.Context) ([]SegmentState, error) {
	list, err := o.cfg.Rows.Overviews(ctx)
	if err != nil {
		return nil, err
	}
	head, err := o.cfg.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	states := []SegmentState{}
	for _, b := range list {
		if IsRelay(b.Projection) {
			continue
		}
		d, err := o.definition(b.Projection)
		for i, c := range b.Checkpoints {
			s := SegmentState{
				Projection: b.Projection, Build: b.ID, Fingerprint: b.Fingerprint, Segment: c.Segment, Position: c.Position,
				State: string(b.State), Paused: c.Paused, Blocked: b.Blocked[i], Own: err == nil && d.fingerprint() == b.Fingerprint,
			}
			if head > c.Position {
				s.Lag = uint64(head - c.Position)
			}
			if b.LogID != o.cfg.Store.LogID() || c.Position > head {
				s.Stopped = OtherLog
			}
			states = append(states, s)
		}
	}
	return states, nil
}

// A BlockedRow is a row, or a stream, whose later events wait for an operator.
type BlockedRow struct {
	Projection string              `json:"projection"`
	Build      int64               `json:"build"`
	Segment    int                 `json:"segment"`
	Key        string              `json:"key"` // of a row, or "~" and a stream
	Position   eventstore.Position `json:"position"`
	Attempts   int                 `json:"attempts"`
	Error      string              `json:"error"`
	Since      time.Time           `json:"since"` // by the database's clock
}

// Blocked returns what waits in the builds of this program's definitions, sorted
// by projection, build and position, at most limit.
func (o *Operations) Blocked(ctx context.Context, limit int) ([]BlockedRow, error) {
	list, err := o.cfg.Rows.Overviews(ctx)
	if err != nil {
		return nil, err
	}
	var own []int64
	for _, b := range list {
		d, err := o.definition(b.Projection)
		if err == nil && d.fingerprint() == b.Fingerprint && slices.Max(b.Blocked) > 0 {
			own = append(own, b.ID)
		}
	}
	found := []BlockedRow{}
	if len(own) == 0 {
		return found, nil
	}
	waiting, err := o.cfg.Rows.Blocked(ctx, own, limit)
	if err != nil {
		return nil, err
	}
	for _, b := range list { // in their order
		for _, w := range waiting {
			if w.Build == b.ID {
				found = append(found, BlockedRow{
					Projection: b.Projection, Build: b.ID, Segment: w.Segment, Key: w.Key, Position: w.Position, Attempts: w.Attempts, Error: w.Error, Since: w.At,
				})
			}
		}
	}
	return found, nil
}

// A defined projection or process manager has builds: two of the three are nil.
type defined struct {
	rows    *projection.Definition
	sql     *sqlprojection.Definition
	process *process.Definition
}

func (d defined) spec() rows.Spec {
	switch {
	case d.sql != nil:
		return processor.SpecOfSQL(d.sql)
	case d.process != nil:
		return processor.SpecOfProcess(d.process)
	}
	return processor.SpecOf(d.rows)
}

func (d defined) fingerprint() string { return d.spec().Fingerprint }

// definition returns a projection or a process manager of this program.
func (o *Operations) definition(name string) (defined, error) {
	var names []string
	for _, d := range process.All(o.cfg.Catalog) {
		if d.Name() == name {
			return defined{process: d}, nil
		}
		names = append(names, d.Name())
	}
	for _, m := range slices.Concat(o.cfg.Catalog.Models("projection"), o.cfg.Catalog.Models(sqlprojection.Kind)) {
		if m.Name() == name {
			p, _ := m.(*projection.Definition)
			sql, _ := m.(*sqlprojection.Definition)
			return defined{rows: p, sql: sql}, nil
		}
		names = append(names, m.Name())
	}
	if len(names) == 0 {
		return defined{}, fmt.Errorf("this program has no projection and no process manager %q: it defines none", name)
	}
	slices.Sort(names)
	return defined{}, fmt.Errorf("this program has no projection and no process manager %q: use %s", name, strings.Join(names, ", "))
}

// Pause stops or resumes all builds of a projection, of any program.
func (o *Operations) Pause(ctx context.Context, name string, paused bool) error {
	builds, err := o.cfg.Rows.Builds(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(builds, func(b rows.Build) bool { return b.Projection == name }) {
		if _, err := o.definition(name); err != nil {
			return err
		}
	}
	if err := o.cfg.Rows.Pause(ctx, name, paused); err != nil || paused {
		return err
	}
	if d, err := o.definition(name); err != nil || d.process == nil {
		return nil
	}
	// This log is no copy any more in which nothing may happen: process managers that
	// are new to it begin as usual.
	return o.cfg.Rows.Pause(ctx, rows.PauseProcesses, false)
}

// Rebuild begins another build of this program's definition, beside the serving
// one. Nodes fold the log into it, and queries change to it once it has caught up.
func (o *Operations) Rebuild(ctx context.Context, name string) (rows.Build, error) {
	d, err := o.definition(name)
	if err != nil {
		return rows.Build{}, err
	}
	return o.cfg.Rows.Rebuild(ctx, d.spec())
}

// A Resumed is what a retry or a skip has done with one row, with the rows of one
// stream, or with a command that held its target. Blocks has the rows that wait now.
type Resumed struct {
	processor.Mended
	// Command names a command that held its target, which is the Key: a retry sends it
	// again, a skip has removed it. "" for rows.
	Command string
}

// tables opens the builds of this program's definition that are not retired, the
// oldest first. There is at least one.
func (o *Operations) tables(ctx context.Context, name string) (d defined, tables []rows.Table, err error) {
	if d, err = o.definition(name); err != nil {
		return d, nil, err
	}
	builds, err := o.cfg.Rows.Builds(ctx)
	if err != nil {
		return d, nil, err
	}
	for _, b := range builds {
		if b.Projection != name || b.Fingerprint != d.fingerprint() || b.State == rows.Retired {
			continue
		}
		table, err := o.cfg.Rows.Open(ctx, d.spec(), b.ID)
		if err != nil {
			return d, nil, err
		}
		tables = append(tables, table)
	}
	if len(tables) == 0 {
		return d, nil, fmt.Errorf("projection %q has no build of this program's definition: start a node of this program, or use the program that the nodes run", name)
	}
	return d, tables, nil
}

// Retry resumes the blocked rows of a projection, or with a key that one alone, in
// the order of the log, in each build of this program's definition. A row of which
// an event fails again waits at that event. Retry calls report after each row.
//
// Of a process manager, rows are sequences, and Retry also sends held commands again,
// or with a target as the key those to that one.
func (o *Operations) Retry(ctx context.Context, name, key string, report func(Resumed)) error {
	found, err := o.eachBlock(ctx, name, func(m *processor.Mender, b rows.Block) (Resumed, bool, error) {
		if key != "" && b.Key != key {
			return Resumed{}, false, nil
		}
		done, err := m.Retry(ctx, b)
		return Resumed{Mended: done}, true, err
	}, report)
	if err != nil {
		return err
	}
	released, err := o.release(ctx, name, key, report)
	if err == nil && key != "" && !found && !released {
		err = fmt.Errorf("row %q of projection %q is not blocked", key, name)
		if d, _ := o.definition(name); d.process != nil {
			err = fmt.Errorf("process manager %q has no blocked sequence and no held target %q", name, key)
		}
	}
	return err
}

// Skip excludes one event from the blocked row that waits at it, in each build of
// this program's definition, and resumes the row with the next event. With a target of
// a process manager as the key, it removes the held command to it that an event at
// the position has caused, and the next command is sent.
func (o *Operations) Skip(ctx context.Context, name, key string, position eventstore.Position, report func(Resumed)) error {
	if strings.Contains(key, "/") && key[0] != '~' {
		return o.discard(ctx, name, key, position, report)
	}
	var at []string
	found, err := o.eachBlock(ctx, name, func(m *processor.Mender, b rows.Block) (Resumed, bool, error) {
		if b.Key != key || b.Position != position {
			if b.Key == key {
				at = append(at, fmt.Sprint(b.Position))
			}
			return Resumed{}, false, nil
		}
		done, err := m.Skip(ctx, b)
		return Resumed{Mended: done}, true, err
	}, report)
	switch {
	case err != nil || found:
		return err
	case len(at) == 0:
		return fmt.Errorf("row %q of projection %q is not blocked", key, name)
	}
	return fmt.Errorf("row %q of projection %q is blocked at position %s, not %d", key, name, strings.Join(slices.Compact(at), " and "), position)
}

// eachBlock calls do for each blocked row or stream of each segment, and reports
// whether do resumed one. It ignores rows that another program has resumed.
func (o *Operations) eachBlock(ctx context.Context, name string, do func(*processor.Mender, rows.Block) (Resumed, bool, error), report func(Resumed)) (found bool, err error) {
	d, tables, err := o.tables(ctx, name)
	if err != nil {
		return false, err
	}
	for _, table := range tables {
		blocks, err := table.Blocks(ctx)
		if err != nil {
			return found, err
		}
		m := &processor.Mender{Model: d.rows, SQL: d.sql, Process: d.process, Table: table, Log: o.cfg.Store}
		for _, b := range blocks {
			done, concerns, err := do(m, b)
			switch {
			case errors.Is(err, processor.ErrNotBlocked):
				found = true
			case err != nil:
				return found, fmt.Errorf("row %q at position %d: %w", b.Key, b.Position, explained(err))
			case concerns:
				found = true
				report(done)
			}
		}
	}
	return found, nil
}

// explained says what to do about an error of a fold.
func explained(err error) error {
	if errors.Is(err, aggregate.ErrUnknownEvent) {
		return fmt.Errorf("a newer program wrote an event: use that program: %w", err)
	}
	return err
}

// A Difference is a row that is not what the log says, and Verified what a
// verification has seen.
type (
	Difference = processor.Difference
	Verified   = processor.Verified
)

// Verify folds the log from its beginning, in memory, and compares every row and
// tombstone of the build that answers queries with the result; of the newest build
// if none answers yet. It calls report for each row that differs, at most 1,000
// times in a pass over the log, and progress, which may be nil, after each page.
// Of a process manager, it also reports commands that neither the log nor the outbox
// has, which an aggregate may have refused. The program may be older or newer than the nodes if its definition is the same;
// nodes can keep running. It holds 64 MiB of rows.
func (o *Operations) Verify(ctx context.Context, name string, report func(Difference), progress func(segment int, at, head eventstore.Position)) (Verified, error) {
	d, tables, err := o.tables(ctx, name)
	if err != nil {
		return Verified{}, err
	}
	if d.sql != nil {
		return Verified{}, fmt.Errorf("projection %q writes with SQL, and what its handlers have written cannot be compared: rebuild it instead", name)
	}
	table := tables[len(tables)-1]
	for _, t := range tables {
		if t.Build().State == rows.Active && t.Build().LogID == o.cfg.Store.LogID() {
			table = t
		}
	}
	v := processor.Verifier{Model: d.rows, Process: d.process, Outboxes: o.cfg.Rows, Table: table, Log: o.cfg.Store, Report: report, Progress: progress}
	done, err := v.Run(ctx)
	return done, explained(err)
}
