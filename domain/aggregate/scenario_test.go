package aggregate_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Jar is an aggregate whose commands misbehave on request.
type Jar struct {
	Sweets map[string]int
	Calls  int
}

type Do struct {
	What string `json:"what"`
}

type Done struct {
	What string `json:"what"`
}

type Forgotten struct{}

var (
	calls     int
	errNo     = aggregate.Reject("no", "no")
	errShout  = aggregate.Reject("NO-NO", "no")
	errOther  = aggregate.Reject("other", "no")
	errBroken = errors.New("out of sweets")
)

func (c Do) Decide(call aggregate.Call, s Jar) (aggregate.Decision[Jar], error) {
	switch c.What {
	case "change the state":
		s.Sweets["ada"]++
	case "count calls":
		calls++
		return aggregate.Emit(Done{What: strings.Repeat("x", calls)})
	case "reject":
		return nil, errNo.Because("not today")
	case "shout":
		return nil, errShout
	case "reject otherwise":
		return nil, errOther
	case "fail":
		return nil, errBroken
	case "emit an unregistered event":
		return aggregate.Emit(Forgotten{})
	case "tell":
		return aggregate.Emit(Done{What: call.ID + " " + call.Client + " " + call.Time.Format(time.RFC3339) + " " + call.Claims["role"].(string)})
	case "nothing":
		return aggregate.Emit[Jar]()
	}
	return aggregate.Emit(Done(c))
}

func (e Done) Apply(s *Jar)  { s.Sweets = map[string]int{e.What: 1} }
func (Forgotten) Apply(*Jar) {}

func TestFailingScenarioReportsTheDifference(t *testing.T) {
	when := func(what string) aggregate.Attempt[Jar] { return aggregate.When(Do{What: what}) }
	tests := map[string]struct {
		scenario aggregate.Scenario[Jar]
		want     string
	}{
		"the named event":    {when("eat").Then(Done{What: "eat"}), ""},
		"rejected":           {when("reject").Reject(errNo), ""},
		"no event":           {when("nothing").Then(), ""},
		"another event":      {when("eat").Then(Done{What: "sleep"}), `should be done {"what":"sleep"}, but are done {"what":"eat"}`},
		"an event too many":  {when("eat").Then(), `should be none, but are done {"what":"eat"}`},
		"not rejected":       {when("eat").Reject(errNo), `should be rejected with "no", but was granted`},
		"not granted":        {when("reject").Then(), "should be granted, but was rejected with no: not today"},
		"another code":       {when("reject").Reject(errShout), `should be rejected with "NO-NO", but was rejected with no: not today`},
		"a code in capitals": {when("shout").Reject(errShout), "use lower-case letters"},
		"an undeclared code": {when("reject otherwise").Reject(errOther), `rejected with "other", which is not declared: add it to the Rejections of jar`},
		"a failure":          {when("fail").Then(), "Decide failed: out of sweets"},
		"an impure Decide":   {when("count calls").Then(Done{What: "x"}), "two results for the same command"},
		"an incomplete one":  {aggregate.Scenario[Jar]{}, "not complete"},
		"a changed state": {
			aggregate.Given(Done{What: "ada"}).When(Do{What: "change the state"}).Then(Done{What: "change the state"}),
			"Decide changed the state",
		},
		"an unregistered event":  {when("emit an unregistered event").Then(), "Forgotten is emitted but not registered"},
		"an unregistered past":   {aggregate.Given(Forgotten{}).When(Do{}).Then(), "given: aggregate: aggregate_test.Forgotten is emitted but not registered"},
		"another view":           {when("eat").Then(Done{What: "eat"}).Shows(`{"Sweets": {"eat": 2}, "Calls": 0}`), "clients should see"},
		"shown":                  {when("eat").Then(Done{What: "eat"}).Shows(`{"Calls": 0, "Sweets": {"eat": 1}}`), ""},
		"not JSON":               {when("eat").Then(Done{What: "eat"}).Shows(`{`), "Shows is not JSON"},
		"forbidden":              {when("eat").By("").Forbid(), ""},
		"not forbidden":          {when("eat").Forbid(), `client "someone" should be forbidden to send do to jar/1`},
		"forbidden, not granted": {when("eat").By("").Then(), "say who sends it with By"},
		"client, aggregate, time and claims": {
			when("tell").By("ada").On("7").At(time.Date(2026, 5, 1, 14, 0, 0, 0, time.FixedZone("", 7200))).
				Claiming(map[string]any{"role": "admin"}).
				Then(Done{What: "7 ada 2026-05-01T12:00:00Z admin"}), "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var c aggregate.Catalog
			d := aggregate.Define(&c, aggregate.Type[Jar]{
				Name:       "jar",
				Access:     aggregate.Access{Send: aggregate.Authenticated, Read: aggregate.Anyone},
				Commands:   aggregate.Commands[Jar]{"do": Do{}},
				Events:     aggregate.Events[Jar]{"done": Done{}},
				Rejections: aggregate.Rejections{errNo},
				Scenarios:  aggregate.Scenarios[Jar]{name: test.scenario},
			})
			if err := c.Err(); err != nil {
				t.Fatal(err)
			}
			err := d.Scenarios()[0].Run()
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v,\nwant %q", err, test.want)
			}
		})
	}
}

func TestUncoveredListsCommandsAndEventsWithoutScenario(t *testing.T) {
	t.Parallel()
	sink := typeOf(t, &Catalog, "sink")
	want := `command "fill", command "reorder", event "filled"`
	if got := strings.Join(sink.Uncovered(), ", "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := typeOf(t, &Catalog, "seat").Uncovered(); len(got) != 0 {
		t.Errorf("uncovered in the seat's scenarios: %s, want nothing", got)
	}
}

func TestRejectionsAreComparedByCode(t *testing.T) {
	t.Parallel()
	err := errNo.Because("%d is not a number", 7)
	if !errors.Is(err, errNo) || errors.Is(err, errShout) || err.Error() != "no: 7 is not a number" || errNo.Message != "no" {
		t.Error(err)
	}
}
