package aggregate_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Grade is an enumeration.
type Grade string

func (Grade) Values() []string { return []string{"mint", "used", "it's \"broken\""} }

type Stamp struct {
	Grade Grade   `json:"grade,omitzero"`
	Past  []Grade `json:"past,omitempty"`
}

type GradeStamp struct {
	Grade Grade            `json:"grade"`
	Or    *Grade           `json:"or"`
	Parts map[string]Grade `json:"parts,omitempty"`
	As    string           `json:"as,omitempty"`
}

type StampGraded struct {
	Grade Grade `json:"grade"`
}

func (c GradeStamp) Decide(aggregate.Call, Stamp) (aggregate.Decision[Stamp], error) {
	if c.As != "" {
		return aggregate.Emit(StampGraded{Grade: Grade(c.As)})
	}
	return aggregate.Emit(StampGraded{Grade: c.Grade})
}

func (e StampGraded) Apply(s *Stamp) { s.Grade, s.Past = e.Grade, append(s.Past, e.Grade) }

func stamps(view func(Stamp) any, scenarios aggregate.Scenarios[Stamp]) (*aggregate.Definition, error) {
	var c aggregate.Catalog
	d := aggregate.Define(&c, aggregate.Type[Stamp]{
		Name: "stamp", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Stamp]{"grade": GradeStamp{}}, Events: aggregate.Events[Stamp]{"graded": StampGraded{}},
		View: view, Scenarios: scenarios,
	})
	return d, c.Err()
}

func TestCommandWithUndeclaredValueIsRefusedWithItsMember(t *testing.T) {
	t.Parallel()
	d, err := stamps(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]string{
		`{"grade": "mint", "or": null}`:                         "",
		`{"grade": "it's \"broken\"", "or": "\u0075sed"}`:       "",
		`{"grade": "mint", "or": null, "parts": {"a": "used"}}`: "",
		`{"grade": "Mint", "or": null}`:                         `data.grade: must be "mint", "used" or "it's \"broken\"", not "Mint"`,
		`{"grade": "", "or": null}`:                             `data.grade: must be`,
		`{"grade": "mint", "or": "minted"}`:                     `data.or: must be`,
		`{"grade": "mint", "or": null, "parts": {"a": "b"}}`:    `data.parts.a: must be`,
		`{"grade": 1, "or": null}`:                              `data.grade: must be a string`,
	} {
		_, err := d.DecodeCommand("grade", json.RawMessage(data))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", data, err, want)
		}
	}
}

// A value that is gone stays readable.
func TestStoredEventMayHaveUndeclaredValue(t *testing.T) {
	t.Parallel()
	d, err := stamps(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	event, err := d.DecodeEvent("graded", 1, json.RawMessage(`{"grade": "gone"}`))
	if err != nil || event != (StampGraded{Grade: "gone"}) {
		t.Errorf("got %v, %v", event, err)
	}
	if err := d.CheckStored("graded", 1, json.RawMessage(`{"grade": "gone"}`)); err != nil {
		t.Error(err)
	}
}

func TestScenarioFailsForUndeclaredValueInEventOrView(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		view     func(Stamp) any
		scenario aggregate.Scenario[Stamp]
		want     string
	}{
		"declared": {nil, aggregate.When(GradeStamp{Grade: "used"}).Then(StampGraded{Grade: "used"}), ""},
		"in an event": {
			nil, aggregate.When(GradeStamp{Grade: "used", As: "torn"}).Then(StampGraded{Grade: "torn"}),
			`event graded: data.grade: must be "mint", "used" or`,
		},
		"in a command": {nil, aggregate.When(GradeStamp{Grade: "torn"}).Then(), "no client can send this grade: data.grade: must be"},
		"in a view": {
			func(s Stamp) any { return struct{ Last []Grade }{append(s.Past, "torn")} },
			aggregate.When(GradeStamp{Grade: "used"}).Then(StampGraded{Grade: "used"}), `clients see data.Last[1]: must be`,
		},
		"before it is set": {
			func(s Stamp) any {
				return struct {
					First Grade `json:"first"`
				}{}
			},
			aggregate.When(GradeStamp{Grade: "used"}).Then(StampGraded{Grade: "used"}), "declare \"\" too, or omit it with omitzero",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := stamps(test.view, aggregate.Scenarios[Stamp]{name: test.scenario})
			if err != nil {
				t.Fatal(err)
			}
			err = d.Scenarios()[0].Run()
			if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v,\nwant %q", err, test.want)
			}
		})
	}
}

type (
	emptyEnum      string
	doubledEnum    string
	pointerEnum    string
	command[E any] struct {
		Value E `json:"value"`
	}
)

func (emptyEnum) Values() []string    { return nil }
func (doubledEnum) Values() []string  { return []string{"a", "b", "a", "\xff"} }
func (*pointerEnum) Values() []string { return []string{"a"} }

func (command[E]) Decide(aggregate.Call, Stamp) (aggregate.Decision[Stamp], error) {
	return aggregate.Emit[Stamp]()
}

func TestProblemsOfEnumerationsAndRejectionsAreReportedTogether(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	aggregate.Define(&c, aggregate.Type[Stamp]{
		Name: "stamp", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Stamp]{
			"empty": command[emptyEnum]{}, "doubled": command[doubledEnum]{}, "pointer": command[pointerEnum]{},
		},
		Events:     aggregate.Events[Stamp]{"graded": StampGraded{}},
		Rejections: aggregate.Rejections{aggregate.Reject("no", "no"), nil, aggregate.Reject("no", "not"), aggregate.Reject("No-No", "no")},
	})
	err := c.Err()
	if err == nil {
		t.Fatal("nothing is reported")
	}
	for _, want := range []string{
		"Values returns no value", `Values returns "a" twice`, `whose value "\xff" is not valid text`, "Values has a pointer receiver",
		"rejection 2 of Rejections is nil", `Rejections has the code "no" twice`, `the rejection has the code "No-No"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
}

func TestUncoveredListsRejectionsWithoutScenario(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	d := aggregate.Define(&c, aggregate.Type[Jar]{
		Name: "jar", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Jar]{"do": Do{}}, Events: aggregate.Events[Jar]{"done": Done{}},
		Rejections: aggregate.Rejections{errNo, errOther},
		Scenarios:  aggregate.Scenarios[Jar]{"no": aggregate.Given(Done{}).When(Do{What: "reject"}).Reject(errNo)},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(d.Uncovered(), ", "); got != `rejection "other"` {
		t.Errorf("got %s", got)
	}
}
