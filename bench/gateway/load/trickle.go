package load

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// sipBytes is what a slow session reads at once. Its socket takes little more
// than twice that, so that what it has not read is the server's burden.
const sipBytes = 1 << 10

// openTrickle opens sessions that want all of their topics and read so many
// bytes a second, whatever there is to read. It returns when each has seen
// something. There is one such group at a time.
func (w *worker) openTrickle(o Order) (Report, error) {
	g := &group{name: o.Group, trickles: true}
	w.groups[o.Group] = g
	w.sip = time.Second * sipBytes / time.Duration(o.Rate) / time.Duration(o.Sessions)
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

// slowDown has a session read in turns from now on.
func (l *loop) slowDown(s *session) error {
	if len(l.slow) == 0 {
		l.sipFrom = time.Now()
	}
	l.slow = append(l.slow, s)
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, s.fd, nil); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// sipAll lets the slow sessions read whose turn has come.
func (l *loop) sipAll() error {
	for now := time.Now(); now.After(l.sipFrom) && len(l.slow) > 0; l.sipFrom = l.sipFrom.Add(l.sip) {
		l.next %= len(l.slow)
		if err := l.slow[l.next].readUpTo(sipBytes); err != nil {
			return err
		}
		l.next++
	}
	return nil
}
