package engine

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Three releases of one application, whose event "logged" has three forms: a text; a
// text and whether it is loud; and lines.
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

// Each release reads the events of the earlier ones and uses only its own snapshots. An
// older release leaves the aggregate to other nodes.
func TestThreeReleasesReadOneLog(t *testing.T) {
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
				t.Errorf("the journal shows %d lines, %d of them loud: %s", len(j.Lines), j.Loud, state.Data)
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
			t.Errorf("release 2 used %d snapshots and loaded %d events", s.SnapshotsUsed, s.EventsLoaded)
		}
		waitStats(t, second, func(s Stats) bool { return s.Snapshots+s.SnapshotsDropped >= 2 })

		third := start(t, Config{Store: log(nil), Catalog: release(t, 3)})
		send(third, 24, 6, func(i int) any { return m{"lines": []string{line(i), line(i)}, "loud": true} })
		shows(third, 36, 18)
		if s := third.Stats(); s.SnapshotsUsed != 0 || s.EventsLoaded != 24 {
			t.Errorf("release 3 used %d snapshots and loaded %d events", s.SnapshotsUsed, s.EventsLoaded)
		}
		waitStats(t, third, func(s Stats) bool { return s.Snapshots+s.SnapshotsDropped >= 2 })

		// A release uses its own snapshot.
		again := start(t, Config{Store: log(nil), Catalog: release(t, 3)})
		shows(again, 36, 18)
		if s := again.Stats(); s.SnapshotsUsed != 1 || s.EventsLoaded > 5 {
			t.Errorf("release 3 again used %d snapshots and loaded %d events", s.SnapshotsUsed, s.EventsLoaded)
		}

		// During a rolling upgrade release 2 still runs, and leaves events that it does
		// not know to other nodes.
		old := start(t, Config{Store: log(nil), Catalog: release(t, 2)})
		c := cmd("a", "late", "jot", m{"text": "x", "loud": false})
		c.Stream = stream
		if o := do(t, old, c); o.Failure == nil || !o.Failure.Elsewhere {
			t.Errorf("an older release replies %+v", o)
		}
	})
}

// Two releases of a shop. The second changed the members of the event "placed" without
// a new form: its author forgot the upcaster.
type (
	shop     struct{ Cents int }
	placeOne struct {
		Price int `json:"price"`
	}
	placeTwo struct {
		Cents int `json:"cents"`
	}
	placedOne placeOne
	placedTwo placeTwo
)

func (c placeOne) Decide(aggregate.Call, shop) (aggregate.Decision[shop], error) {
	return aggregate.Emit[shop](placedOne(c))
}

func (c placeTwo) Decide(aggregate.Call, shop) (aggregate.Decision[shop], error) {
	return aggregate.Emit[shop](placedTwo(c))
}

func (e placedOne) Apply(s *shop) { s.Cents += 100 * e.Price }
func (e placedTwo) Apply(s *shop) { s.Cents += e.Cents }

func shops(t testing.TB, c aggregate.Command[shop], e aggregate.Event[shop]) *aggregate.Catalog {
	t.Helper()
	var all aggregate.Catalog
	aggregate.Define(&all, aggregate.Type[shop]{
		Name: "shop", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[shop]{"place": c}, Events: aggregate.Events[shop]{"placed": e},
	})
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	return &all
}

func TestEventOfAnotherShapeIsRefusedAndLoggedOnce(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		stream := eventstore.StreamID{Type: "shop", ID: "a"}
		place := func(key string, data any) command.Command {
			c := cmd("a", key, "place", data)
			c.Stream = stream
			return c
		}
		first := start(t, Config{Store: log(nil), Catalog: shops(t, placeOne{}, placedOne{})})
		granted(t, do(t, first, place("1", m{"price": 4})), 1)

		var out logged
		second := start(t, Config{Store: log(nil), Catalog: shops(t, placeTwo{}, placedTwo{}), Logger: out.logger()})
		for i := range 3 {
			if f := failed(t, do(t, second, place(fmt.Sprint("two", i), m{"cents": 5})), command.CodeUnavailable, command.RetryLater); !f.Elsewhere {
				t.Errorf("%+v is not sent to another node", f)
			}
			getFails(t, second, command.Get{Stream: stream}, command.CodeUnavailable)
		}
		text := out.String()
		if strings.Count(text, "level=ERROR") != 1 || strings.Count(text, "would misread") != 1 {
			t.Errorf("the form is not logged once:\n%s", text)
		}
		for _, say := range []string{"stream=shop/a", "version=1", "event=placed", "form=1", "[price]", "[cents]", "aggregate.Reads"} {
			if !strings.Contains(text, say) {
				t.Errorf("the log lacks %q:\n%s", say, text)
			}
		}
		granted(t, do(t, first, place("2", m{"price": 1})), 2) // the first release still works
	})
}
