package process_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
)

func schedule(t *testing.T, cron, zone string) process.Schedule {
	t.Helper()
	e := weekly()
	e.Cron, e.Zone = cron, zone
	s, _ := defined(t, library(), e).Schedule()
	return s
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestCronRunsOnceInNightsThatChangeClocks(t *testing.T) {
	t.Parallel()
	for _, one := range []struct{ zone, cron, after, want string }{
		// Clocks skip the time: it runs as much later as they skip.
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z 2026-03-30T00:30:00Z"},
		{"America/New_York", "30 2 * * *", "2026-03-07T12:00:00Z", "2026-03-08T07:30:00Z 2026-03-09T06:30:00Z"},
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00Z", "2026-10-03T15:45:00Z 2026-10-04T15:15:00Z"},
		{"Africa/Cairo", "15 0 * * *", "2026-04-23T12:00:00Z", "2026-04-23T22:15:00Z 2026-04-24T21:15:00Z"},
		{"Europe/Berlin", "0,30 2,3 * * *", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z 2026-03-29T01:30:00Z 2026-03-30T00:00:00Z"},
		// A skipped day is not run twice with the day after it.
		{"Pacific/Apia", "0 9 * * *", "2011-12-29T00:00:00Z", "2011-12-29T19:00:00Z 2011-12-30T19:00:00Z 2011-12-31T19:00:00Z"},
		// Clocks show the time twice: it runs the first time.
		{"Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z 2026-10-26T01:30:00Z"},
		{"America/New_York", "30 1 * * *", "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z 2026-11-02T06:30:00Z"},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00Z", "2026-04-04T14:45:00Z 2026-04-05T15:15:00Z"},
		// With * as the hour it follows the clocks.
		{"Europe/Berlin", "30 * * * *", "2026-03-29T00:00:00Z", "2026-03-29T00:30:00Z 2026-03-29T01:30:00Z 2026-03-29T02:30:00Z"},
		{"Europe/Berlin", "30 * 25 10 *", "2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z 2026-10-25T01:30:00Z 2026-10-25T02:30:00Z"},
		// Days.
		{"UTC", "0 9 13 * FRI", "2026-02-12T12:00:00Z", "2026-02-13T09:00:00Z 2026-02-20T09:00:00Z 2026-02-27T09:00:00Z 2026-03-06T09:00:00Z 2026-03-13T09:00:00Z"},
		{"UTC", "0 0 29 2 *", "2097-01-01T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"", "@weekly", "2026-05-01T00:00:00Z", "2026-05-03T00:00:00Z 2026-05-10T00:00:00Z"},
	} {
		s, at := schedule(t, one.cron, one.zone), instant(t, one.after)
		var got []string
		for range strings.Fields(one.want) {
			at = s.Next(at)
			got = append(got, at.Format(time.RFC3339))
		}
		if strings.Join(got, " ") != one.want {
			t.Errorf("%s in %s after %s:\ngot  %s\nwant %s", one.cron, one.zone, one.after, strings.Join(got, " "), one.want)
		}
	}
}

// A stop of an hour, across the skipped and the repeated hour.
func TestPlanAcrossNightsThatChangeClocks(t *testing.T) {
	t.Parallel()
	for _, one := range []struct {
		zone, cron, last, now string
		missed                process.Missed
		want                  string
	}{
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T01:30:00Z", "2026-03-29T01:45:00Z", process.Once, "2026-03-29T01:30:00Z"},
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T01:30:00Z", "2026-03-29T01:29:00Z", process.Once, ""},
		{"Europe/Berlin", "30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z", process.Each, ""},
		{"America/New_York", "*/20 * * * *", "2026-11-01T05:00:00Z", "2026-11-01T06:10:00Z", process.Each, "2026-11-01T05:20:00Z 2026-11-01T05:40:00Z 2026-11-01T06:00:00Z"},
		{"America/New_York", "*/20 * * * *", "2026-11-01T05:00:00Z", "2026-11-01T06:10:00Z", process.Once, "2026-11-01T06:00:00Z"},
		{"Australia/Lord_Howe", "15 1,2 * * *", "2026-10-03T14:30:00Z", "2026-10-03T15:50:00Z", process.Each, "2026-10-03T14:45:00Z 2026-10-03T15:45:00Z"},
	} {
		s := schedule(t, one.cron, one.zone)
		s.Missed = one.missed
		var got []string
		for _, p := range s.Plan(instant(t, one.last), instant(t, one.now)) {
			got = append(got, p.Format(time.RFC3339))
		}
		if strings.Join(got, " ") != one.want {
			t.Errorf("%s in %s from %s to %s: got %q, want %q", one.cron, one.zone, one.last, one.now, got, one.want)
		}
	}
}

// Planned times do not depend on the time from which they are sought.
func TestPlannedTimesEqualThoseOfTheClocks(t *testing.T) {
	t.Parallel()
	zones := map[string][]string{ // a day before each change of clocks
		"UTC":                 {"2026-05-01"},
		"Europe/Berlin":       {"2026-03-28", "2026-10-24"},
		"America/New_York":    {"2026-03-07", "2026-10-31"},
		"Australia/Lord_Howe": {"2026-04-03", "2026-10-02"},
		"Africa/Cairo":        {"2026-04-22", "2026-10-28"},
		"Africa/Casablanca":   {"2026-02-14", "2026-03-21"},
		"America/St_Johns":    {"2008-03-08", "2008-11-01"}, // at 00:01
		"Pacific/Apia":        {"2011-12-28"},
	}
	for name, days := range zones {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, day := range days {
			t.Run(name+" "+day, func(t *testing.T) {
				t.Parallel()
				from := instant(t, day+"T00:00:00Z")
				to := from.Add(4 * 24 * time.Hour)
				shown := clocks(zone, from.Add(-72*time.Hour), to.Add(72*time.Hour))
				for seed := range uint64(20) {
					r := rand.New(rand.NewPCG(seed, 0))
					hours := randomList(r, 24)
					if seed%4 == 0 {
						hours = "*"
					}
					expression := randomList(r, 60) + " " + hours + " * * *"
					if seed%5 == 0 {
						expression = strings.TrimSuffix(expression, "*") + strconv.Itoa(int(from.Weekday()+2)%7)
					}
					want := byClocks(expression, shown)
					s := schedule(t, expression, name)
					for range 40 {
						after := from.Add(time.Duration(r.Int64N(int64(to.Sub(from)))))
						i := slices.IndexFunc(want, func(p time.Time) bool { return p.After(after) })
						next := to.Add(72 * time.Hour) // or later
						if i >= 0 {
							next = want[i]
						}
						if got := s.Next(after); i >= 0 && !got.Equal(next) || got.Before(next) {
							t.Fatalf("%s after %s: got %s; the clocks say %s", expression, after, got, next)
						}
					}
				}
			})
		}
	}
}

func randomList(r *rand.Rand, below int) string {
	var list []string
	for range 1 + r.IntN(3) {
		list = append(list, strconv.Itoa(r.IntN(below)))
	}
	if r.IntN(3) == 0 {
		list = append(list, fmt.Sprintf("%d-%d/%d", r.IntN(5), 5+r.IntN(below-5), 1+r.IntN(below/2)))
	}
	return strings.Join(list, ",")
}

// A minute is what the clocks of a zone show at one time.
type minute struct {
	at, wall time.Time
	again    bool        // they have shown this before
	skipped  []time.Time // what they never showed, just before
}

// clocks looks at the clocks of a zone at each minute.
func clocks(zone *time.Location, from, to time.Time) (minutes []minute) {
	seen := map[time.Time]bool{}
	for p := from; p.Before(to); p = p.Add(time.Minute) {
		local := p.In(zone)
		wall := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), 0, 0, time.UTC)
		one := minute{at: p, wall: wall, again: seen[wall]}
		if n := len(minutes); n > 0 {
			for skipped := minutes[n-1].wall.Add(time.Minute); skipped.Before(wall); skipped = skipped.Add(time.Minute) {
				one.skipped = append(one.skipped, skipped)
			}
		}
		seen[wall] = true
		minutes = append(minutes, one)
	}
	return minutes
}

// byClocks returns the planned times of an expression without days of the month.
func byClocks(expression string, shown []minute) (planned []time.Time) {
	fields := strings.Fields(expression)
	minutes, hours := numbers(fields[0], 60), numbers(fields[1], 24)
	follows := fields[1] == "*"
	named := func(wall time.Time) bool {
		return minutes[wall.Minute()] && (follows || hours[wall.Hour()]) && (fields[4] == "*" || fields[4] == strconv.Itoa(int(wall.Weekday())))
	}
	for _, one := range shown {
		for i, skipped := range one.skipped {
			if named(skipped) && !follows {
				planned = append(planned, one.at.Add(time.Duration(i)*time.Minute))
			}
		}
		if named(one.wall) && (follows || !one.again) {
			planned = append(planned, one.at)
		}
	}
	slices.SortFunc(planned, time.Time.Compare)
	return slices.Compact(planned)
}

// numbers returns the set of a list of numbers and ranges with steps.
func numbers(list string, below int) []bool {
	set := make([]bool, below)
	for part := range strings.SplitSeq(list, ",") {
		var from, to, by int
		if _, err := fmt.Sscanf(part, "%d-%d/%d", &from, &to, &by); err != nil {
			from, _ = strconv.Atoi(part)
			to, by = from, 1
		}
		for n := from; n <= to; n += by {
			set[n] = true
		}
	}
	return set
}

// An expression is refused, or its planned times come after each other.
func FuzzCron(f *testing.F) {
	for _, cron := range []string{"* * * * *", "*/15 8-18/2 1,31 jan-MAR sun", "0 0 29 2 *", "@daily", "TZ=0 * * * *", "5/0 - , 99 x"} {
		f.Add(cron, uint32(1_074_746_000))
	}
	f.Fuzz(func(t *testing.T, cron string, seconds uint32) {
		c, e := library(), weekly()
		e.Cron = cron
		d := process.Define(c, e)
		if c.Err() != nil {
			return
		}
		s, _ := d.Schedule()
		at := time.Unix(700_000_000+int64(seconds), 0)
		for range 3 {
			next := s.Next(at)
			if !next.After(at) || next.Truncate(time.Minute) != next {
				t.Fatalf("%q: %s follows %s", cron, next, at)
			}
			at = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, cron := range []string{"* * * * *", "30 2 * * *", "0 0 29 2 *"} {
		b.Run(cron, func(b *testing.B) {
			e := weekly()
			e.Cron = cron
			s, _ := process.Define(library(), e).Schedule()
			for b.Loop() {
				s.Next(noon)
			}
		})
	}
	b.Run("in a night that changes clocks", func(b *testing.B) {
		e := weekly()
		e.Cron = "* * * * *"
		s, _ := process.Define(library(), e).Schedule()
		for b.Loop() {
			s.Next(time.Date(2026, 3, 29, 0, 30, 0, 0, time.UTC))
		}
	})
}
