package group

import (
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/group"
)

const (
	// gather is how long joins are gathered before segments move to them.
	gather = time.Second
	// revokeWithin is how long a member has to release a segment.
	revokeWithin = 5 * time.Second
)

// A revocation is the demand that a member releases the segment that it has under an
// epoch. It stands until that epoch is over in the database.
type revocation struct {
	since time.Time
	epoch uint64
}

// A planner makes the changes of one round.
type planner struct {
	state    groups.Group
	register *register
	revoking map[string]revocation // by numbered segment
	now      time.Time

	moved   map[string]bool // segments that go to another member now, or to none
	members []*session
	load    map[*session]int
	holders map[string]*session // of numbered segments, after the changes
	changes []groups.Change
}

// plan returns the changes that must be stored now. It adds segments that living members
// must release to revoking.
func plan(state groups.Group, r *register, revoking map[string]revocation, now time.Time) []groups.Change {
	p := &planner{
		state: state, register: r, revoking: revoking, now: now,
		moved: map[string]bool{}, members: r.members(), load: map[*session]int{}, holders: map[string]*session{},
	}
	p.inherit()
	vacant := p.keep()
	p.fill(vacant)
	p.followers()
	p.balance()
	return p.changes
}

// inherit takes over revocations of an earlier coordinator: a session sends nothing more
// of a segment that it has released.
func (p *planner) inherit() {
	for _, s := range p.state.Segments {
		holder := p.register.sessions[s.Holder.Session]
		if _, revoked := p.revoking[s.Name]; revoked || groups.SequenceOf(s.Name) != "" || holder == nil || !holder.alive() {
			continue
		}
		if t := holder.tenures[s.Name]; t.Epoch == s.Epoch && t.Released {
			p.revoking[s.Name] = revocation{p.now, s.Epoch}
		}
	}
}

// keep leaves numbered segments with their holders, and returns the others.
func (p *planner) keep() (vacant []groups.Segment) {
	for _, s := range p.state.Segments {
		if groups.SequenceOf(s.Name) != "" {
			continue
		}
		holder := p.register.sessions[s.Holder.Session]
		switch {
		case holder != nil && holder.alive() && !p.released(s):
			p.hold(s.Name, holder)
			if p.parkable(s) {
				p.change(s, holder)
			}
		case holder != nil && holder.replacedBy != nil && holder.newest().alive():
			p.hold(s.Name, holder.newest())
			p.change(s, holder.newest())
		default:
			vacant = append(vacant, s)
		}
	}
	return vacant
}

func (p *planner) hold(segment string, s *session) {
	p.holders[segment] = s
	p.load[s]++
}

// released reports whether a numbered segment is revoked and was released, with the
// segments that follow it, or was not released in time.
func (p *planner) released(s groups.Segment) bool {
	r, revoked := p.revoking[s.Name]
	if !revoked {
		return false
	}
	if p.now.Sub(r.since) >= revokeWithin {
		return true
	}
	for _, one := range p.state.Segments {
		if one.Name != s.Name && p.mainOf(one) != s.Name || one.Holder.Session == "" {
			continue
		}
		holder := p.register.sessions[one.Holder.Session]
		if holder == nil || holder.gone {
			continue
		}
		if t := holder.tenures[one.Name]; t.Epoch != one.Epoch || !t.Released {
			return false
		}
	}
	return true
}

// mainOf returns the numbered segment that a sequence's segment follows, "" for a
// numbered one.
func (p *planner) mainOf(s groups.Segment) string {
	sequence := groups.SequenceOf(s.Name)
	if sequence == "" {
		return ""
	}
	stream, err := eventstore.ParseStreamID(sequence)
	if err != nil {
		return groups.SegmentName(0) // no gateway parks such a sequence
	}
	return groups.SegmentName(group.SegmentOf(stream, p.state.Count))
}

// fill gives vacant segments to the members with the fewest ones.
func (p *planner) fill(vacant []groups.Segment) {
	for _, s := range vacant {
		p.moved[s.Name] = true
		var to *session
		if len(p.members) > 0 {
			to = p.least()
			p.hold(s.Name, to)
		}
		if to != nil || s.Holder.Session != "" {
			p.change(s, to)
		}
	}
}

func (p *planner) least() *session {
	return slices.MinFunc(p.members, func(a, b *session) int { return p.load[a] - p.load[b] })
}

// followers gives the segments of sequences to the holders of their numbered segments.
func (p *planner) followers() {
	for _, s := range p.state.Segments {
		main := p.mainOf(s)
		if main == "" {
			continue
		}
		to := p.holders[main]
		if s.Holder.Session != sessionID(to) || p.parkable(s) {
			p.change(s, to)
		}
	}
}

func sessionID(s *session) string {
	if s == nil {
		return ""
	}
	return s.id
}

// parkable reports whether a sequence of the segment must be parked and can be.
func (p *planner) parkable(s groups.Segment) bool {
	return s.Tries >= groups.ParkAfter && s.Suspect > 0 && (p.state.Parked < groups.MaxParked || groups.SequenceOf(s.Name) != "")
}

// change gives a segment to a member, or to none. It counts a try if the holder so far
// is gone with an event pending.
func (p *planner) change(s groups.Segment, to *session) {
	c := groups.Change{Segment: s.Name}
	if to != nil {
		c.To = to.holder()
	}
	suspect, tries := s.Suspect, s.Tries
	if from := p.register.sessions[s.Holder.Session]; from != nil && from.gone && from.replacedBy == nil {
		if t := from.tenures[s.Name]; t.Epoch == s.Epoch && t.First > s.Position {
			c.Failed, c.Suspect, c.Last = true, t.First, t.Last
			suspect, tries = t.First, tries+1
		}
	}
	if tries >= groups.ParkAfter && suspect > 0 {
		c.Park = &groups.Park{Position: suspect} // its sequence is read from the log
	}
	p.changes = append(p.changes, c)
}

// balance revokes surplus segments of living members.
func (p *planner) balance() {
	if !p.register.joined.IsZero() || len(p.members) == 0 {
		return
	}
	load := map[*session]int{} // after everything that is revoked has moved
	for _, m := range p.members {
		load[m] = p.load[m]
	}
	least := func() *session {
		return slices.MinFunc(p.members, func(a, b *session) int { return load[a] - load[b] })
	}
	moving := 0
	for name := range p.revoking {
		if s := p.holders[name]; s != nil && !p.moved[name] {
			load[s]--
			moving++
		}
	}
	for range moving {
		load[least()]++
	}
	for {
		most := slices.MaxFunc(p.members, func(a, b *session) int { return load[a] - load[b] })
		to := least()
		if load[most]-load[to] < 2 {
			return
		}
		s := p.surplus(most)
		if s == nil {
			return
		}
		p.revoking[s.Name] = revocation{p.now, s.Epoch}
		load[most]--
		load[to]++
	}
}

// surplus returns the last segment of a member that is neither revoked nor has just
// moved, or nil.
func (p *planner) surplus(m *session) (last *groups.Segment) {
	for i := range p.state.Segments {
		s := &p.state.Segments[i]
		if _, revoked := p.revoking[s.Name]; !revoked && !p.moved[s.Name] && groups.SequenceOf(s.Name) == "" && p.holders[s.Name] == m {
			last = s
		}
	}
	return last
}
