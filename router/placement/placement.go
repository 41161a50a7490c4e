// Package placement decides which member works on a segment of a projection, and
// which one coordinates a consumer group.
//
// The members that can run a projection form a ring, and [ring.Ring.Owner] of a
// reserved name places each of its segments. A member is in the ring while it is
// ready, can run the projection and is reachable; if some of these announce no
// problem with their database, only those.
//
// # When segments move
//
// A segment moves immediately if its member is no longer in the ring, and
// otherwise once the ring has been the same for 2 s. A member that has just
// started takes no segment from others before that, unless a member leaves the ring,
// which may have been the one that had it. Members decide alone, so for
// a moment two of them may work on a segment, or none. That costs work and time,
// and never a wrong row: the checkpoint of the segment fences writers.
package placement

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/group"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/ring"
)

const (
	// stable is how long a ring must be the same before a segment moves away from
	// a member that still works.
	stable = 2 * time.Second
	// reserved and reservedGroup are the types of the names that place segments and
	// the coordinators of consumer groups. No aggregate can have them: types have no
	// "~".
	reserved      = "~projection"
	reservedGroup = "~group"
	// maxRings bounds the rings that are kept. A cluster needs two during an
	// upgrade, and more for a moment while links break.
	maxRings = 16
)

// Config configures a Placement. All fields are required.
type Config struct {
	// Self is this node's id.
	Self string
	// View returns the newest view of the cluster.
	View func() *cluster.View
	// Reachable reports whether another member can be reached now.
	Reachable func(member string) bool
}

// Placement places segments, as one node sees it. It is safe for concurrent use.
type Placement struct {
	cfg Config

	mu       sync.Mutex
	rings    map[string]*ring.Ring // by their members
	segments map[segment]*place
}

type segment struct {
	projection, fingerprint string
	number                  int // -1 for the coordinator of a consumer group
}

// name returns the reserved name that the ring places.
func (s segment) name() eventstore.StreamID {
	if s.number < 0 {
		return eventstore.StreamID{Type: reservedGroup, ID: s.projection}
	}
	return eventstore.StreamID{Type: reserved, ID: s.projection + "/" + strconv.Itoa(s.number)}
}

// A place is where a segment is.
type place struct {
	member  string     // "" if this node does not know yet
	members []string   // of ring
	ring    *ring.Ring // the last one seen
	since   time.Time  // when it was first seen
}

// New returns a Placement.
func New(cfg Config) *Placement {
	return &Placement{cfg: cfg, rings: map[string]*ring.Ring{}, segments: map[segment]*place{}}
}

// Owns reports whether this node works on a segment of a projection. Call it for
// each segment at least every second, so that the node notices moves.
func (p *Placement) Owns(projection, fingerprint string, number int) bool {
	members := p.members(fingerprint)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner(segment{projection, fingerprint, number}, members, time.Now()) == p.cfg.Self
}

// Coordinates reports whether this node coordinates a consumer group. Call it at least
// every second, so that the node notices moves.
func (p *Placement) Coordinates(name string) bool { return p.Coordinator(name) == p.cfg.Self }

// Coordinator returns the member that coordinates a consumer group, as this node sees
// it; "" if there is none.
func (p *Placement) Coordinator(name string) string {
	members := p.members(group.Fingerprint(name))
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owner(segment{name, group.Fingerprint(name), -1}, members, time.Now())
}

// Alone reports whether this node reaches no other domain node that is ready.
func (p *Placement) Alone() bool {
	return !slices.ContainsFunc(p.cfg.View().Members, func(m cluster.Member) bool {
		return m.ID != p.cfg.Self && m.Domain && m.State == cluster.Ready && p.cfg.Reachable(m.ID)
	})
}

// members returns the members of a projection's ring.
func (p *Placement) members(fingerprint string) []string {
	var all, sound []string
	for _, m := range p.cfg.View().Members {
		if m.State != cluster.Ready || !m.Runs(fingerprint) || m.ID != p.cfg.Self && !p.cfg.Reachable(m.ID) {
			continue
		}
		all = append(all, m.ID)
		if m.Problem.Serves() && m.Problem != cluster.StoreRefuses {
			sound = append(sound, m.ID)
		}
	}
	if len(sound) > 0 {
		return sound
	}
	return all
}

// owner returns the member that works on a segment, given the members of its
// ring; "" if there is none.
func (p *Placement) owner(s segment, members []string, now time.Time) string {
	if len(members) == 0 {
		delete(p.segments, s)
		return ""
	}
	r := p.ring(members)
	best, _ := r.Owner(s.name())
	at := p.segments[s]
	if at == nil {
		at = &place{members: members, ring: r, since: now}
		if best != p.cfg.Self || len(members) == 1 {
			at.member = best
		}
		p.segments[s] = at
	}
	gone := at.member != "" && !slices.Contains(members, at.member)
	if at.ring != r {
		gone = gone || at.member == "" && slices.ContainsFunc(at.members, func(m string) bool { return !slices.Contains(members, m) })
		at.members, at.ring, at.since = members, r, now
	}
	if gone || now.Sub(at.since) >= stable {
		at.member = best
	}
	return at.member
}

func (p *Placement) ring(members []string) *ring.Ring {
	key := strings.Join(members, " ") // ids have no spaces
	r := p.rings[key]
	if r == nil {
		if len(p.rings) >= maxRings {
			clear(p.rings)
		}
		r = ring.New(members)
		p.rings[key] = r
	}
	return r
}
