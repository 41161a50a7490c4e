// Package verify audits a log: it checks the rules that the rest of the system
// relies on.
//
//   - Every position from 1 to the head exists once.
//   - The versions of a stream have no hole, and increase with the positions.
//   - Keys are unique per stream, across commits and kept outcomes.
//   - Every row can be decoded, and the view of events shows the rows' events.
//
// An audit reads the log in pages, and the database checks the rest. The memory
// that it needs does not depend on the length of the log. It can run during
// appends, and audits the log up to the head at its start.
package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Source is a log that can be audited. The Stores of packages postgres and sqlite
// implement it; their tables and columns have the same names.
type Source interface {
	// Audit runs a query and calls row for each row of the result.
	Audit(ctx context.Context, query string, row func(scan func(dest ...any) error) error) error
}

// Check names a check.
type Check string

// The checks, in their order.
const (
	Positions Check = "positions"
	Rows      Check = "rows"
	View      Check = "view"
	Versions  Check = "versions"
	Keys      Check = "keys"
)

// Fault is the first place where a check failed.
type Fault struct {
	Check    Check               `json:"check"`
	Position eventstore.Position `json:"position"`
	Reason   string              `json:"reason"`
}

func (f Fault) String() string {
	return fmt.Sprintf("%s: at position %d: %s", f.Check, f.Position, f.Reason)
}

// Report is the result of an audit.
type Report struct {
	LogID   string              `json:"log"`
	Head    eventstore.Position `json:"head"` // at the start
	Commits int64               `json:"commits"`
	Events  int64               `json:"events"`
	Streams int64               `json:"streams"`
	// Faults has the first fault of each check, sorted by position. A sound log
	// has none.
	Faults []Fault `json:"faults"`
}

const pageSize = 500

// Options configure an audit.
type Options struct {
	// Progress is called by the goroutine of the audit: after each page of rows
	// with its last position, and at the start of each check that the database
	// makes, with at = 0.
	Progress func(check Check, at, head eventstore.Position)
}

// Log audits a log. Faults of the log are in the report. An error means that the
// audit itself failed.
func Log(ctx context.Context, source Source) (Report, error) {
	return LogWith(ctx, source, Options{})
}

// LogWith is Log with options.
func LogWith(ctx context.Context, source Source, opts Options) (Report, error) {
	a := audit{ctx: ctx, source: source, opts: opts}
	for _, step := range []func() error{a.begin, a.pages, a.count, a.versions, a.keys} {
		if err := step(); err != nil {
			return Report{}, fmt.Errorf("verify: %w", err)
		}
	}
	faults := a.report.Faults
	sort.SliceStable(faults, func(i, j int) bool { return faults[i].Position < faults[j].Position })
	return a.report, nil
}

type audit struct {
	ctx    context.Context
	source Source
	opts   Options
	report Report
}

func (a *audit) progress(check Check, at int64) {
	if a.opts.Progress != nil {
		a.opts.Progress(check, eventstore.Position(at), a.report.Head)
	}
}

// fault records the first fault of a check.
func (a *audit) fault(check Check, at int64, format string, args ...any) {
	if !slices.ContainsFunc(a.report.Faults, func(f Fault) bool { return f.Check == check }) {
		a.report.Faults = append(a.report.Faults, Fault{check, eventstore.Position(max(at, 0)), fmt.Sprintf(format, args...)})
	}
}

func (a *audit) query(row func(scan func(...any) error) error, format string, args ...any) error {
	return a.source.Audit(a.ctx, fmt.Sprintf(format, args...), row)
}

func (a *audit) begin() error {
	return a.query(func(scan func(...any) error) error {
		var head int64
		err := scan(&a.report.LogID, &head)
		a.report.Head = eventstore.Position(head)
		return err
	}, `select cast((select id from log) as text), coalesce((select max(pos) from "commit"), 0)`)
}

// pages compares the rows with the view, page by page.
func (a *audit) pages() error {
	for after := int64(0); after < int64(a.report.Head); {
		rows, err := a.rows(after)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			a.fault(Positions, after+1, "positions %d to %d are missing", after+1, a.report.Head)
			return nil
		}
		upTo := rows[len(rows)-1].Position
		want := make([]shown, 0, 2*len(rows))
		unread := doubled(rows) // rows that cannot be compared
		last := after
		for _, r := range rows {
			a.position(&r, last)
			last = max(last, r.Position)
			a.report.Commits++
			c, err := r.Commit()
			var damaged *eventstore.DamagedError
			switch {
			case errors.As(err, &damaged):
				a.fault(Rows, r.Position, "%s", damaged.Reason)
				unread[r.Position] = true
				continue
			case err != nil:
				return err
			}
			a.report.Events += int64(len(c.Events))
			if !unread[r.Position] {
				want = a.events(want, &c)
			}
		}
		if err := a.view(after, upTo, want, unread); err != nil {
			return err
		}
		after = upTo
		a.progress(Rows, after)
	}
	return nil
}

// position checks a row that follows position last.
func (a *audit) position(r *stored.Fields, last int64) {
	first := r.Position - r.N + 1
	switch {
	case r.N < 1 || r.Position < r.N || r.Version < r.N:
		a.fault(Rows, r.Position, "a row of %d events has position %d and version %d", r.N, r.Position, r.Version)
	case first > last+1:
		a.fault(Positions, last+1, "positions %d to %d are missing", last+1, first-1)
	case first <= last:
		a.fault(Positions, first, "positions %d to %d exist twice", first, last)
	}
}

// events checks the events of a commit, and appends them as the view must show
// them.
func (a *audit) events(list []shown, c *eventstore.Commit) []shown {
	for i, e := range c.Events {
		if !json.Valid(e.Data) {
			a.fault(Rows, int64(c.Position), "the data of event %d is not valid JSON", i)
		}
		list = append(list, shown{
			Pos: int64(c.First()) + int64(i), Version: int64(c.FirstVersion()) + int64(i),
			Stream: c.Stream, Key: c.Key, Type: e.Type, Form: int64(e.Form), Data: canonical(e.Data),
		})
	}
	return list
}

// doubled returns the positions that more than one row has. The view shows the
// events of such rows in no defined order.
func doubled(rows []stored.Fields) map[int64]bool {
	twice := make(map[int64]bool)
	for i := 1; i < len(rows); i++ {
		if rows[i].Position == rows[i-1].Position {
			twice[rows[i].Position] = true
		}
	}
	return twice
}

func (a *audit) rows(after int64) ([]stored.Fields, error) {
	var rows []stored.Fields
	err := a.query(func(scan func(...any) error) error {
		var (
			f    stored.Fields
			hash int64
		)
		err := scan(&f.Position, &f.N, &f.Type, &f.ID, &f.Version, &f.Key, &f.Meta, &f.Events, &hash)
		if err == nil && hash != int64(len(eventstore.Hash{})) {
			a.fault(Rows, f.Position, "the hash has %d bytes, not %d", hash, len(eventstore.Hash{}))
		}
		rows = append(rows, f)
		return err
	}, `select pos, n, agg_type, agg_id, version, key, meta, events, length(hash) from "commit" where pos > %d and pos <= %d order by pos limit %d`,
		after, a.report.Head, pageSize)
	return rows, err
}

// shown is an event in the view.
type shown struct {
	Pos, Version, Form int64
	Stream             eventstore.StreamID
	Key, Type, Data    string
}

func (a *audit) view(after, upTo int64, want []shown, unread map[int64]bool) error {
	i := 0
	err := a.query(func(scan func(...any) error) error {
		var (
			s      shown
			data   []byte
			commit int64
		)
		if err := scan(&s.Pos, &s.Stream.Type, &s.Stream.ID, &s.Version, &s.Type, &s.Form, &data, &s.Key, &commit); err != nil {
			return err
		}
		if unread[commit] {
			return nil
		}
		s.Data = canonical(data)
		switch {
		case i >= len(want):
			a.fault(View, s.Pos, "the view shows position %d, which no row has", s.Pos)
		case s != want[i]:
			a.fault(View, want[i].Pos, "the view does not show the event %q of %s as it is stored", want[i].Type, want[i].Stream)
		}
		i++
		return nil
	}, `select coalesce(pos, 0), coalesce(agg_type, ''), coalesce(agg_id, ''), coalesce(version, 0), coalesce(type, ''),
		coalesce(form, 0), data, coalesce(key, ''), commit_pos from event where commit_pos > %d and commit_pos <= %d order by commit_pos, pos`, after, upTo)
	if err != nil {
		return err
	}
	if i < len(want) {
		a.fault(View, want[i].Pos, "the view does not show position %d", want[i].Pos)
	}
	return nil
}

// canonical removes the white space outside strings, because a database may
// change it.
func canonical(data []byte) string {
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return string(data)
	}
	return b.String()
}

// count finds rows that paging misses: a second row at the end of a page.
func (a *audit) count() error {
	a.progress(Positions, 0)
	return a.query(func(scan func(...any) error) error {
		var n int64
		err := scan(&n, &a.report.Streams)
		if err == nil && n != a.report.Commits {
			a.fault(Positions, 0, "the log has %d rows, of which %d were read in order", n, a.report.Commits)
		}
		return err
	}, `select count(*), (select count(*) from (select distinct agg_id, agg_type from "commit" where pos <= %d) s) from "commit" where pos <= %[1]d`, a.report.Head)
}

func (a *audit) versions() error {
	a.progress(Versions, 0)
	return a.query(func(scan func(...any) error) error {
		var (
			pos, version, n, before, beforePos int64
			s                                  eventstore.StreamID
		)
		if err := scan(&pos, &s.Type, &s.ID, &version, &n, &before, &beforePos); err != nil {
			return err
		}
		switch first := version - n + 1; {
		case first > before+1:
			a.fault(Versions, pos, "versions %d to %d of %s are missing", before+1, first-1, s)
		case first <= before:
			a.fault(Versions, pos, "versions %d to %d of %s exist twice", first, before, s)
		default:
			a.fault(Versions, pos, "version %d of %s is before version %d, at position %d", first, s, before, beforePos)
		}
		return nil
	}, `select pos, agg_type, agg_id, version, n, before, before_pos from (
		select pos, agg_type, agg_id, version, n,
			coalesce(lag(version) over stream, 0) as before, coalesce(lag(pos) over stream, 0) as before_pos
		from "commit" where pos <= %d window stream as (partition by agg_id, agg_type order by version, pos)) v
		where version - n <> before or pos <= before_pos order by pos limit 1`, a.report.Head)
}

func (a *audit) keys() error {
	a.progress(Keys, 0)
	return a.query(func(scan func(...any) error) error {
		var (
			pos int64
			s   eventstore.StreamID
			key string
		)
		if err := scan(&pos, &s.Type, &s.ID, &key); err != nil {
			return err
		}
		a.fault(Keys, pos, "the key %q of %s exists twice", key, s)
		return nil
	}, `select pos, agg_type, agg_id, key from (
			select pos, agg_type, agg_id, key from (
				select pos, agg_type, agg_id, key, row_number() over (partition by key, agg_id, agg_type order by pos) as nth
				from "commit" where pos <= %[1]d) k
			where nth = 2
			union all
			select c.pos, c.agg_type, c.agg_id, c.key from outcome o
			join "commit" c on c.agg_id = o.agg_id and c.agg_type = o.agg_type and c.key = o.key where c.pos <= %[1]d
		) twice order by pos limit 1`, a.report.Head)
}
