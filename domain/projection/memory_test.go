package projection_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
)

// holders counts the books that each person has.
type holders map[string]int

func holding() projection.Memory[holders] {
	return projection.Memory[holders]{
		Name: "holders",
		New:  func() holders { return holders{} },
		On:   projection.Handlers[holders]{projection.On(func(_ projection.At, e lent, h *holders) { (*h)[e.To]++ })},
		Scenarios: projection.Scenarios{
			"each book counts": projection.Given("shelf/a", lent{To: "bob"}).And("shelf/b", lent{To: "bob"}, lent{To: "eve"}).
				Becomes(`{"bob": 2, "eve": 1}`),
		},
	}
}

func TestDefineMemoryReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	type stranger struct{}
	c := library()
	projection.DefineMemory(c, projection.Memory[holders]{Name: "Odd", On: projection.Handlers[holders]{
		projection.On[put, holders](nil),
		projection.OnKey(func(at projection.At, _ put) string { return at.ID }, func(projection.At, put, *holders) {}),
	}})
	projection.DefineMemory(c, projection.Memory[holders]{Name: "empty"})
	foreign := holding()
	foreign.Name = "foreign"
	foreign.On = append(foreign.On, projection.On(func(projection.At, stranger, *holders) {}))
	foreign.Scenarios = projection.Scenarios{
		"rows":    projection.Given("shelf/a", lent{}).Shows("a", "{}"),
		"nothing": projection.Given("shelf/a", lent{}),
	}
	projection.DefineMemory(c, foreign)
	projection.Define(c, books())
	taken := holding()
	taken.Name = "books"
	projection.DefineMemory(c, taken)
	err := c.Err()
	if err == nil {
		t.Fatal("nothing is reported")
	}
	for _, want := range []string{
		`memory projection "Odd": the Name has the character 'O'`,
		"handler 1 of On, of projection_test.put, is nil",
		"handler 2 of On, of projection_test.put, has a key",
		`memory projection "empty": On has no handlers`,
		`memory projection "foreign": handler 2 takes a projection_test.stranger, which no aggregate`,
		`scenario "rows" is not complete: that of a memory`,
		`scenario "nothing" is not complete: that of a memory`,
		`memory projection "books": the name is already taken`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems lack %q:\n%v", want, err)
		}
	}
}

func TestScenariosOfMemoryRun(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*projection.Memory[holders])
		want   string // "" passes
	}{
		"as it is": {func(*projection.Memory[holders]) {}, ""},
		"another state": {func(m *projection.Memory[holders]) {
			m.Scenarios["each book counts"] = projection.Given("shelf/a", lent{}).Becomes("{}")
		}, "it should be {}"},
		"no JSON": {func(m *projection.Memory[holders]) {
			m.Scenarios["each book counts"] = projection.Given("shelf/a", lent{}).Becomes("{")
		}, "not JSON"},
		"a state of before": {func(m *projection.Memory[holders]) { shared := holders{}; m.New = func() holders { return shared } }, "only their arguments"},
	} {
		m := holding()
		test.change(&m)
		c := library()
		d := projection.DefineMemory(c, m)
		if err := c.Err(); err != nil {
			t.Fatal(err)
		}
		err := d.Scenarios()[0].Run()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestOutcomesOfMemoryAreItsStates(t *testing.T) {
	t.Parallel()
	prints := map[string]bool{}
	for revision := range 2 {
		c := library()
		m := holding()
		m.Revision = revision
		d := projection.DefineMemory(c, m)
		if err := c.Err(); err != nil {
			t.Fatal(err)
		}
		outcomes, err := d.Outcomes()
		if got := string(outcomes["each book counts"].State); err != nil || got != `{"bob":2,"eve":1}` {
			t.Errorf("the outcome is %s, %v", got, err)
		}
		prints[d.Fingerprint()] = true
		if len(d.Uncovered()) != 0 || !d.Reads(aggregate.EventName{Type: "shelf", Event: "lent"}) || d.Reads(aggregate.EventName{Type: "shelf", Event: "put"}) {
			t.Errorf("it reads %v, and no scenario has %v", d.Events(), d.Uncovered())
		}
	}
	if len(prints) != 2 {
		t.Error("another revision has the same fingerprint")
	}
}

// one is a node's state of one memory.
type one struct{ state any }

func (o one) ReadMemory(_ *projection.MemoryDefinition, read func(any, uint64)) error {
	read(o.state, 7)
	return nil
}

func TestStateIsReadWithItsType(t *testing.T) {
	t.Parallel()
	d := projection.DefineMemory(library(), holding())
	var got int
	if err := d.Read(one{&holders{"bob": 3}}, func(h *holders, position uint64) { got = (*h)["bob"] + int(position) }); err != nil || got != 10 {
		t.Errorf("got %d, %v", got, err)
	}
	if raw, err := json.Marshal(d.NewState()); err != nil || string(raw) != "{}" {
		t.Errorf("a new state is %s, %v", raw, err)
	}
}
