package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/load"
	"github.com/ganglion-es/ganglion/test/chaos/schedule"
)

// budget bounds the time for which a fault makes a client wait. With none, the
// client must not wait longer than without faults.
type budget struct {
	most time.Duration
	none bool
}

// budgets has the budgets of docs/guarantees.md, by phase. Outages of the database
// and several simultaneous faults have no budget.
var budgets = map[string]budget{
	string(schedule.KillOwner):     {most: 100 * time.Millisecond},
	string(schedule.FreezeOwner):   {most: 600 * time.Millisecond},
	string(schedule.CutOwner):      {most: 600 * time.Millisecond},
	string(schedule.CutPeers):      {most: 600 * time.Millisecond},
	string(schedule.CutOneWay):     {most: 600 * time.Millisecond},
	string(schedule.CutPair):       {most: 600 * time.Millisecond},
	string(schedule.KillGateway):   {none: true},
	string(schedule.FreezeGateway): {none: true},
	string(schedule.Leave):         {none: true},
	string(schedule.Rolling):       {none: true},
	join:                           {none: true},
	string(schedule.StepClock):     {none: true},
}

// order is the order of the report.
var order = []string{
	calm,
	string(schedule.KillOwner), string(schedule.FreezeOwner), string(schedule.CutOwner), string(schedule.CutPeers),
	string(schedule.CutOneWay), string(schedule.CutPair), string(schedule.SlowLink),
	join, wake, mend, settling,
	string(schedule.Leave), string(schedule.Rolling), string(schedule.StepClock),
	string(schedule.KillGateway), string(schedule.FreezeGateway),
	string(schedule.KillAll), string(schedule.RestartStore), storeBack, string(schedule.CutStore), string(schedule.Several),
}

// line has the waits of probes in one kind of phase.
type line struct {
	longest  []time.Duration // per phase
	commands int
	errors   map[string]int
	// late and commit are the yardstick's longest ones in these phases.
	late, commit time.Duration
}

// unavailability finds the longest wait in each phase. A command belongs to the
// phase in which it was sent, or to the one that started while it waited.
func unavailability(windows []window, waits []load.Wait, ticks []tick) (lines map[string]*line, longest []load.Wait) {
	lines = map[string]*line{}
	longest = make([]load.Wait, len(windows))
	for _, w := range waits {
		i, _ := slices.BinarySearchFunc(windows, w.Begin, func(x window, at int64) int { return cmp.Compare(x.begin, at) })
		if i == len(windows) || windows[i].begin > w.Begin {
			i--
		}
		if i+1 < len(windows) && windows[i+1].begin < w.End {
			i++
		}
		if i < 0 || windows[i].without[w.Gateway] || windows[i].without[w.Via] {
			continue
		}
		if w.Took() > longest[i].Took() {
			longest[i] = w
		}
		l := lines[windows[i].what]
		if l == nil {
			l = &line{errors: map[string]int{}}
			lines[windows[i].what] = l
		}
		l.commands++
		for _, e := range w.Errors {
			l.errors[e]++
		}
	}
	for i, w := range windows {
		if took := longest[i].Took(); took > 0 {
			l := lines[w.what]
			l.longest = append(l.longest, took)
			late, commit := worst(ticks, w.begin, w.end)
			l.late, l.commit = max(l.late, late), max(l.commit, commit)
		}
	}
	for _, l := range lines {
		slices.Sort(l.longest)
	}
	return lines, longest
}

// quiet returns the longest wait without faults, at least 50 ms.
func quiet(lines map[string]*line) time.Duration {
	if l := lines[calm]; l != nil && len(l.longest) > 0 {
		return max(50*time.Millisecond, l.longest[len(l.longest)-1])
	}
	return 50 * time.Millisecond
}

// printMissed prints the longest wait of each phase that missed its budget, with
// the yardstick's figures of that time.
func printMissed(out io.Writer, windows []window, lines map[string]*line, longest []load.Wait, ticks []tick) {
	for i, w := range windows {
		b, ok := budgets[w.what]
		if b.none {
			b.most = quiet(lines)
		}
		if wait := longest[i]; ok && wait.Took() > b.most {
			late, commit := worst(ticks, wait.Begin, wait.End)
			fmt.Fprintf(out, "  at %.1f s, %s: %s, sent %s after its start to %s through %s %v; the machine stalled for %s, an INSERT took %s\n",
				float64(w.begin)/1e9, w.what, ms(wait.Took()), ms(time.Duration(wait.Begin-w.begin)), wait.Owner, wait.Via, wait.Errors, ms(late), ms(commit))
		}
	}
	fmt.Fprintln(out)
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// printUnavailability prints the table in Markdown.
func printUnavailability(out io.Writer, lines map[string]*line) {
	fmt.Fprintf(out, "| while | times | longest wait: p50 | p99 | worst | budget | | machine's stall | INSERT | replies that asked for a retry |\n| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |\n")
	for _, what := range order {
		l := lines[what]
		if l == nil || len(l.longest) == 0 {
			continue
		}
		worst := l.longest[len(l.longest)-1]
		allowed, verdict := "", ""
		if b, ok := budgets[what]; ok {
			most := b.most
			if allowed = ms(most); b.none {
				most, allowed = quiet(lines), "none"
			}
			if verdict = "met"; worst > most {
				over := 0
				for _, d := range l.longest {
					if d > most {
						over++
					}
				}
				verdict = fmt.Sprintf("**missed %d times**", over)
			}
		}
		fmt.Fprintf(out, "| %s | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", what, len(l.longest), ms(quantile(l.longest, 0.5)), ms(quantile(l.longest, 0.99)), ms(worst),
			allowed, verdict, ms(l.late), ms(l.commit), tally(l.errors))
	}
}

func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

func tally(counts map[string]int) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%d %s", counts[k], k))
	}
	return strings.Join(all, "; ")
}
