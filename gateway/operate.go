package gateway

import (
	"cmp"
	"context"
	"sort"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/session"
)

// SlowSession is a session whose socket is full.
type SlowSession = session.Slow

// Slow returns the sessions whose socket is full, the furthest behind first, and
// at most the given number of them.
func (g *Gateway) Slow(most int) []SlowSession {
	var list []SlowSession
	head := g.hub.Head()
	for _, s := range g.roster.all() {
		if slow, ok := s.Slow(head); ok {
			list = append(list, slow)
		}
	}
	sort.Slice(list, func(i, j int) bool {
		a, b := list[i], list[j]
		return cmp.Or(cmp.Compare(b.Behind, a.Behind), cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(a.ID, b.ID)) < 0
	})
	return list[:min(max(most, 0), len(list))]
}

// SessionDescription describes a session for operators.
type SessionDescription = session.Description

// SessionTopic is what a session subscribes to.
type SessionTopic = session.Topic

// maxTopics bounds the topics of a SessionDescription.
const maxTopics = 8

// Find returns the number of sessions whose client id contains a text, whose id contains
// it if it has 8 characters or more, or that subscribe to the topic with that name. It
// describes at most the given number of them: those whose socket is full first, and then
// by id.
func (g *Gateway) Find(text string, most int) (matching int, list []SessionDescription) {
	type place struct {
		isOpen bool // its socket is not full
		id     string
		s      *session.Session
	}
	var first []place // of the matching sessions, in order
	for _, s := range g.roster.all() {
		id, isFull, matches := s.Match(text)
		if !matches {
			continue
		}
		matching++
		one := place{!isFull, id, s}
		i := sort.Search(len(first), func(i int) bool {
			if first[i].isOpen != one.isOpen {
				return first[i].isOpen
			}
			return first[i].id > id
		})
		if i == most {
			continue
		}
		if len(first) < most {
			first = append(first, place{})
		}
		copy(first[i+1:], first[i:])
		first[i] = one
	}
	head := g.hub.Head()
	for _, one := range first {
		list = append(list, one.s.Describe(head, maxTopics))
	}
	return matching, list
}

// KickSession closes a session with 4004, so that its client does not
// reconnect. It returns how many sessions with that id it closed: 0 or 1.
func (g *Gateway) KickSession(id string) int {
	return g.kickIf(func(s *session.Session) bool { return s.ID() == id })
}

// KickClient closes all sessions of a client id with 4004. It returns their
// number.
func (g *Gateway) KickClient(client string) int {
	return g.kickIf(func(s *session.Session) bool { return client != "" && s.Identity().Client == client })
}

func (g *Gateway) kickIf(matches func(*session.Session) bool) (kicked int) {
	for _, s := range g.roster.all() {
		if matches(s) && s.Kick() {
			kicked++
		}
	}
	return kicked
}

// closeRevoked closes the sessions whose tokens are revoked, until ctx ends.
func (g *Gateway) closeRevoked(ctx context.Context) {
	revoker, ok := g.cfg.Auth.(Revoker)
	if !ok {
		return
	}
	for {
		more := revoker.Revocations()
		for _, s := range g.roster.all() {
			s.CloseIfRevoked()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// Audience counts the live subscriptions that get the events of a stream: to the stream,
// to its category and to all events. It leaves out queries and consumer groups.
func (g *Gateway) Audience(stream eventstore.StreamID) int { return g.hub.Audience(stream) }
