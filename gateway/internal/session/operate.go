package session

import "github.com/ganglion-es/ganglion/eventstore"

// Slow describes a session whose socket is full.
type Slow struct {
	ID, Client    string
	Subscriptions int
	Waiting       int                 // pending bytes
	Behind        eventstore.Position // positions from the cursor of the slowest subscription to the head
}

// Slow describes the session. It returns false if its socket is not full.
func (s *Session) Slow(head eventstore.Position) (Slow, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slow := Slow{ID: s.id, Client: s.client.identity.Client, Subscriptions: len(s.subs.byID) + len(s.queries.byID) + len(s.consumers.byID), Waiting: s.out.Bytes()}
	for _, sub := range s.subs.byID {
		if sub.isStarted && sub.At < head && (!sub.isLive || sub.isReady) {
			slow.Behind = max(slow.Behind, head-sub.At)
		}
	}
	return slow, s.out.IsBlocked()
}
