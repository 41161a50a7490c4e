package process

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	_ "time/tzdata" // a program finds every zone, also where the system has none
)

// Missed says what happens to planned runs that could not happen in time, because no
// node ran or the database was away.
type Missed uint8

const (
	// Once runs the schedule once, for the last of the missed times.
	Once Missed = iota
	// Each runs it for each of the missed times, for the last [MaxMissed] of them.
	Each
)

// String returns "once" or "each".
func (m Missed) String() string {
	if m == Each {
		return "each"
	}
	return "once"
}

const (
	// MaxMissed bounds the missed runs of a schedule with [Each].
	MaxMissed = 1000
	// TickSequence is the one sequence of a schedule, and the id of its stream.
	TickSequence = "ticks"
	// minInterval bounds how often a schedule can run.
	minInterval = time.Second
)

// Every defines a schedule: commands that are sent at planned times, each planned
// time once.
//
// # Daylight saving
//
// With * as the hour, a schedule follows the clocks: it runs at each minute that they
// show and Cron names, also in an hour that they show twice, and not in an hour that
// they skip. With any other hour, each time runs once a day: "30 2 * * *" runs the
// first time in the night that has 2:30 twice, and at 3:30 in the night that skips
// 2:30.
type Every struct {
	// Name is the stored name, as of a [Type]. Required.
	Name string
	// Doc says in a sentence or two what it does, for people.
	Doc string
	// Cron has the planned times, as five fields: minute, hour, day of the month,
	// month, day of the week. A field is * or a list of numbers, ranges such as 1-5,
	// and steps such as */15 or 8-18/2; months and days may have their names, JAN to
	// DEC and SUN to SAT, and 0 is Sunday. If neither of the day fields is *, a day
	// that one of them names is enough. @hourly, @daily, @weekly, @monthly and
	// @yearly stand for the first minute of these.
	Cron string
	// Zone is the IANA name of the time zone of Cron, such as Europe/Berlin.
	//
	// Defaults to UTC.
	Zone string
	// Interval is instead of Cron: the planned times are its multiples, counted in
	// UTC from the beginning of the year 1, so 15 minutes means at 0, 15, 30 and 45
	// past the hour. It has at least one second, and no fractions of one.
	Interval time.Duration
	// Missed says what happens to missed runs.
	//
	// Defaults to Once.
	Missed Missed
	// Run returns the commands of a planned time, in UTC. At.Time is when the run was
	// recorded, which is later. Required.
	Run func(at At, planned time.Time) Commands
	// Scenarios show what it sends; they begin with [Ticked]. At least one.
	Scenarios Scenarios
}

// A Schedule is when an [Every] runs. [Definition.Schedule] returns one.
type Schedule struct {
	Cron     string        // "" for an interval
	Zone     string        // IANA name, of Cron
	Interval time.Duration // 0 for Cron
	Missed   Missed

	cron     *cron
	location *time.Location
}

// ticks is the state of a schedule.
type ticks struct {
	At time.Time `json:"at"` // the last planned time that was recorded
}

func (t Every) define() (*Definition, []error) {
	d := &Definition{
		kind: ScheduleKind, name: t.Name, doc: t.Doc, segments: 1, maxDepth: DefaultMaxDepth, scenarios: t.Scenarios,
		schedule: &Schedule{Cron: t.Cron, Zone: t.Zone, Interval: t.Interval, Missed: t.Missed},
		newState: func() any { return new(ticks) },
		done:     func(any) bool { return false },
	}
	problems := d.defineCommon(reflect.TypeFor[ticks]())
	if t.Run == nil {
		problems = append(problems, errors.New("it has no Run, so it would never do anything"))
	}
	d.tick = func(at At, planned time.Time, state any) Commands {
		state.(*ticks).At = planned
		return t.Run(at, planned)
	}
	problems = append(problems, d.schedule.problems()...)
	d.wake = func(state any) time.Time {
		if last := state.(*ticks).At; !last.IsZero() {
			return d.schedule.Next(last)
		}
		return time.Time{}
	}
	return d, problems
}

func (s *Schedule) problems() (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	switch {
	case s.Cron == "" && s.Interval == 0:
		problem("it has neither Cron nor Interval: say when it runs, such as Cron: \"0 9 * * MON-FRI\"")
	case s.Cron != "" && s.Interval != 0:
		problem("it has both Cron and Interval: use one of them")
	case s.Interval != 0 && (s.Interval < minInterval || s.Interval%time.Second != 0):
		problem("Interval is %s: use whole seconds, at least %s", s.Interval, minInterval)
	case s.Interval != 0 && s.Zone != "":
		problem("Interval counts in UTC: it has no Zone")
	case s.Cron != "":
		var err error
		if s.cron, err = parseCron(s.Cron); err != nil {
			problem("Cron is %q: %w", s.Cron, err)
		}
		if s.Zone == "" {
			s.Zone = "UTC"
		}
		if s.location, err = time.LoadLocation(s.Zone); err != nil || s.Zone == "Local" {
			problem("Zone is %q, which is no IANA time zone: use a name such as Europe/Berlin", s.Zone)
		}
	}
	if s.Missed > Each {
		problem("Missed is %d: use process.Once or process.Each", s.Missed)
	}
	return problems
}

// Planned returns the last recorded planned time of a schedule's state, zero before
// the first.
func (d *Definition) Planned(state any) time.Time { return state.(*ticks).At }

// Next returns the first planned time after t, in UTC, or a zero time if there is
// none.
func (s Schedule) Next(t time.Time) time.Time {
	if s.cron != nil {
		return s.cron.next(t, s.location).UTC()
	}
	return t.UTC().Truncate(s.Interval).Add(s.Interval)
}

// Plan returns the planned times after last and up to now that are to be recorded,
// in order: with [Once] at most one, with [Each] at most [MaxMissed]. Earlier ones
// are dropped. last is the last recorded time, or when the schedule was started.
func (s Schedule) Plan(last, now time.Time) []time.Time {
	most := 1
	if s.Missed == Each {
		most = MaxMissed
	}
	// Look back over growing times, so that a long stop costs no more than twice the
	// runs that count.
	for back := time.Minute; ; back *= 2 {
		from := now.Add(-back)
		all := back > 100*365*24*time.Hour || !from.After(last)
		if all {
			from = last
		}
		var planned []time.Time
		for t := s.Next(from); !t.IsZero() && !t.After(now); t = s.Next(t) {
			planned = append(planned, t)
		}
		if all || len(planned) >= most {
			return planned[max(0, len(planned)-most):]
		}
	}
}
