package load

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// meter measures the time from its start to its report.
type meter struct {
	g                *group
	watch            []int
	start            time.Time
	delivered, bytes int
	skipped          int
	messages         int
	cpu              []time.Duration
	own              time.Duration
}

func (w *worker) measure(g *group, watch []int) (*meter, error) {
	m := &meter{g: g, watch: watch, start: time.Now(), delivered: g.delivered, bytes: g.bytes, skipped: g.skipped, messages: g.messages}
	var err error
	if m.cpu, m.own, err = processorTimes(watch); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *meter) report() (Report, error) {
	r := Report{Elapsed: time.Since(m.start), Deliveries: m.g.delivered - m.delivered, Bytes: m.g.bytes - m.bytes, Skipped: m.g.skipped - m.skipped, Messages: m.g.messages - m.messages}
	cpu, own, err := processorTimes(m.watch)
	if err != nil {
		return r, err
	}
	for i := range cpu {
		r.CPU = append(r.CPU, cpu[i]-m.cpu[i])
	}
	r.Own = own - m.own
	return r, nil
}

func (w *worker) prepare(o Order) (*group, error) {
	g, ok := w.groups[o.Group]
	if !ok {
		return nil, errors.New("this group has no sessions")
	}
	g.topics = g.topics[:0]
	for _, name := range o.Topics {
		g.topics = append(g.topics, w.topic(name))
	}
	for _, s := range g.sessions {
		s.slot = o.Slot
	}
	g.delivered, g.skipped, g.latency = 0, 0, g.latency[:0]
	return g, nil
}

// saturate publishes as fast as the sessions receive: Window events are always
// undelivered.
func (w *worker) saturate(o Order) (Report, error) {
	g, err := w.prepare(o)
	if err != nil {
		return Report{}, err
	}
	var (
		each      = len(g.sessions) / len(g.topics)
		published = 0
		next      = 0
		warm      = time.Now().Add(o.For / 4)
		end       = warm.Add(o.For)
		m         *meter
		before    int
	)
	for {
		for published-g.delivered/each < o.Window && w.publish(g.topics[next%len(g.topics)], o.Burst) {
			published += o.Burst
			next++
		}
		if err := w.flush(); err != nil {
			return Report{}, err
		}
		if err := w.step(100 * time.Millisecond); err != nil {
			return Report{}, err
		}
		if m == nil && w.now.After(warm) {
			before = published
			if m, err = w.measure(g, o.Watch); err != nil {
				return Report{}, err
			}
		}
		if w.now.After(end) && m != nil {
			break
		}
	}
	r, err := m.report()
	r.Events = published - before
	if err != nil {
		return r, err
	}
	return r, w.complete(g, published*each)
}

// complete waits for the missing deliveries, and fails if more than expected
// arrive.
func (w *worker) complete(g *group, deliveries int) error {
	if err := w.published(); err != nil {
		return err
	}
	if err := w.until(func() bool { return g.delivered >= deliveries }); err != nil {
		return fmt.Errorf("%d deliveries are missing, %s: %w", deliveries-g.delivered, g.behind(), err)
	}
	if g.delivered > deliveries {
		return fmt.Errorf("%d deliveries too many", g.delivered-deliveries)
	}
	return nil
}

// behind describes a session that lacks events of its topic.
func (g *group) behind() string {
	for _, s := range g.sessions {
		if t := g.topics[s.index%len(g.topics)]; s.seen[s.slot] != t.published {
			return fmt.Sprintf("session %d has version %d of %d; its message has %d unread bytes, and these are not parsed: %q",
				s.index, s.seen[s.slot], t.published, s.left, s.kept)
		}
	}
	return "though each session has the newest version"
}

// pace publishes at a fixed rate, and records the time of each delivery since
// its event was scheduled.
func (w *worker) pace(o Order) (Report, error) {
	g, err := w.prepare(o)
	if err != nil {
		return Report{}, err
	}
	for _, t := range g.topics {
		t.first, t.at = t.published, t.at[:0]
	}
	g.timing = true
	defer func() { g.timing = false }()
	m, err := w.measure(g, o.Watch)
	if err != nil {
		return Report{}, err
	}
	var (
		each     = len(g.sessions) / len(g.topics)
		interval = time.Second / time.Duration(o.Rate)
		events   = int(o.For / interval)
		start    = time.Now()
	)
	for n := 0; ; {
		for due := int(time.Since(start)/interval) + 1; n < min(due, events); n++ {
			t := g.topics[n%len(g.topics)]
			if !w.publish(t, 1) {
				break // the delay is measured, since at has the scheduled time
			}
			t.at = append(t.at, start.Add(time.Duration(n)*interval))
		}
		if err := w.flush(); err != nil {
			return Report{}, err
		}
		if n == events {
			break
		}
		if err := w.step(max(time.Until(start.Add(time.Duration(n)*interval)), time.Millisecond)); err != nil {
			return Report{}, err
		}
	}
	if err := w.complete(g, events*each); err != nil {
		return Report{}, err
	}
	r, err := m.report()
	r.Events = events
	slices.Sort(g.latency)
	if n := len(g.latency); n > 0 {
		r.P50, r.P99 = g.latency[n/2], g.latency[n*99/100]
	}
	if len(g.latency) != r.Deliveries {
		return r, fmt.Errorf("%d of %d deliveries were timed", len(g.latency), r.Deliveries)
	}
	return r, err
}
