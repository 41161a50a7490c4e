// Package verify audits a log: that it keeps the rules which the rest of the
// system takes for granted.
//
//   - Positions are dense: every one from 1 to the head is there once.
//   - Versions are contiguous per stream, and rise with the positions.
//   - Keys are unique per stream, also across events and kept outcomes.
//   - Every row can be decoded, and the view of events shows what the rows hold.
//
// An audit reads the whole log in pages and asks the database for the rest,
// so it needs little memory however long the log is. It may run beside
// appends; what is appended after its start is not audited.
package verify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Source is a log that can be audited. The Stores of packages postgres and
// sqlite are; they name their tables and columns alike.
type Source interface {
	// Audit runs a query and calls row once for each row of its answer.
	Audit(ctx context.Context, query string, row func(scan func(dest ...any) error) error) error
}

// Check names what a fault breaks.
type Check string

// The checks, in the order in which they are made.
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
	Head    eventstore.Position `json:"head"` // when the audit began
	Commits int64               `json:"commits"`
	Events  int64               `json:"events"`
	Streams int64               `json:"streams"`
	// Faults has at most one fault per check, the first by position; they are
	// sorted by position. A clean log has none.
	Faults []Fault `json:"faults"`
}

const pageSize = 500

// Options are what an audit may be told besides its log.
type Options struct {
	// Progress is told which check is being made and, while rows are read, how
	// far that is; at is 0 for a check that the database makes as a whole. It
	// is called in the goroutine of the audit, after each page.
	Progress func(check Check, at, head eventstore.Position)
}

// Log audits a log. The error says why the audit could not be made; what is
// wrong with the log is in the report.
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
	slices.SortStableFunc(a.report.Faults, func(x, y Fault) int { return cmp.Compare(x.Position, y.Position) })
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

// pages reads the rows and the view side by side.
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
		unread := doubled(rows) // rows that nothing can be compared with
		last := after
		for _, r := range rows {
			first := r.Position - r.N + 1
			switch {
			case r.N < 1 || r.Position < r.N || r.Version < r.N:
				a.fault(Rows, r.Position, "a row of %d events says position %d and version %d", r.N, r.Position, r.Version)
			case first > last+1:
				a.fault(Positions, last+1, "positions %d to %d are missing", last+1, first-1)
			case first <= last:
				a.fault(Positions, first, "positions %d to %d are there twice", first, last)
			}
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
			if unread[r.Position] {
				continue
			}
			for i, e := range c.Events {
				if !json.Valid(e.Data) {
					a.fault(Rows, r.Position, "the data of event %d is not valid JSON", i)
				}
				want = append(want, shown{
					Pos: int64(c.First()) + int64(i), Version: int64(c.FirstVersion()) + int64(i),
					Stream: c.Stream, Key: c.Key, Type: e.Type, Form: int64(e.Form), Data: canonical(e.Data),
				})
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

// doubled returns the positions that several rows have. The view shows their
// events in no certain order.
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

// shown is what the view says of an event.
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
			a.fault(View, s.Pos, "the view shows position %d, which no row holds", s.Pos)
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

// canonical drops white space outside of strings, which a database may drop
// or add.
func canonical(data []byte) string {
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return string(data)
	}
	return b.String()
}

// count finds rows that paging can't see: a second one at the end of a page.
func (a *audit) count() error {
	a.progress(Positions, 0)
	return a.query(func(scan func(...any) error) error {
		var n int64
		err := scan(&n, &a.report.Streams)
		if err == nil && n != a.report.Commits {
			a.fault(Positions, 0, "the log has %d rows, and %d were read in order", n, a.report.Commits)
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
			a.fault(Versions, pos, "versions %d to %d of %s are there twice", first, before, s)
		default:
			a.fault(Versions, pos, "version %d of %s lies before version %d, at position %d", first, s, before, beforePos)
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
		a.fault(Keys, pos, "the key %q of %s is there twice", key, s)
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
