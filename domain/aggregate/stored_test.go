package aggregate_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Order is an aggregate whose event changed without a new form: "price" in euros
// became "cents".
type Order struct{ Cents int }

type (
	Place struct {
		Cents int `json:"cents"`
	}
	Placed struct {
		Cents int             `json:"cents"`
		Note  string          `json:"note,omitempty"`
		Lines []OrderLine     `json:"lines,omitempty"`
		By    map[string]Line `json:"by,omitempty"`
		Raw   json.RawMessage `json:"raw,omitempty"`
		Gift  *Line           `json:"gift"`
	}
	OrderLine struct {
		Dish  string `json:"dish"`
		Parts []Line `json:"parts"`
	}
	Line struct {
		Count int `json:"count"`
	}
)

func (c Place) Decide(aggregate.Call, Order) (aggregate.Decision[Order], error) {
	return aggregate.Emit(Placed{Cents: c.Cents})
}

func (e Placed) Apply(o *Order) { o.Cents = e.Cents }

func orders(t *testing.T) *aggregate.Catalog {
	t.Helper()
	var c aggregate.Catalog
	aggregate.Define(&c, aggregate.Type[Order]{
		Name: "order", Access: everyone,
		Commands: aggregate.Commands[Order]{"place": Place{}},
		Events:   aggregate.Events[Order]{"placed": Placed{}},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return &c
}

func TestCheckStoredNamesMembersThatDiffer(t *testing.T) {
	t.Parallel()
	c := orders(t)
	for name, test := range map[string]struct {
		data             string
		unknown, missing string
	}{
		"as declared":               {`{"cents":4,"gift":null}`, "", ""},
		"with everything":           {`{"cents":4,"note":"x","lines":[{"dish":"a","parts":[{"count":1}]}],"by":{"a":{"count":1}},"raw":{"any":1},"gift":{"count":1}}`, "", ""},
		"with nulls":                {`{"cents":4,"lines":null,"by":null,"gift":null}`, "", ""},
		"in another case":           {`{"Cents":4,"gift":null}`, "", ""},
		"before a member was added": {`{"gift":null}`, "", ""},
		"a renamed member":          {`{"price":4,"gift":null}`, "price", "cents"},
		"a newer program's member":  {`{"cents":4,"gift":null,"tip":[{"a":"\u00e9"}]}`, "tip", ""},
		"inside nested lists":       {`{"cents":4,"gift":null,"lines":[{"dish":"a","parts":[{"count":1},{"number":2},{"number":3}]}]}`, "lines[].parts[].number", "lines[].parts[].count"},
		"in a map":                  {`{"cents":4,"gift":null,"by":{"ada":{"number":1}}}`, "by.ada.number", "by.ada.count"},
		"in a pointer":              {`{"cents":4,"gift":{"number":1}}`, "gift.number", "gift.count"},
		"not JSON":                  {`{"price":`, "", ""},
	} {
		err := c.CheckStored("order", "placed", 1, json.RawMessage(test.data))
		wrong, _ := errors.AsType[*aggregate.FormError](err)
		if wrong == nil {
			wrong = &aggregate.FormError{}
		}
		missing := wrong.Missing
		if test.missing == "" {
			missing = nil // irrelevant without an unknown member
		}
		if strings.Join(wrong.Unknown, " ") != test.unknown || strings.Join(missing, " ") != test.missing || wrong.Misread() != (test.missing != "") {
			t.Errorf("%s: got %+v", name, wrong)
		}
		shown, err := c.Show("order", "placed", 1, json.RawMessage(test.data))
		if (err != nil) != (test.missing != "") || err == nil && string(shown) != test.data {
			t.Errorf("%s: shows %s, %v", name, shown, err)
		}
		if test.missing != "" && (!strings.Contains(err.Error(), "aggregate.Reads") || !strings.Contains(err.Error(), test.unknown)) {
			t.Errorf("%s: the error does not say what to do: %v", name, err)
		}
	}
	for _, other := range []struct {
		typ, event string
		form       int
	}{{"order", "placed", 2}, {"order", "lost", 1}, {"lost", "placed", 1}} {
		if err := c.CheckStored(other.typ, other.event, other.form, json.RawMessage(`{"price":1}`)); err != nil {
			t.Errorf("%+v: %v", other, err)
		}
	}
	if err := c.CheckStored("order", "placed", 0, json.RawMessage(`{"price":1}`)); err == nil {
		t.Error("form 0 was not checked as form 1")
	}
}

func TestCheckStoredAllocatesAtMostOnce(t *testing.T) {
	c := orders(t)
	data := json.RawMessage(`{"cents":4,"note":"x","lines":[{"dish":"a","parts":[{"count":1}]}],"gift":{"count":1}}`)
	if n := testing.AllocsPerRun(100, func() {
		if err := c.CheckStored("order", "placed", 1, data); err != nil {
			t.Error(err)
		}
	}); n > 1 { // for the path
		t.Errorf("%v allocations", n)
	}
}
