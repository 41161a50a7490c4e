package process_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
)

func weekly() process.Every {
	return process.Every{
		Name: "weekly", Cron: "0 9 * * MON", Zone: "Europe/Berlin",
		Run: func(_ process.At, planned time.Time) process.Commands {
			return process.Commands{process.Send("letters", "staff", write{Text: planned.Format(time.DateOnly)})}
		},
		Scenarios: process.Scenarios{
			"the staff gets a letter": process.Ticked(noon).Sends("letters/staff", write{Text: "2026-05-01"}).Shows(`{"at": "2026-05-01T12:00:00Z"}`),
		},
	}
}

func TestScheduleSendsAtPlannedTimes(t *testing.T) {
	t.Parallel()
	f := follow(t, library(), weekly())
	sent, err := f.record(f.d.RecordTicked(noon))
	f.want(sent, err, `~weekly:1.0:0 letters/staff write {"text":"2026-05-01"}`)
	state, err := f.d.DecodeState(f.states[process.TickSequence])
	if err != nil || !f.d.Planned(state).Equal(noon) {
		t.Errorf("state %s, %v", f.states[process.TickSequence], err)
	}
	if due, err := f.d.Due(state); err != nil || due.Format(time.RFC3339) != "2026-05-04T07:00:00Z" {
		t.Errorf("due %s, %v", due, err)
	}
	if due, err := f.d.Due(f.d.NewState()); err != nil || !due.IsZero() {
		t.Errorf("before the first run: due %s, %v", due, err)
	}
	if s, ok := f.d.Schedule(); !ok || s.Cron != "0 9 * * MON" || s.Zone != "Europe/Berlin" || s.Missed != process.Once {
		t.Errorf("schedule %+v, %t", s, ok)
	}
	for _, s := range f.d.Scenarios() {
		if err := s.Run(); err != nil {
			t.Error(err)
		}
	}
	if u := f.d.Uncovered(); len(u) > 0 {
		t.Errorf("uncovered: %q", u)
	}
}

func TestRecordDueRecordsMissedRuns(t *testing.T) {
	t.Parallel()
	for missed, want := range map[process.Missed]string{
		process.Once: "~weekly:t:2026-05-18T07:00:00Z",
		process.Each: "~weekly:t:2026-05-04T07:00:00Z ~weekly:t:2026-05-11T07:00:00Z ~weekly:t:2026-05-18T07:00:00Z",
	} {
		e := weekly()
		e.Missed = missed
		d := defined(t, library(), e)
		s, _ := d.Schedule()
		list, err := d.RecordDue(process.TickSequence, 7, s.Next(noon), noon.AddDate(0, 0, 20))
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, r := range list {
			keys = append(keys, r.Key)
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%s: %s, want %s", missed, got, want)
		}
	}
	list, err := defined(t, library(), loans()).RecordDue("emma", 7, noon, noon.Add(time.Hour))
	if err != nil || len(list) != 1 || list[0].Key != "~loans:w:7" || list[0].Sequence != "emma" {
		t.Errorf("a process manager records %+v, %v", list, err)
	}
}

func TestAnotherExpressionIsAnotherBuild(t *testing.T) {
	t.Parallel()
	print := func(cron, zone string) string {
		e := weekly()
		e.Cron, e.Zone = cron, zone
		return defined(t, library(), e).Fingerprint()
	}
	if same := print("0 9 * * *", "UTC"); same != print("0 9 * * *", "") || same == print("0 8 * * *", "") || same == print("0 9 * * *", "Europe/Berlin") {
		t.Error("the fingerprint does not cover when the schedule runs")
	}
}

func TestWrongSchedulesAreReported(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*process.Every){
		"neither Cron nor Interval":                       func(e *process.Every) { e.Cron = "" },
		"both Cron and Interval":                          func(e *process.Every) { e.Interval = time.Hour },
		"whole seconds, at least 1s":                      func(e *process.Every) { e.Cron, e.Zone, e.Interval = "", "", time.Millisecond },
		"it has no Zone":                                  func(e *process.Every) { e.Cron, e.Interval = "", time.Hour },
		`Zone is "Mars/Base"`:                             func(e *process.Every) { e.Zone = "Mars/Base" },
		`Zone is "Local"`:                                 func(e *process.Every) { e.Zone = "Local" },
		"Missed is 2":                                     func(e *process.Every) { e.Missed = 2 },
		"it has no Run":                                   func(e *process.Every) { e.Run = nil },
		"the Name has 25 bytes: use at most 24":           func(e *process.Every) { e.Name = strings.Repeat("n", 25) },
		"it has 6 fields":                                 func(e *process.Every) { e.Cron = "0 0 9 * * MON" },
		"@every":                                          func(e *process.Every) { e.Cron = "@every 5m" },
		`the minute "60" is not valid`:                    func(e *process.Every) { e.Cron = "60 * * * *" },
		`the hour "9-8" is no range`:                      func(e *process.Every) { e.Cron = "0 9-8 * * *" },
		`the day of the month "0" is not valid`:           func(e *process.Every) { e.Cron = "0 9 0 * *" },
		`the month "FOO" is not valid`:                    func(e *process.Every) { e.Cron = "0 9 * FOO *" },
		`the day of the week "7" is not valid`:            func(e *process.Every) { e.Cron = "0 9 * * 7" },
		`the minute "*/0" has the step "0": use 1 to 59`:  func(e *process.Every) { e.Cron = "*/0 * * * *" },
		`the minute "" is not valid`:                      func(e *process.Every) { e.Cron = "1,,2 * * * *" },
		"it names a day that no month has":                func(e *process.Every) { e.Cron = "0 0 30,31 2 *" },
		`the minute "5/10" has a step without a range`:    func(e *process.Every) { e.Cron = "5/10 * * * *" },
		`the minute "+1" is not valid`:                    func(e *process.Every) { e.Cron = "+1 * * * *" },
		"it has Woken, and the definition has none":       func(e *process.Every) { e.Scenarios["w"] = process.Ticked(noon).Woken(noon).SendsNothing() },
		"it has 3 fields: use five, for minute, hour, da": func(e *process.Every) { e.Cron = "TZ=0 * *" },
	} {
		e, c := weekly(), library()
		change(&e)
		process.Define(c, e)
		if err := c.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	for _, cron := range []string{"* * * * *", "*/15 8-18/2 1,15,31 jan-Mar SUN,tue-SAT", "59 23 31 12 6", "0 0 29 2 *", "0 0 31 2 MON", "@daily"} {
		e, c := weekly(), library()
		e.Cron = cron
		process.Define(c, e)
		if err := c.Err(); err != nil {
			t.Errorf("%s: %v", cron, err)
		}
	}
}

func TestPlanCountsMissedRuns(t *testing.T) {
	t.Parallel()
	minutes := process.Schedule{Interval: time.Minute}
	each := process.Schedule{Interval: time.Minute, Missed: process.Each}
	at := func(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }
	for _, one := range []struct {
		what      string
		schedule  process.Schedule
		last, now time.Time
		want      []time.Time
	}{
		{"nothing to run yet", each, noon, at(1).Add(-1), nil},
		{"a time that has just come", minutes, noon, at(1), []time.Time{at(1)}},
		{"once", minutes, noon, at(3), []time.Time{at(3)}},
		{"each", each, noon, at(3), []time.Time{at(1), at(2), at(3)}},
		{"a clock that went back", each, at(5), noon, nil},
		{"a start between two planned times", each, noon.Add(time.Second), at(2), []time.Time{at(1), at(2)}},
		{"once after a year", minutes, noon.AddDate(-1, 0, 0), at(0), []time.Time{at(0)}},
	} {
		if got := one.schedule.Plan(one.last, one.now); !slices.Equal(got, one.want) {
			t.Errorf("%s: %v, want %v", one.what, got, one.want)
		}
	}
	got := each.Plan(noon.AddDate(-1, 0, 0), noon)
	if len(got) != process.MaxMissed || !got[0].Equal(at(1-process.MaxMissed)) || !got[len(got)-1].Equal(noon) {
		t.Errorf("after a year: %d runs from %v to %v", len(got), got[0], got[len(got)-1])
	}
}

func TestPlanOfRareTimesLooksBackToTheLastRun(t *testing.T) {
	t.Parallel()
	e := weekly()
	e.Cron, e.Zone, e.Missed = "@yearly", "", process.Each
	s, _ := defined(t, library(), e).Schedule()
	got := s.Plan(noon.AddDate(-3, 0, 0), noon)
	if len(got) != 3 || got[0].Year() != 2024 || got[2].Year() != 2026 {
		t.Errorf("planned %v", got)
	}
}
