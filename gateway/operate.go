package gateway

import (
	"cmp"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// SlowSession is a session whose socket is full.
type SlowSession struct {
	ID, Client    string
	Subscriptions int
	Waiting       int                 // bytes, for the socket
	Behind        eventstore.Position // between the head and the subscription that is furthest back
}

// Slow returns sessions whose socket is full, at most so many, those that are
// furthest behind first.
func (g *Gateway) Slow(most int) []SlowSession {
	var list []SlowSession
	head := g.hub.position()
	for _, s := range g.all() {
		if slow, ok := s.slow(head); ok {
			list = append(list, slow)
		}
	}
	slices.SortFunc(list, func(a, b SlowSession) int {
		return cmp.Or(cmp.Compare(b.Behind, a.Behind), cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.ID, b.ID))
	})
	return list[:min(max(most, 0), len(list))]
}

func (s *session) slow(head eventstore.Position) (SlowSession, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slow := SlowSession{ID: s.id, Client: s.identity.Client, Subscriptions: len(s.subs), Waiting: s.owed}
	for _, sub := range s.subs {
		if sub.started && sub.at < head && (!sub.live || sub.busy) {
			slow.Behind = max(slow.Behind, head-sub.at)
		}
	}
	return slow, s.writing
}

// KickSession closes a session with 4004, so that its client does not come
// back by itself. It returns how many there were with that id: 0 or 1.
func (g *Gateway) KickSession(id string) int {
	return g.kick(func(s *session) bool { return s.id == id })
}

// KickClient closes all sessions of a client id with 4004, and returns how
// many there were.
func (g *Gateway) KickClient(client string) int {
	return g.kick(func(s *session) bool { return client != "" && s.client() == client })
}

func (g *Gateway) kick(which func(*session) bool) (kicked int) {
	for _, s := range g.all() {
		if which(s) && s.shutOut() {
			kicked++
		}
	}
	return kicked
}

// shutOut closes a session for good. It returns false if it was closing
// already.
func (s *session) shutOut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.part(frame.CloseForbidden, "closed by an operator")
	return true
}
