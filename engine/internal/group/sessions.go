package group

import (
	"cmp"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/group"
)

// A session is a session of a member that a gateway has reported.
type session struct {
	id, client, member string
	gateway            string
	tenures            map[string]group.Tenure // by segment
	order              uint64                  // of arrival
	known              bool                    // to an earlier coordinator, when it arrived
	// settled reports that the time to gather joins has passed.
	settled bool
	// replacedBy is the newer session of the member, nil if this is the newest.
	replacedBy *session
	// gone reports that the session has ended, goneAt when. It is kept while it is
	// stored as the holder of a segment, and for remember.
	gone   bool
	goneAt time.Time
}

const (
	// remember is how long a session that is gone is known: it may return with a
	// gateway that was cut off, and must not replace a newer one.
	remember = 10 * time.Minute
	// maxRemembered bounds the sessions of a group that are known.
	maxRemembered = 10_000
)

func (s *session) end(now time.Time) {
	if !s.gone {
		s.gone, s.goneAt = true, now
	}
}

func (s *session) alive() bool { return !s.gone && s.replacedBy == nil }

// newest follows the replacements of a session.
func (s *session) newest() *session {
	for s.replacedBy != nil {
		s = s.replacedBy
	}
	return s
}

func (s *session) holder() groups.Holder {
	return groups.Holder{Client: s.client, Member: s.member, Session: s.id, Gateway: s.gateway}
}

// A gateway is one that has reported.
type gateway struct {
	boot     string
	number   uint64
	heard    time.Time
	sessions map[string]*session
}

// register has the sessions of all gateways. It is not safe for concurrent use.
type register struct {
	gateways map[string]*gateway
	sessions map[string]*session // gone ones included
	arrived  uint64
	joined   time.Time // when the first session that is not settled arrived
}

func newRegister() *register {
	return &register{gateways: map[string]*gateway{}, sessions: map[string]*session{}}
}

// report takes a report, and reports whether it says something new. isNew says that
// the order of arrival says nothing yet, because the coordinator has just begun.
func (r *register) report(rep group.Report, now time.Time, isNew bool) (changed bool) {
	g := r.gateways[rep.Gateway]
	if g == nil || g.boot != rep.Boot {
		old := g
		g = &gateway{boot: rep.Boot, sessions: map[string]*session{}}
		r.gateways[rep.Gateway] = g
		if old != nil {
			for _, s := range old.sessions {
				s.end(now)
			}
		}
		changed = true
	}
	if rep.Number <= g.number && g.number > 0 {
		return changed
	}
	g.number, g.heard = rep.Number, now
	reported := map[string]bool{}
	for _, one := range rep.Sessions {
		if !one.Closed {
			reported[one.ID] = true
		}
		changed = r.take(g, rep.Gateway, one, now, isNew) || changed
	}
	for id, s := range g.sessions {
		if !reported[id] {
			delete(g.sessions, id)
			s.end(now)
			changed = true
		}
	}
	return changed
}

// take takes what a gateway says of one session.
func (r *register) take(g *gateway, name string, one group.Session, now time.Time, isNew bool) (changed bool) {
	s := g.sessions[one.ID]
	if s == nil {
		if one.Closed {
			if s = r.sessions[one.ID]; s == nil {
				return false
			}
			s.setTenures(one.Tenures)
			return false
		}
		r.arrived++
		s = &session{id: one.ID, client: one.Client, member: one.Member, gateway: name, order: r.arrived, known: one.Known}
		if known := r.sessions[one.ID]; known != nil {
			s.order = known.order // its gateway was silent for a while
		}
		r.replace(s, isNew)
		g.sessions[one.ID], r.sessions[one.ID] = s, s
		if r.joined.IsZero() && !s.settled {
			r.joined = now
		}
		changed = true
	}
	return s.setTenures(one.Tenures) || changed
}

// setTenures reports whether a segment was released.
func (s *session) setTenures(list []group.Tenure) (released bool) {
	before := s.tenures
	s.tenures = make(map[string]group.Tenure, len(list))
	for _, t := range list {
		s.tenures[t.Segment] = t
		released = released || t.Released && !before[t.Segment].Released
	}
	return released
}

// replace decides between a session that has arrived and the others of its member.
func (r *register) replace(s *session, isNew bool) {
	for _, other := range r.sessions {
		if other.client != s.client || other.member != s.member || other.id == s.id || !other.alive() {
			continue
		}
		if isOlder(s, other, isNew) {
			s.replacedBy = other
			continue
		}
		other.replacedBy = s
		s.settled = s.settled || other.settled
	}
}

// isOlder reports whether a session that has arrived is older than another one of its
// member. One that was known before is not newer than one that is here already, except
// that to a new coordinator all sessions arrive in any order: their ids are sorted by
// the time at which they joined.
func isOlder(s, other *session, isNew bool) bool {
	switch {
	case isNew && s.known == other.known:
		return s.id < other.id
	case isNew:
		return s.known
	}
	return s.known && other.order != s.order || other.order > s.order
}

// expire forgets gateways that were not heard for a time, and settles sessions once
// joins were gathered. It reports whether anything changed.
func (r *register) expire(now time.Time) (changed bool) {
	for name, g := range r.gateways {
		if now.Sub(g.heard) < group.Lease {
			continue
		}
		for _, s := range g.sessions {
			s.end(now)
			changed = true
		}
		delete(r.gateways, name)
	}
	if !r.joined.IsZero() && now.Sub(r.joined) >= gather {
		r.settle()
		changed = true
	}
	return changed
}

// settle ends the gathering of joins.
func (r *register) settle() {
	r.joined = time.Time{}
	for _, s := range r.sessions {
		s.settled = true
	}
}

// forget drops sessions that are gone, unless they are stored as a holder.
func (r *register) forget(g groups.Group, now time.Time) {
	held := map[string]bool{}
	for _, s := range g.Segments {
		held[s.Holder.Session] = true
	}
	for id, s := range r.sessions {
		if s.gone && !held[id] && (len(r.sessions) > maxRemembered || now.Sub(s.goneAt) >= remember) {
			delete(r.sessions, id)
		}
	}
}

// members returns the sessions that can hold segments, in the order of their arrival.
func (r *register) members() []*session {
	var list []*session
	for _, s := range r.sessions {
		if s.alive() && s.settled {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *session) int { return cmp.Compare(a.order, b.order) })
	return list
}

// count returns the number of living sessions.
func (r *register) count() (n int) {
	for _, s := range r.sessions {
		if s.alive() {
			n++
		}
	}
	return n
}
