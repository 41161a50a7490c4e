package console

import (
	"maps"
	"slices"
	"time"
)

// picture computes what changed since the last answers.
func (w *watch) picture(state State, answers []reading) picture {
	now := time.Now()
	p := picture{State: state, At: now.UnixMilli(), Node: w.cfg.Node, Members: []row{}}
	p.Sample = sample{At: p.At, Sessions: map[string]int{}}
	last, total := w.last, latencies{}
	w.last = map[string]reading{}
	for i, m := range state.Members {
		a := answers[i]
		r := row{Member: m}
		if a.err != nil {
			r.Silent = a.err.Error()
			p.Members = append(p.Members, r)
			continue
		}
		w.last[m.ID] = a
		r.Full, r.Memory, r.StoreUp = a.Full, a.MemoryBytes, a.StoreUp
		if !a.CertificateExpires.IsZero() {
			r.Expires = a.CertificateExpires.UnixMilli()
		}
		if a.Position < state.Head {
			r.Behind = state.Head - a.Position
		}
		if slices.Contains(m.Roles, "gateway") {
			r.Sessions = &a.Sessions
			p.Sample.Sessions[m.ID] = a.Sessions
		}
		if before, ok := last[m.ID]; ok && before.age <= a.age {
			seconds := a.at.Sub(before.at).Seconds()
			r.Commands, r.Delivered = rate(before.Commands, a.Commands, seconds), rate(before.Delivered, a.Delivered, seconds)
			cpu := (a.CPU - before.CPU).Seconds() / seconds
			r.CPU = &cpu
			total.add(before.Vitals, a.Vitals)
			p.Sample.Events = max(p.Sample.Events, rate(before.Position, a.Position, seconds))
		}
		p.Sample.Commands += r.Commands
		p.Sample.Delivered += r.Delivered
		p.Sample.LagEvents, p.Sample.Lag = max(p.Sample.LagEvents, a.LagEvents), max(p.Sample.Lag, a.Lag.Seconds())
		p.Blocked += a.Blocked
		p.Stopped += a.Stopped
		p.Full += a.Full
		p.Members = append(p.Members, r)
	}
	p.Sample.P50, p.Sample.P99 = total.quantile(.5), total.quantile(.99)
	p.Problems = w.settled(problems(p, answers, now))
	return p
}

// rate returns the growth of a counter per second; 0 if the counter began again.
func rate(before, after uint64, seconds float64) float64 {
	if after < before || seconds <= 0 {
		return 0
	}
	return float64(after-before) / seconds
}

// latencies has the commands of one second, of several members, by how long they
// took.
type latencies struct {
	counts map[float64]uint64 // by upper bound in seconds; by the last bound those above it too
	all    uint64
}

func (l *latencies) add(before, after Vitals) {
	if len(after.Answered) != len(after.Bounds)+1 || !slices.Equal(before.Bounds, after.Bounds) || len(before.Answered) != len(after.Answered) {
		return
	}
	if l.counts == nil {
		l.counts = map[float64]uint64{}
	}
	for i, n := range after.Answered {
		if n < before.Answered[i] {
			continue
		}
		bound := after.Bounds[min(i, len(after.Bounds)-1)]
		l.counts[bound] += n - before.Answered[i]
		l.all += n - before.Answered[i]
	}
}

// quantile returns an estimate of a quantile in seconds: it assumes that the commands
// of a bucket are spread evenly, as histogram_quantile of Prometheus does. It returns
// nil if there were no commands.
func (l *latencies) quantile(q float64) *float64 {
	if l.all == 0 {
		return nil
	}
	rank, below, lower := q*float64(l.all), 0.0, 0.0
	for _, bound := range slices.Sorted(maps.Keys(l.counts)) {
		n := float64(l.counts[bound])
		if n > 0 && below+n >= rank {
			at := lower + (bound-lower)*(rank-below)/n
			return &at
		}
		below += n
		lower = bound
	}
	return &lower
}
