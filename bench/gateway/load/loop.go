// Package load is the client side of the gateway benchmark: thousands of sessions
// in one process and one thread, on plain sockets, so that clients need little
// processor time compared with the measured server. Every session checks that its
// versions have neither holes nor repeats.
package load

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// loop waits for the sockets of all sessions and reads from the ready ones. One goroutine uses it.
type loop struct {
	dialect *Dialect
	server  unix.SockaddrInet4

	epoll   int
	byFD    []*session
	dialled int
	buf     []byte
	events  []unix.EpollEvent
	now     time.Time // the end of the last wait

	slow      []*session    // read in turns, not when data arrives
	next      int           // index in slow
	slowEvery time.Duration // between two reads of slow sessions
	slowNext  time.Time     // time of the next read
}

func newLoop(d *Dialect, server unix.SockaddrInet4) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{
		dialect: d, server: server, epoll: epoll,
		buf: make([]byte, 256<<10), events: make([]unix.EpollEvent, 512),
	}, nil
}

func (l *loop) add(s *session) error {
	for len(l.byFD) <= s.fd {
		l.byFD = append(l.byFD, nil)
	}
	l.byFD[s.fd] = s
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.fd)})
}

// watch sets whether the loop also waits for room to write.
func (l *loop) watch(s *session, room bool) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.fd)}
	if room {
		e.Events |= unix.EPOLLOUT
	}
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, s.fd, &e)
}

// cut closes sessions without a close frame.
func (l *loop) cut(list []*session) {
	for _, s := range list {
		_ = unix.Close(s.fd)
		l.byFD[s.fd] = nil
	}
	l.slow = slices.DeleteFunc(l.slow, func(s *session) bool { return l.byFD[s.fd] != s })
}

// step waits until a session has data to read, or for wait, and reads it.
func (l *loop) step(wait time.Duration) error {
	if len(l.slow) > 0 {
		wait = min(wait, 5*time.Millisecond)
		if err := l.readSlow(); err != nil {
			return err
		}
	}
	n, err := unix.EpollWait(l.epoll, l.events, int(wait.Milliseconds()))
	l.now = time.Now()
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for _, e := range l.events[:n] {
		s := l.byFD[e.Fd]
		if s == nil {
			continue
		}
		if e.Events&unix.EPOLLOUT != 0 {
			if err := s.flush(); err != nil {
				return err
			}
		}
		if e.Events&^unix.EPOLLOUT != 0 {
			l.now = time.Now()
			if err := s.read(); err != nil {
				return err
			}
			if s.group.trickles && s.seen[0] > 0 {
				if err := l.slowDown(s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
