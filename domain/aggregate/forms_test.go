package aggregate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Trip has an event in its third form.
type Trip struct{ Stops []Stop }

type (
	Stop struct {
		Name    string `json:"name"`
		Minutes int    `json:"minutes"`
	}
	Go struct {
		To []Stop `json:"to"`
	}
	GoneTo struct { // form 3: several stops, each with its minutes
		Stops []Stop `json:"stops"`
	}
	goneToTwo struct { // form 2: one stop, with hours
		Stop  string  `json:"stop"`
		Hours float64 `json:"hours"`
	}
	goneToOne struct { // form 1: only a name
		Name string `json:"name"`
	}
)

func (c Go) Decide(aggregate.Call, Trip) (aggregate.Decision[Trip], error) {
	return aggregate.Emit[Trip](GoneTo{Stops: c.To})
}

func (e GoneTo) Apply(t *Trip) { t.Stops = append(t.Stops, e.Stops...) }

func trip(scenarios aggregate.Scenarios[Trip]) aggregate.Type[Trip] {
	return aggregate.Type[Trip]{
		Name:     "trip",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Trip]{"go": Go{}},
		Events:   aggregate.Events[Trip]{"gone_to": GoneTo{}},
		Upcasters: aggregate.Upcasters{"gone_to": {
			aggregate.Upcast(func(old goneToOne) goneToTwo { return goneToTwo{Stop: old.Name, Hours: 1} }),
			aggregate.Upcast(func(old goneToTwo) GoneTo {
				return GoneTo{Stops: []Stop{{Name: old.Stop, Minutes: int(60 * old.Hours)}}}
			}),
		}},
		Scenarios: scenarios,
	}
}

func TestReadsScenarioComparesOldForms(t *testing.T) {
	t.Parallel()
	rome := GoneTo{Stops: []Stop{{Name: "Rome", Minutes: 60}}}
	for name, c := range map[string]struct {
		scenario aggregate.Scenario[Trip]
		says     string // "" if the scenario holds
	}{
		"form 1, by both upcasters": {aggregate.Reads("gone_to", 1, `{"name":"Rome"}`, rome).Shows(`{"Stops":[{"name":"Rome","minutes":60}]}`), ""},
		"form 2, by one":            {aggregate.Reads("gone_to", 2, `{"stop":"Rome","hours":1}`, rome), ""},
		"form 3, by none":           {aggregate.Reads("gone_to", 3, `{"stops":[{"name":"Rome","minutes":60}]}`, rome), ""},
		"another event":             {aggregate.Reads("gone_to", 2, `{"stop":"Rome","hours":2}`, rome), `"minutes":120`},
		"another view":              {aggregate.Reads("gone_to", 1, `{"name":"Rome"}`, rome).Shows(`{"Stops":[]}`), "clients should see"},
		"a newer form":              {aggregate.Reads("gone_to", 4, `{}`, rome), "newest known is 3"},
		"an unknown event":          {aggregate.Reads("went", 1, `{}`, rome), "keep an event's name"},
		"invalid data":              {aggregate.Reads("gone_to", 1, `{"name":1}`, rome), "from form 1"},
	} {
		var catalog aggregate.Catalog
		d := aggregate.Define(&catalog, trip(aggregate.Scenarios[Trip]{name: c.scenario}))
		if err := catalog.Err(); err != nil {
			t.Fatal(err)
		}
		err := d.Scenarios()[0].Run()
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
	}
}

func TestEveryOldFormNeedsAScenario(t *testing.T) {
	t.Parallel()
	var catalog aggregate.Catalog
	d := aggregate.Define(&catalog, trip(aggregate.Scenarios[Trip]{
		"a trip":       aggregate.When(Go{To: []Stop{{Name: "Rome"}}}).Then(GoneTo{Stops: []Stop{{Name: "Rome"}}}),
		"an older one": aggregate.Reads("gone_to", 2, `{"stop":"Rome","hours":1}`, GoneTo{Stops: []Stop{{Name: "Rome", Minutes: 60}}}),
	}))
	if err := catalog.Err(); err != nil {
		t.Fatal(err)
	}
	if got := d.Uncovered(); !slices.Equal(got, []string{`form 1 of event "gone_to"`}) {
		t.Errorf("uncovered: %q", got)
	}
}
