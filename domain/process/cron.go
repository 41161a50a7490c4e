package process

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A cron is a parsed cron expression: in each field a bit for each value.
type cron struct {
	minute, hour, day, month, weekday uint64
	// everyHour, anyDay and anyWeekday report that the field is *.
	everyHour, anyDay, anyWeekday bool
}

// A cronField describes one of the five fields of an expression.
type cronField struct {
	name     string
	min, max int
	names    []string // of min and the numbers after it
}

var cronFields = [5]cronField{
	{name: "minute", max: 59},
	{name: "hour", max: 23},
	{name: "day of the month", min: 1, max: 31},
	{name: "month", min: 1, max: 12, names: strings.Fields("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC")},
	{name: "day of the week", max: 6, names: strings.Fields("SUN MON TUE WED THU FRI SAT")},
}

var cronShorthands = map[string]string{
	"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@weekly": "0 0 * * 0", "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *",
}

// parseCron parses an expression as [Every] describes it.
func parseCron(expression string) (*cron, error) {
	if strings.HasPrefix(expression, "@") {
		long, ok := cronShorthands[expression]
		if !ok {
			return nil, errors.New("use five fields, or one of @hourly, @daily, @weekly, @monthly, @yearly")
		}
		expression = long
	}
	fields := strings.Fields(expression)
	if len(fields) != len(cronFields) {
		return nil, fmt.Errorf("it has %d fields: use five, for minute, hour, day of the month, month and day of the week", len(fields))
	}
	var sets [len(cronFields)]uint64
	for i, field := range fields {
		for part := range strings.SplitSeq(field, ",") {
			set, err := cronFields[i].parse(part)
			if err != nil {
				return nil, fmt.Errorf("the %s %q %w", cronFields[i].name, part, err)
			}
			sets[i] |= set
		}
	}
	c := &cron{
		minute: sets[0], hour: sets[1], day: sets[2], month: sets[3], weekday: sets[4],
		everyHour: fields[1] == "*", anyDay: fields[2] == "*", anyWeekday: fields[4] == "*",
	}
	// A 29 February is at most eight years away.
	if c.next(time.Date(2000, 3, 1, 0, 0, 0, 0, time.UTC), time.UTC).IsZero() {
		return nil, errors.New("it names a day that no month has")
	}
	return c, nil
}

// parse returns the values of a part of the field's list. The error continues a
// sentence whose subject is the part.
func (f cronField) parse(part string) (set uint64, err error) {
	values, step, stepped := strings.Cut(part, "/")
	first, last := f.min, f.max
	if values != "*" {
		from, to, ranged := strings.Cut(values, "-")
		var ok bool
		if first, ok = f.value(from); !ok {
			return 0, fmt.Errorf("is not valid: use *, %d to %d, ranges, lists and steps", f.min, f.max)
		}
		switch {
		case ranged:
			if last, ok = f.value(to); !ok || last < first {
				return 0, fmt.Errorf("is no range: use two values from %d to %d, the lower one first", f.min, f.max)
			}
		case stepped:
			return 0, errors.New("has a step without a range: use *, or a range such as 8-18")
		default:
			last = first
		}
	}
	by := 1
	if stepped {
		var ok bool
		if by, ok = number(step); !ok || by < 1 || by > f.max {
			return 0, fmt.Errorf("has the step %q: use 1 to %d", step, f.max)
		}
	}
	for n := first; n <= last; n += by {
		set |= 1 << n
	}
	return set, nil
}

func (f cronField) value(s string) (int, bool) {
	if i := slices.Index(f.names, strings.ToUpper(s)); i >= 0 {
		return f.min + i, true
	}
	n, ok := number(s)
	return n, ok && n >= f.min && n <= f.max
}

// number reads a number of one or two digits.
func number(s string) (int, bool) {
	if len(s) == 0 || len(s) > 2 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// onDay reports whether the expression names a day.
func (c *cron) onDay(t time.Time) bool {
	if c.month&(1<<t.Month()) == 0 {
		return false
	}
	day, weekday := c.day&(1<<t.Day()) != 0, c.weekday&(1<<t.Weekday()) != 0
	if c.anyDay || c.anyWeekday {
		return day && weekday
	}
	return day || weekday
}

// mostDays bounds how far next looks: a 29 February can be eight years away.
const mostDays = 8*366 + 2

// next returns the first planned time after t, or a zero time if there is none.
//
// The planned times do not depend on t: they are the local times that the expression
// names. With * as the hour they are all minutes that the clocks of the zone show,
// both times if they show them twice. With other hours each local time counts once a
// day: the first time if the clocks show it twice, and if they skip it, as long after
// the beginning of the skip as without it.
func (c *cron) next(t time.Time, zone *time.Location) (found time.Time) {
	local := t.In(zone)
	// A local day is written as a day of UTC. The time that a day skips can be on the
	// day after, and later than the first time of that day.
	day := time.Date(local.Year(), local.Month(), local.Day()-1, 0, 0, 0, 0, time.UTC)
	last := mostDays
	for i := 0; i <= last; i++ {
		if c.onDay(day) {
			if p := c.nextOn(day, t, zone); !p.IsZero() && (found.IsZero() || p.Before(found)) {
				found, last = p, min(last, i+1)
			}
		}
		day = day.AddDate(0, 0, 1)
	}
	return found
}

// nextOn returns the first planned time of a local day after t, or a zero time.
func (c *cron) nextOn(day, t time.Time, zone *time.Location) (found time.Time) {
	if start, ok := regular(day, zone); ok {
		return c.nextOnRegular(start, t)
	}
	if c.everyHour {
		return c.nextShown(day, t, zone)
	}
	for h := range 24 {
		for m := range 60 {
			if c.hour&(1<<h) == 0 || c.minute&(1<<m) == 0 {
				continue
			}
			p := instantOf(day.Add(time.Duration(h)*time.Hour+time.Duration(m)*time.Minute), zone)
			if p.After(t) && (found.IsZero() || p.Before(found)) {
				found = p
			}
		}
	}
	return found
}

// nextShown returns the first minute of a local day after t that the clocks show and
// the expression names, or a zero time.
func (c *cron) nextShown(day, t time.Time, zone *time.Location) time.Time {
	p := day.Add(-15 * time.Hour) // before the day begins in any zone
	if p.Before(t) {
		p = t.Truncate(time.Minute)
	}
	for end := day.Add(24 * time.Hour); ; {
		p = p.Add(time.Minute)
		switch shown := wall(p.In(zone)); {
		case !shown.Before(end.Add(24 * time.Hour)):
			return time.Time{} // later clocks do not show the day again
		case !shown.Before(day) && shown.Before(end) && c.minute&(1<<shown.Minute()) != 0 && p.After(t):
			return p
		}
	}
}

// regular returns when a local day begins. It reports false for a day that may not
// have each minute once.
func regular(day time.Time, zone *time.Location) (start time.Time, ok bool) {
	const margin = 48 * time.Hour // more than any change of clocks
	start = time.Date(day.Year(), day.Month(), day.Day(), 0, 0, 0, 0, zone)
	from, to := start.ZoneBounds()
	return start, (from.IsZero() || start.Sub(from) >= margin) && (to.IsZero() || to.Sub(start) >= margin)
}

// nextOnRegular returns the first planned time after t of a day that begins at start
// and has each minute once, or a zero time.
func (c *cron) nextOnRegular(start, t time.Time) time.Time {
	first := 0 // minute of the day
	if !t.Before(start) {
		first = int(t.Sub(start)/time.Minute) + 1
	}
	h, m := first/60, first%60
	minutes := c.minute >> m << m
	if h > 23 || c.hour&(1<<h) == 0 || minutes == 0 {
		hours := c.hour >> (h + 1) << (h + 1)
		if h > 23 || hours == 0 {
			return time.Time{}
		}
		h, minutes = bits.TrailingZeros64(hours), c.minute
	}
	return start.Add(time.Duration(h)*time.Hour + time.Duration(bits.TrailingZeros64(minutes))*time.Minute)
}

// instantOf returns the one planned time of a local time, which is written as one of
// UTC.
func instantOf(local time.Time, zone *time.Location) (first time.Time) {
	near := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), 0, 0, zone)
	from, to := near.ZoneBounds()
	candidates := []time.Time{near}
	for _, change := range []time.Time{from, to} {
		if change.IsZero() || near.Sub(change).Abs() > 25*time.Hour {
			continue
		}
		before, after := withOffsetOf(change.Add(-time.Second), local), withOffsetOf(change, local)
		if !before.Before(change) && after.Before(change) {
			return before // skipped
		}
		candidates = append(candidates, before, after)
	}
	for _, p := range candidates {
		if wall(p).Equal(local) && (first.IsZero() || p.Before(first)) {
			first = p
		}
	}
	return first
}

// withOffsetOf returns the instant of a local time at another one's offset from UTC.
func withOffsetOf(other, local time.Time) time.Time {
	_, offset := other.Zone()
	return local.Add(-time.Duration(offset) * time.Second).In(other.Location())
}

// wall returns what the clocks show, as a time of UTC.
func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}
