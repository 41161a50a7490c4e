package load

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// slowReadBytes is the size of one read of a slow session. Its socket has room for
// little more than twice that, so the server must hold the rest.
const slowReadBytes = 1 << 10

// openTrickle opens sessions that subscribe to all events of their topics and
// read Rate bytes per second. It returns when each has received an event. Only
// one such group can exist at a time.
func (w *worker) openTrickle(o Order) (Report, error) {
	g := &group{name: o.Group, trickles: true}
	w.groups[o.Group] = g
	w.slowEvery = time.Second * slowReadBytes / time.Duration(o.Rate) / time.Duration(o.Sessions)
	start := time.Now()
	for i := range o.Sessions {
		t := w.topic(o.Topics[i%len(o.Topics)])
		s, err := w.connect(g, i, w.first(i, w.dialect.Subscribe(0, t.name, true, 0))...)
		if err != nil {
			return Report{}, err
		}
		g.sessions = append(g.sessions, s)
	}
	err := w.until(func() bool {
		return !slices.ContainsFunc(g.sessions, func(s *session) bool { return s.seen[0] == 0 })
	})
	return Report{Elapsed: time.Since(start)}, err
}

// slowDown makes a session read in turns from now on.
func (l *loop) slowDown(s *session) error {
	if len(l.slow) == 0 {
		l.slowNext = time.Now()
	}
	l.slow = append(l.slow, s)
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, s.fd, nil); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// readSlow reads from the slow sessions that are due.
func (l *loop) readSlow() error {
	for now := time.Now(); now.After(l.slowNext) && len(l.slow) > 0; l.slowNext = l.slowNext.Add(l.slowEvery) {
		l.next %= len(l.slow)
		if err := l.slow[l.next].readUpTo(slowReadBytes); err != nil {
			return err
		}
		l.next++
	}
	return nil
}
