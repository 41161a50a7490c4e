package process_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
)

var toAda = lent{To: "ada", Until: noon}

// complete are scenarios that run every function of loans.
func complete() process.Scenarios {
	return process.Scenarios{
		"a reader gets a letter": process.
			When("book/emma", toAda).
			Sends("letters/ada", write{Text: "enjoy"}).
			Shows(`{"to": "ada", "remind": "2026-05-01T12:00:00Z", "refused": 0, "back": false}`),
		"a reader is reminded every week": process.
			Given("book/emma", toAda).
			And("book/ulysses", lent{To: "bob", Until: noon.Add(week)}).
			Woken(noon).
			Sends("letters/ada", write{Text: "bring it back"}).
			Woken(noon.Add(week)).
			Sends("letters/ada", write{Text: "bring it back"}).
			Sends("letters/bob", write{Text: "bring it back"}),
		"the staff learns of a letter that was refused": process.
			Given("book/emma", toAda).
			Rejected("letters/ada", write{Text: "enjoy"}, errNoText).
			Sends("letters/staff", write{Text: "letters/ada write rejected no_text"}),
		"a book that is back needs nothing more": process.
			Given("book/emma", toAda).
			When("book/emma", returned{}).
			SendsNothing().
			Done(),
	}
}

func TestScenariosRunEachFunction(t *testing.T) {
	t.Parallel()
	p := loans()
	p.Scenarios = complete()
	d := defined(t, library(), p)
	for _, s := range d.Scenarios() {
		if err := s.Run(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	if u := d.Uncovered(); len(u) > 0 {
		t.Errorf("uncovered: %q", u)
	}
	outcomes, err := d.Outcomes()
	if err != nil {
		t.Fatal(err)
	}
	o := outcomes["the staff learns of a letter that was refused"]
	if len(o.Sends) != 2 || o.Sends[0].Key != "~loans:1.0:0" || o.Sends[1].Key != "~loans:2.0:0" || o.Sends[1].To != "letters/staff" || len(o.States) != 1 {
		t.Errorf("outcome %+v", o)
	}
}

func TestUncoveredNamesFunctionsWithoutScenario(t *testing.T) {
	t.Parallel()
	p := loans()
	p.Scenarios = process.Scenarios{"one": process.When("book/emma", toAda).Sends("letters/ada", write{Text: "enjoy"})}
	got := strings.Join(defined(t, library(), p).Uncovered(), "; ")
	want := "handler 2, of process_test.returned,; the function Woken; the function Rejected; the function Done"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFalseScenariosSayWhatHappened(t *testing.T) {
	t.Parallel()
	when := process.When("book/emma", toAda)
	for name, one := range map[string]struct {
		scenario process.Scenario
		want     string
	}{
		"another command": {
			when.Sends("letters/bob", write{Text: "enjoy"}),
			`should be sent: write {"text":"enjoy"} to letters/bob; sent: write {"text":"enjoy"} to letters/ada`,
		},
		"more commands": {
			when.Sends("letters/ada", write{Text: "enjoy"}).Sends("letters/ada", write{Text: "again"}),
			`should be sent: write {"text":"enjoy"} to letters/ada, write {"text":"again"} to letters/ada; sent:`,
		},
		"a command":     {when.SendsNothing(), `nothing should be sent; sent: write {"text":"enjoy"} to letters/ada`},
		"another state": {when.Shows(`{"to": "bob"}`), `the state of "emma"`},
		"no state":      {when.When("book/emma", returned{}).Shows(`{}`), `the state of "emma" should be {}, but it has none`},
		"not done":      {when.Done(), `"emma" should be done, but its state is {`},
		"another time": {
			when.Woken(noon.Add(time.Second)).SendsNothing(),
			"no sequence waits until 2026-05-01T12:00:01Z; waiting: emma until 2026-05-01T12:00:00Z",
		},
		"a refusal of what was not sent": {
			when.Rejected("letters/bob", write{Text: "enjoy"}, errNoText).SendsNothing(),
			`no step before sends write {"text":"enjoy"} to letters/bob; sent: write {"text":"enjoy"} to letters/ada`,
		},
	} {
		p := loans()
		p.Scenarios = process.Scenarios{name: one.scenario}
		if err := defined(t, library(), p).Scenarios()[0].Run(); err == nil || !strings.Contains(err.Error(), one.want) {
			t.Errorf("%s: got %v, want %s", name, err, one.want)
		}
	}
}

func TestImpureHandlerFailsItsScenario(t *testing.T) {
	t.Parallel()
	runs := 0
	p := process.Type[loan]{
		Name: "impure",
		On: process.Handlers[loan]{process.On(func(_ process.At, _ lent, s *loan) process.Commands {
			runs++
			s.Refused = runs
			return nil
		})},
		Scenarios: process.Scenarios{"one": process.When("book/emma", toAda).SendsNothing()},
	}
	if err := defined(t, library(), p).Scenarios()[0].Run(); err == nil || !strings.Contains(err.Error(), "may use only their arguments") {
		t.Errorf("got %v", err)
	}
}

func TestImpossibleScenariosAreReported(t *testing.T) {
	t.Parallel()
	type unknown struct{}
	wrong := process.Scenarios{
		"a": process.Given("book/emma", toAda),
		"b": {},
		"c": process.Given("book/emma", toAda).SendsNothing().When("book/emma", toAda).SendsNothing(),
		"d": process.When("shelf/emma", toAda).SendsNothing(),
		"e": process.When("book/emma", unknown{}).SendsNothing(),
		"f": process.When("letters/ada", written{}).SendsNothing(),
		"g": process.When("book/emma", toAda).Sends("letters/ada", unknown{}),
		"h": process.When("book/emma", toAda).Sends("post/ada", write{}),
		"i": process.Ticked(noon).SendsNothing(),
		"j": process.When("book/emma", toAda).Rejected("letters/ada", write{Text: "enjoy"}, aggregate.Reject("other", "")).SendsNothing(),
		"k": process.When("book/emma", toAda).Sends("letters/ada", write{}).SendsNothing(),
		"l": process.Given("loans/emma").When("book/emma", toAda).SendsNothing(),
		"n": process.When("book/emma", toAda).Woken(noon).At(noon).SendsNothing(),
		"m": process.When("book/emma", toAda).Sends("letters/a/b", write{}),
	}
	p := loans()
	p.Scenarios = wrong
	c := library()
	process.Define(c, p)
	text := c.Err().Error()
	for _, want := range []string{
		`scenario "a": it is not complete`, `scenario "b": it is not complete`, `scenario "c": Sends, SendsNothing, Shows and Done belong after When`,
		`scenario "d": "shelf/emma" is no stream of the catalog`, `scenario "e": aggregate: process_test.unknown is emitted but not registered`,
		`scenario "f": it has When with a process_test.written, which no handler takes`,
		`scenario "g": process_test.unknown cannot be sent to letters/ada: it is not in the Commands of letters`,
		`scenario "h": a command cannot be sent to "post/ada": there is no aggregate type "post"`,
		`scenario "i": it has Ticked, which belongs to the scenarios of a schedule`,
		`scenario "j": letters does not declare the rejection`, `scenario "k": it has both Sends and SendsNothing`,
		`scenario "l": "loans/emma" is no stream of the catalog`,
		`scenario "n": At and By belong after events`,
		`scenario "m": a command cannot be sent to an aggregate of type letters: its id has the character '/'`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if n := strings.Count(text, "\n") + 1; n != len(wrong) {
		t.Errorf("%d problems, want %d:\n%s", n, len(wrong), text)
	}
}
