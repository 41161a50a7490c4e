package storetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

// testVerifyUnconstrained plants, one at a time, the faults that a store's
// constraints keep out: what a broken disk, a careless hand or a merged backup
// may leave. Each is found, at the first position where it shows.
func testVerifyUnconstrained(t *testing.T, log Log) {
	f := open(t, log)
	all := f.fill()
	log.Unconstrain(t)
	log.Exec(t, `create table kept as select * from event`) // what the view shows now
	// Three commits of one stream, with as many events each.
	var same []eventstore.Commit
	for _, c := range all {
		if c.Stream == all[0].Stream && len(c.Events) == len(all[0].Events) {
			same = append(same, c)
		}
	}
	if len(same) < 3 {
		t.Fatalf("the log has %d commits that are alike", len(same))
	}
	a, b, c := same[0], same[1], same[2]
	last := all[len(all)-1]
	next := func(c eventstore.Commit) eventstore.Position {
		return nextOf(all, slices.IndexFunc(all, func(x eventstore.Commit) bool { return x.Position == c.Position }))
	}
	set := func(c eventstore.Commit, what string, args ...any) string {
		return fmt.Sprintf(`update "commit" set `+fmt.Sprintf(what, args...)+` where pos = %d`, c.Position)
	}
	swap := func(a, b eventstore.Commit) []string {
		return []string{
			set(a, `pos = 100000`),
			fmt.Sprintf(`update "commit" set pos = %d where pos = %d`, a.Position, b.Position),
			fmt.Sprintf(`update "commit" set pos = %d where pos = 100000`, b.Position),
		}
	}
	copied := func(c eventstore.Commit, columns string) string {
		return fmt.Sprintf(`insert into "commit" (pos, n, agg_type, agg_id, version, key, hash, at, meta, events) select %s from "commit" where pos = %d`,
			columns, c.Position)
	}
	for _, fault := range []struct {
		name  string
		plant []string
		mend  []string
		want  []verify.Fault
	}{
		{
			"a commit out of place", swap(a, b), swap(a, b),
			[]verify.Fault{{Check: verify.Versions, Position: a.Position}},
		},
		{
			"a key three times",
			[]string{set(b, `key = '%s'`, a.Key), set(c, `key = '%s'`, a.Key)},
			[]string{set(b, `key = '%s'`, b.Key), set(c, `key = '%s'`, c.Key)},
			[]verify.Fault{{Check: verify.Keys, Position: b.Position}},
		},
		{
			"a version twice, and the one behind it missing",
			[]string{set(b, `version = %d`, a.Version)},
			[]string{set(b, `version = %d`, b.Version)},
			[]verify.Fault{{Check: verify.Versions, Position: b.Position}},
		},
		{
			"a commit in another stream",
			[]string{set(last, `agg_id = 'stray'`)},
			[]string{set(last, `agg_id = '%s'`, last.Stream.ID)},
			[]verify.Fault{{Check: verify.Versions, Position: last.Position}},
		},
		{
			"the last commit twice",
			[]string{copied(last, `pos, n, agg_type, 'twin', n, key, hash, at, meta, events`)},
			[]string{`delete from "commit" where agg_id = 'twin'`},
			[]verify.Fault{{Check: verify.Positions, Position: last.First()}},
		},
		{
			"more events than the row counts",
			[]string{set(b, `events = '[{"t":"x","d":1},{"t":"x","d":1},{"t":"x","d":1},{"t":"x","d":1}]'`)},
			[]string{fmt.Sprintf(`update "commit" set events = (select events from "commit" where pos = %d) where pos = %d`, a.Position, b.Position)},
			[]verify.Fault{{Check: verify.Rows, Position: b.Position}},
		},
		{
			"a hash that is none",
			[]string{set(b, `hash = substr(hash, 1, 3)`)},
			[]string{fmt.Sprintf(`update "commit" set hash = (select hash from "commit" where pos = %d) where pos = %d`, a.Position, b.Position)},
			[]verify.Fault{{Check: verify.Rows, Position: b.Position}},
		},
		{
			"meta data of another kind",
			[]string{set(b, `meta = '[]'`)},
			[]string{set(b, `meta = '{"client":"ada"}'`)},
			[]verify.Fault{{Check: verify.Rows, Position: b.Position}},
		},
		{
			"a view that leaves out",
			[]string{
				`create table shown as select * from event`, `drop view event`, `create view event as select * from shown`,
				fmt.Sprintf(`delete from shown where pos = %d`, b.Position),
			},
			[]string{`delete from shown`, `insert into shown select * from kept`},
			[]verify.Fault{{Check: verify.View, Position: b.Position}},
		},
		{
			"a view that shows another event",
			[]string{fmt.Sprintf(`update shown set type = 'other' where pos = %d`, c.Position)},
			[]string{`delete from shown`, `insert into shown select * from kept`},
			[]verify.Fault{{Check: verify.View, Position: c.Position}},
		},
		{
			"a view that shows what no row holds",
			[]string{fmt.Sprintf(`update shown set commit_pos = pos where pos = %d`, last.Position), fmt.Sprintf(
				`insert into shown select pos + 1, agg_type, agg_id, version + 1, type, form, data, at, key, client, commit_pos from shown where pos = %d`, last.Position)},
			[]string{`delete from shown`, `insert into shown select * from kept`},
			[]verify.Fault{{Check: verify.View, Position: last.Position + 1}},
		},
		{
			"all at once",
			[]string{
				fmt.Sprintf(`delete from "commit" where pos = %d`, all[0].Position), // positions, versions, and the view
				set(c, `key = '%s'`, b.Key), set(last, `hash = substr(hash, 1, 3)`),
			},
			nil,
			[]verify.Fault{
				{Check: verify.Positions, Position: 1},
				{Check: verify.View, Position: 2},
				{Check: verify.Versions, Position: next(all[0])},
				{Check: verify.Keys, Position: c.Position},
				{Check: verify.Rows, Position: last.Position},
			},
		},
	} {
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
		for _, sql := range fault.mend {
			log.Exec(t, sql)
		}
	}
}
