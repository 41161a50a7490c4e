package storetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

// testVerifyUnconstrained plants faults that the constraints of a store keep out,
// one at a time. A broken disk, manual changes or a merged backup may leave them.
// The audit finds each fault at its first position.
func testVerifyUnconstrained(t *testing.T, log Log) {
	f := open(t, log)
	all := f.fill()
	log.Unconstrain(t)
	log.Exec(t, `create table kept as select * from event`) // the sound view
	targets := newTargets(t, all)
	for _, fault := range slices.Concat(targets.rowFaults(), targets.viewFaults(), targets.allFaults()) {
		for _, sql := range fault.plant {
			log.Exec(t, sql)
		}
		report, err := verify.Log(t.Context(), f)
		if err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		for i := range report.Faults {
			if report.Faults[i].Reason == "" {
				t.Errorf("%s: %v has no reason", fault.name, report.Faults[i])
			}
			report.Faults[i].Reason = ""
		}
		if !slices.Equal(report.Faults, fault.want) {
			t.Errorf("%s: found %v, want %v", fault.name, report.Faults, fault.want)
		}
		for _, sql := range fault.repair {
			log.Exec(t, sql)
		}
	}
}

// planted is a fault: the SQL that makes and repairs it, and the faults that the
// audit reports.
type planted struct {
	name          string
	plant, repair []string
	want          []verify.Fault
}

func at(check verify.Check, p eventstore.Position) []verify.Fault {
	return []verify.Fault{{Check: check, Position: p}}
}

// targets are the commits that faults change: three of one stream with the same
// number of events, the last one, and the first of the log.
type targets struct {
	a, b, c, last, first eventstore.Commit
	afterFirst           eventstore.Position // the next commit on the stream of first
}

func newTargets(t *testing.T, all []eventstore.Commit) targets {
	t.Helper()
	var same []eventstore.Commit
	for _, c := range all {
		if c.Stream == all[0].Stream && len(c.Events) == len(all[0].Events) {
			same = append(same, c)
		}
	}
	if len(same) < 3 {
		t.Fatalf("the log has %d commits of one stream and size, want 3", len(same))
	}
	return targets{same[0], same[1], same[2], all[len(all)-1], all[0], nextOf(all, 0)}
}

// set returns the SQL that changes columns of a commit.
func set(c eventstore.Commit, columns string, args ...any) string {
	return fmt.Sprintf(`update "commit" set `+fmt.Sprintf(columns, args...)+` where pos = %d`, c.Position)
}

// takeFrom returns the SQL that copies a column from one commit to another.
func takeFrom(from, to eventstore.Commit, column string) string {
	return set(to, `%s = (select %[1]s from "commit" where pos = %d)`, column, from.Position)
}

func (x targets) rowFaults() []planted {
	a, b, c, last := x.a, x.b, x.c, x.last
	swap := []string{
		set(a, `pos = 100000`),
		set(b, `pos = %d`, a.Position),
		fmt.Sprintf(`update "commit" set pos = %d where pos = 100000`, b.Position),
	}
	twin := fmt.Sprintf(`insert into "commit" (pos, n, agg_type, agg_id, version, key, hash, at, meta, events)
		select pos, n, agg_type, 'twin', n, key, hash, at, meta, events from "commit" where pos = %d`, last.Position)
	return []planted{
		{"a commit out of place", swap, swap, at(verify.Versions, a.Position)},
		{
			"a key three times",
			[]string{set(b, `key = '%s'`, a.Key), set(c, `key = '%s'`, a.Key)},
			[]string{set(b, `key = '%s'`, b.Key), set(c, `key = '%s'`, c.Key)},
			at(verify.Keys, b.Position),
		},
		{
			"a version twice, and the next one missing",
			[]string{set(b, `version = %d`, a.Version)},
			[]string{set(b, `version = %d`, b.Version)},
			at(verify.Versions, b.Position),
		},
		{
			"a commit in another stream",
			[]string{set(last, `agg_id = 'stray'`)},
			[]string{set(last, `agg_id = '%s'`, last.Stream.ID)},
			at(verify.Versions, last.Position),
		},
		{
			"the last commit twice",
			[]string{twin},
			[]string{`delete from "commit" where agg_id = 'twin'`},
			at(verify.Positions, last.First()),
		},
		{
			"more events than the row counts",
			[]string{set(b, `events = '[{"t":"x","d":1},{"t":"x","d":1},{"t":"x","d":1},{"t":"x","d":1}]'`)},
			[]string{takeFrom(a, b, "events")},
			at(verify.Rows, b.Position),
		},
		{
			"a hash of 3 bytes",
			[]string{set(b, `hash = substr(hash, 1, 3)`)},
			[]string{takeFrom(a, b, "hash")},
			at(verify.Rows, b.Position),
		},
		{
			"meta data of another type",
			[]string{set(b, `meta = '[]'`)},
			[]string{set(b, `meta = '{"client":"ada"}'`)},
			at(verify.Rows, b.Position),
		},
	}
}

// viewFaults replaces the view with one of the table shown.
func (x targets) viewFaults() []planted {
	repair := []string{`delete from shown`, `insert into shown select * from kept`}
	return []planted{
		{
			"a view without some events",
			[]string{
				`create table shown as select * from event`, `drop view event`, `create view event as select * from shown`,
				fmt.Sprintf(`delete from shown where pos = %d`, x.b.Position),
			},
			repair, at(verify.View, x.b.Position),
		},
		{
			"a view that shows another event",
			[]string{fmt.Sprintf(`update shown set type = 'other' where pos = %d`, x.c.Position)},
			repair, at(verify.View, x.c.Position),
		},
		{
			"a view with an event of no row",
			[]string{fmt.Sprintf(`update shown set commit_pos = pos where pos = %d`, x.last.Position), fmt.Sprintf(
				`insert into shown select pos + 1, agg_type, agg_id, version + 1, type, form, data, at, key, client, commit_pos from shown where pos = %d`, x.last.Position)},
			repair, at(verify.View, x.last.Position+1),
		},
	}
}

// allFaults makes every check fail. The missing first commit is a fault of
// positions, versions and the view.
func (x targets) allFaults() []planted {
	return []planted{{
		name: "all checks fail together",
		plant: []string{
			fmt.Sprintf(`delete from "commit" where pos = %d`, x.first.Position),
			set(x.c, `key = '%s'`, x.b.Key), set(x.last, `hash = substr(hash, 1, 3)`),
		},
		want: []verify.Fault{
			{Check: verify.Positions, Position: 1},
			{Check: verify.View, Position: 2},
			{Check: verify.Versions, Position: x.afterFirst},
			{Check: verify.Keys, Position: x.c.Position},
			{Check: verify.Rows, Position: x.last.Position},
		},
	}}
}
