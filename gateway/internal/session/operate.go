package session

import (
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
)

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
		slow.Behind = max(slow.Behind, sub.behind(head))
	}
	return slow, s.out.IsBlocked()
}

// behind returns the number of positions from the cursor to the head, 0 if no matching
// event is between them. The caller holds s.mu.
func (sub *subscription) behind(head eventstore.Position) eventstore.Position {
	if sub.isStarted && sub.At < head && (!sub.isLive || sub.isReady) {
		return head - sub.At
	}
	return 0
}

// Description describes a session for operators.
type Description struct {
	ID, Client    string    // Client is empty for an anonymous session, and before hello
	Protocol      string    // "in process", or that of the wire
	Opened        time.Time // in whole seconds
	Waiting       int       // pending bytes
	IsFull        bool      // its socket is full
	Subscriptions int       // their number
	Topics        []Topic   // the first of them, sorted by name
}

// Topic is what a session subscribes to.
type Topic struct {
	// Name is TYPE/ID, TYPE/* for a category, "query NAME", or "group NAME".
	Name string
	// Behind is the number of positions from the cursor of a subscription to events
	// to the head, 0 if no matching event is between them.
	Behind eventstore.Position
}

// minIDPart is the least number of characters by which a session's id is found. Fewer
// would find sessions by accident: about one id in 300 contains "ada".
const minIDPart = 8

// Match returns the session's id, and reports whether its socket is full, and whether
// the client id contains a text, the id contains it and it has 8 characters or more, or
// the session subscribes to the topic with that name.
func (s *Session) Match(text string) (id string, isFull, matches bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id, s.out.IsBlocked(), strings.Contains(s.client.identity.Client, text) ||
		len(text) >= minIDPart && strings.Contains(s.id, text) || s.subscribesTo(text)
}

// subscribesTo reports whether the session subscribes to a topic. The caller holds s.mu.
func (s *Session) subscribesTo(topic string) bool {
	for _, sub := range s.subs.byID {
		if nameOf(sub.Topic()) == topic {
			return true
		}
	}
	if query, ok := strings.CutPrefix(topic, "query "); ok {
		for _, q := range s.queries.byID {
			if q.question.Query == query {
				return true
			}
		}
	}
	if group, ok := strings.CutPrefix(topic, "group "); ok {
		for _, c := range s.consumers.byID {
			if c.group == group {
				return true
			}
		}
	}
	return false
}

// nameOf returns the name of the topic of a subscription to events.
func nameOf(t history.Topic) string {
	if t.IsCategory() {
		return t.Category + "/*"
	}
	return t.Stream.String()
}

// Describe describes the session, with at most the given number of topics.
func (s *Session) Describe(head eventstore.Position, topics int) Description {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Description{
		ID: s.id, Client: s.client.identity.Client, Protocol: s.wire.Protocol(), Opened: time.Unix(s.opened, 0), Waiting: s.out.Bytes(), IsFull: s.out.IsBlocked(),
		Subscriptions: len(s.subs.byID) + len(s.queries.byID) + len(s.consumers.byID),
	}
	if s.client.identity.IsInProcess() {
		d.Protocol = "in process"
	}
	behind := map[string]eventstore.Position{} // of the slowest subscription to a topic
	for _, sub := range s.subs.byID {
		name := nameOf(sub.Topic())
		behind[name] = max(behind[name], sub.behind(head))
	}
	for _, q := range s.queries.byID {
		behind["query "+q.question.Query] = 0
	}
	for _, c := range s.consumers.byID {
		behind["group "+c.group] = 0
	}
	names := make([]string, 0, len(behind))
	for name := range behind {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names[:min(topics, len(names))] {
		d.Topics = append(d.Topics, Topic{name, behind[name]})
	}
	return d
}
