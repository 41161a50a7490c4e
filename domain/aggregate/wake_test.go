package aggregate_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Timer rings at a time.
type Timer struct {
	At    time.Time `json:"at,omitzero"`
	Sound string    `json:"sound"`
}

type (
	setTimer struct {
		At time.Time `json:"at"`
	}
	ringTimer struct{}
	timerSet  struct {
		At time.Time `json:"at"`
	}
	timerRung struct{}
)

func (c setTimer) Decide(aggregate.Call, Timer) (aggregate.Decision[Timer], error) {
	return aggregate.Emit[Timer](timerSet(c))
}

func (ringTimer) Decide(c aggregate.Call, t Timer) (aggregate.Decision[Timer], error) {
	if c.Client != "~wake" || c.Time.Before(t.At) {
		return aggregate.Emit[Timer]()
	}
	return aggregate.Emit[Timer](timerRung{})
}

func (e timerSet) Apply(t *Timer) { t.At = e.At }
func (timerRung) Apply(t *Timer)  { t.At = time.Time{} }

var seven = time.Date(2026, 5, 1, 7, 0, 0, 0, time.UTC)

func timerType(change func(*aggregate.Type[Timer])) aggregate.Type[Timer] {
	t := aggregate.Type[Timer]{
		Name:     "timer",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone, Commands: map[string]aggregate.Rule{"ring": aggregate.System}},
		Commands: aggregate.Commands[Timer]{"set": setTimer{}, "ring": ringTimer{}},
		Events:   aggregate.Events[Timer]{"set": timerSet{}, "rung": timerRung{}},
		Wake:     func(t Timer) (time.Time, aggregate.Command[Timer]) { return t.At, ringTimer{} },
	}
	if change != nil {
		change(&t)
	}
	return t
}

func TestScenariosOfWakeUps(t *testing.T) {
	t.Parallel()
	given := aggregate.Given[Timer](timerSet{seven})
	for name, c := range map[string]struct {
		scenario aggregate.Scenario[Timer]
		wake     func(Timer) (time.Time, aggregate.Command[Timer]) // nil: that of timerType
		problem  string
	}{
		"asks for the time":       {given.Wakes(seven), nil, ""},
		"asks for another time":   {given.Wakes(seven.Add(time.Hour)), nil, "should ask to be woken 2026-05-01T08:00:00Z, but asks for 2026-05-01T07:00:00Z"},
		"asks for none":           {aggregate.Given[Timer]().Wakes(time.Time{}), nil, ""},
		"is woken":                {given.Woken().Then(timerRung{}), nil, ""},
		"is woken later":          {given.Woken().At(seven.Add(time.Hour)).Then(timerRung{}), nil, ""},
		"is not woken earlier":    {given.Woken().At(seven.Add(-time.Hour)).Then(timerRung{}), nil, "is not woken at"},
		"is never woken":          {aggregate.Given[Timer]().Woken().Then(timerRung{}), nil, "asks for no wake-up"},
		"the system sends":        {given.When(ringTimer{}).By("~wake").At(seven).Then(timerRung{}), nil, ""},
		"a client does not":       {given.When(ringTimer{}).By("ada").Forbid(), nil, ""},
		"an unregistered command": {given.Wakes(seven), func(Timer) (time.Time, aggregate.Command[Timer]) { return seven, unregistered{} }, "not registered"},
		"the time stays": {
			given.Woken().Then(timerRung{}), func(Timer) (time.Time, aggregate.Command[Timer]) { return seven, ringTimer{} }, "would be woken each second",
		},
	} {
		var catalog aggregate.Catalog
		d := aggregate.Define(&catalog, timerType(func(t *aggregate.Type[Timer]) {
			t.Scenarios = aggregate.Scenarios[Timer]{"it": c.scenario}
			if c.wake != nil {
				t.Wake = c.wake
			}
		}))
		if err := catalog.Err(); err != nil {
			t.Fatal(err)
		}
		err := d.Scenarios()[0].Run()
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%s: got %v, want %q", name, err, c.problem)
		}
	}
}

type unregistered struct{}

func (unregistered) Decide(aggregate.Call, Timer) (aggregate.Decision[Timer], error) { return nil, nil }

func TestWakeNeedsAScenario(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	without := aggregate.Define(&c, timerType(func(t *aggregate.Type[Timer]) {
		t.Scenarios = aggregate.Scenarios[Timer]{"never": aggregate.Given[Timer]().Wakes(time.Time{})}
	}))
	with := aggregate.Define(&c, timerType(func(t *aggregate.Type[Timer]) {
		t.Name = "clock"
		t.Scenarios = aggregate.Scenarios[Timer]{"once": aggregate.Given[Timer](timerSet{seven}).Woken().Then(timerRung{})}
	}))
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	names := func(d *aggregate.Definition, what string) bool {
		return slices.ContainsFunc(d.Uncovered(), func(s string) bool { return strings.Contains(s, what) })
	}
	if !names(without, "Wake") || names(with, "Wake") || names(with, `"ring"`) {
		t.Errorf("uncovered are %q and %q", without.Uncovered(), with.Uncovered())
	}
}

func TestTimesOfWakeUpsAreWholeMicroseconds(t *testing.T) {
	t.Parallel()
	var c aggregate.Catalog
	d := aggregate.Define(&c, timerType(nil))
	for at, want := range map[time.Time]time.Time{
		{}:                       {},
		seven:                    seven,
		seven.Add(1):             seven.Add(time.Microsecond),
		time.Unix(-1, 0):         time.UnixMicro(1),
		seven.AddDate(9e3, 0, 0): time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		if got, _ := d.Wake(&Timer{At: at}); !got.Equal(want) {
			t.Errorf("%s becomes %s, want %s", at, got, want)
		}
	}
}
