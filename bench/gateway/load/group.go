package load

import (
	"errors"
	"fmt"
	"time"
)

// openGroup opens the sessions of a group with their first subscription, or adds
// the second subscription to an open group. It waits until all are subscribed. At
// most 100 subscriptions are pending at a time, since the speed of subscribing is
// not measured.
func (w *worker) openGroup(o Order) (Report, error) {
	g, isOpen := w.groups[o.Group]
	if !isOpen {
		g = &group{name: o.Group}
		w.groups[o.Group] = g
	}
	g.subscribed = 0
	start := time.Now()
	for i := range o.Sessions {
		t := w.topic(o.Topics[i%len(o.Topics)])
		subscribe := w.dialect.Subscribe(o.Slot, t.name, false, 0)
		var s *session
		if isOpen {
			s = g.sessions[i]
			if err := s.say(subscribe); err != nil {
				return Report{}, err
			}
		} else {
			var err error
			if s, err = w.connect(g, i, w.first(i, subscribe)...); err != nil {
				return Report{}, err
			}
			g.sessions = append(g.sessions, s)
		}
		s.waiting++
		s.slot = o.Slot
		s.seen[o.Slot] = t.published
		const pending = 100
		if err := w.until(func() bool { return i-g.subscribed < pending }); err != nil {
			return Report{}, err
		}
	}
	if err := w.until(func() bool { return g.subscribed == o.Sessions }); err != nil {
		return Report{}, fmt.Errorf("%d of %d are subscribed: %w", g.subscribed, o.Sessions, err)
	}
	return Report{Elapsed: time.Since(start)}, nil
}

// first returns the first messages of a session.
func (w *worker) first(i int, subscribe string) []string {
	if w.dialect.Greeting == nil {
		return []string{subscribe}
	}
	return []string{w.dialect.Greeting(i), subscribe}
}

// resume opens all sessions together. Each resumes its topic after a given
// version. resume measures the time until each session has all events.
func (w *worker) resume(o Order) (Report, error) {
	g := &group{name: o.Group, resuming: true}
	for _, name := range o.Topics {
		g.topics = append(g.topics, w.topic(name))
	}
	defer func() { w.cut(g.sessions) }()
	m, err := w.measure(g, o.Watch)
	if err != nil {
		return Report{}, err
	}
	missed := 0
	for i := range o.Sessions {
		t := g.topics[i%len(g.topics)]
		subscribe := w.dialect.Subscribe(0, t.name, true, uint64(o.After))
		s, err := w.connect(g, i, w.first(i, subscribe)...)
		if err != nil {
			return Report{}, err
		}
		s.seen[0] = uint64(o.After)
		g.sessions = append(g.sessions, s)
		missed += int(t.published) - o.After
		if i%1000 == 999 && i < o.Sessions-1 { // the first sessions do not wait for the last
			if err := w.step(0); err != nil {
				return Report{}, err
			}
		}
	}
	if err := w.until(func() bool { return len(g.done) == o.Sessions }); err != nil {
		return Report{}, fmt.Errorf("%d of %d sessions have caught up, with %d events in total: %w", len(g.done), o.Sessions, g.delivered, err)
	}
	r, err := m.report()
	if err != nil {
		return r, err
	}
	for _, at := range g.done {
		r.Done = append(r.Done, at.Sub(m.start))
	}
	r.Elapsed, r.Events = r.Done[len(r.Done)-1], missed/o.Sessions
	if g.delivered != missed {
		return r, fmt.Errorf("%d events were delivered, want %d", g.delivered, missed)
	}
	return r, nil
}

// cutGroup closes the sessions of a group without close frames.
func (w *worker) cutGroup(o Order) (Report, error) {
	var r Report
	g, ok := w.groups[o.Group]
	if !ok {
		return r, errors.New("this group has no sessions")
	}
	for _, s := range g.sessions {
		r.Furthest = max(r.Furthest, s.seen[0])
	}
	w.cut(g.sessions)
	delete(w.groups, o.Group)
	return r, nil
}
