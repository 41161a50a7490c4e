package host

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// The programs below are three releases of one application, whose event
// "logged" changed its form twice: from text, to text and level, to lines.
type (
	journal struct {
		Lines []string `json:"lines"`
		Loud  int      `json:"loud"`
	}
	jotOne struct {
		Text string `json:"text"`
	}
	jotTwo struct {
		Text string `json:"text"`
		Loud bool   `json:"loud"`
	}
	jot struct {
		Lines []string `json:"lines"`
		Loud  bool     `json:"loud"`
	}
	loggedOne   jotOne
	loggedTwo   jotTwo
	loggedThree jot
)

func (c jotOne) Decide(aggregate.Call, journal) (aggregate.Decision[journal], error) {
	return aggregate.Emit[journal](loggedOne(c))
}

func (c jotTwo) Decide(aggregate.Call, journal) (aggregate.Decision[journal], error) {
	return aggregate.Emit[journal](loggedTwo(c))
}

func (c jot) Decide(aggregate.Call, journal) (aggregate.Decision[journal], error) {
	return aggregate.Emit[journal](loggedThree(c))
}

func (e loggedOne) Apply(j *journal) { j.Lines = append(j.Lines, e.Text) }
func (e loggedTwo) Apply(j *journal) { loggedThree{Lines: []string{e.Text}, Loud: e.Loud}.Apply(j) }
func (e loggedThree) Apply(j *journal) {
	j.Lines = append(j.Lines, e.Lines...)
	if e.Loud {
		j.Loud++
	}
}

// release returns the catalog of a release, 1 to 3.
func release(t testing.TB, n int) *aggregate.Catalog {
	t.Helper()
	one := aggregate.Upcast(func(old loggedOne) loggedTwo { return loggedTwo{Text: old.Text} })
	two := aggregate.Upcast(func(old loggedTwo) loggedThree { return loggedThree{Lines: []string{old.Text}, Loud: old.Loud} })
	typ := aggregate.Type[journal]{
		Name: "journal", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone}, SnapshotEvery: 5,
	}
	switch n {
	case 1:
		typ.Commands, typ.Events = aggregate.Commands[journal]{"jot": jotOne{}}, aggregate.Events[journal]{"logged": loggedOne{}}
	case 2:
		typ.Commands, typ.Events = aggregate.Commands[journal]{"jot": jotTwo{}}, aggregate.Events[journal]{"logged": loggedTwo{}}
		typ.Upcasters = aggregate.Upcasters{"logged": {one}}
	case 3:
		typ.Commands, typ.Events = aggregate.Commands[journal]{"jot": jot{}}, aggregate.Events[journal]{"logged": loggedThree{}}
		typ.Upcasters = aggregate.Upcasters{"logged": {one, two}}
	}
	var c aggregate.Catalog
	aggregate.Define(&c, typ)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return &c
}

// TestThreeForms runs three releases one after another on one log. Each reads
// what the ones before it wrote, trusts no snapshot but its own, and a release
// that is older than the log refuses to work on it.
func TestThreeForms(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		stream := eventstore.StreamID{Type: "journal", ID: "a"}
		send := func(h *Host, from, n int, data func(i int) any) {
			t.Helper()
			for i := from; i < from+n; i++ {
				c := cmd("a", fmt.Sprint(i), "jot", data(i))
				c.Stream = stream
				granted(t, do(t, h, c), eventstore.Version(i+1))
			}
		}
		shows := func(h *Host, lines, loud int) {
			t.Helper()
			state, err := h.Get(t.Context(), command.Get{Stream: stream})
			if err != nil {
				t.Fatal(err)
			}
			var j journal
			if err := json.Unmarshal(state.Data, &j); err != nil {
				t.Fatal(err)
			}
			if len(j.Lines) != lines || j.Loud != loud || j.Lines[0] != "line 0" || j.Lines[lines-1] == "" {
				t.Errorf("it shows %d lines, %d of them loud: %s", len(j.Lines), j.Loud, state.Data)
			}
		}
		line := func(i int) string { return fmt.Sprint("line ", i) }

		first := start(t, Config{Store: log(nil), Catalog: release(t, 1)})
		send(first, 0, 12, func(i int) any { return m{"text": line(i)} })
		shows(first, 12, 0)
		waitStats(t, first, func(s Stats) bool { return s.Snapshots+s.SnapshotsDropped >= 2 })

		second := start(t, Config{Store: log(nil), Catalog: release(t, 2)})
		send(second, 12, 12, func(i int) any { return m{"text": line(i), "loud": true} })
		shows(second, 24, 12)
		if s := second.Stats(); s.SnapshotsUsed != 0 || s.EventsLoaded != 12 {
			t.Errorf("release 2 used %d snapshots and read %d events", s.SnapshotsUsed, s.EventsLoaded)
		}
		waitStats(t, second, func(s Stats) bool { return s.Snapshots+s.SnapshotsDropped >= 2 })

		third := start(t, Config{Store: log(nil), Catalog: release(t, 3)})
		send(third, 24, 6, func(i int) any { return m{"lines": []string{line(i), line(i)}, "loud": true} })
		shows(third, 36, 18)
		if s := third.Stats(); s.SnapshotsUsed != 0 || s.EventsLoaded != 24 {
			t.Errorf("release 3 used %d snapshots and read %d events", s.SnapshotsUsed, s.EventsLoaded)
		}
		waitStats(t, third, func(s Stats) bool { return s.Snapshots+s.SnapshotsDropped >= 2 })

		// Its own snapshot it trusts.
		again := start(t, Config{Store: log(nil), Catalog: release(t, 3)})
		shows(again, 36, 18)
		if s := again.Stats(); s.SnapshotsUsed != 1 || s.EventsLoaded > 5 {
			t.Errorf("release 3 again used %d snapshots and read %d events", s.SnapshotsUsed, s.EventsLoaded)
		}

		// Release 2 is still there during a rolling upgrade: it hands on what
		// it does not understand.
		old := start(t, Config{Store: log(nil), Catalog: release(t, 2)})
		c := cmd("a", "late", "jot", m{"text": "x", "loud": false})
		c.Stream = stream
		if o := do(t, old, c); o.Failure == nil || !o.Failure.Elsewhere {
			t.Errorf("an older release answers %+v", o)
		}
	})
}
