package group

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/group"
)

// answer returns what the sessions of a gateway hold, and a channel that is closed when
// that may have changed. The error is ErrNotCoordinator.
func (c *Coordinator) answer(gateway string) (a group.Answer, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	age := time.Since(c.confirm)
	if !c.leads || age >= group.Lease {
		return a, nil, group.ErrNotCoordinator
	}
	a.Age = age
	g := c.register.gateways[gateway]
	if g == nil {
		return a, nil, group.ErrNotCoordinator // it was not heard for too long
	}
	for id := range g.sessions {
		if c.leaving[id] {
			return a, nil, group.ErrNotCoordinator // see leave; the gateway asks again soon
		}
	}
	held := c.held()
	for _, id := range slices.Sorted(maps.Keys(g.sessions)) {
		s := g.sessions[id]
		one := group.Held{Session: id, Replaced: s.replacedBy != nil}
		if !one.Replaced {
			one.Holdings = held[id]
		}
		a.Sessions = append(a.Sessions, one)
	}
	a.Digest = digest(a.Sessions)
	return a, c.changed, nil
}

// held returns the holdings of all sessions. The caller holds mu.
func (c *Coordinator) held() map[string][]group.Holding {
	held := map[string][]group.Holding{}
	halt := c.halt()
	p := &planner{state: c.state}
	for _, s := range c.state.Segments {
		if s.Holder.Session == "" {
			continue
		}
		h := group.Holding{
			Segment: s.Name, Epoch: s.Epoch, Segments: c.state.Count, Position: s.Position, Log: c.state.LogID,
			Halt: halt, Sequence: groups.SequenceOf(s.Name),
		}
		if s.Tries >= groups.Careful {
			h.Window = 1
		}
		if h.Halt == "" && stuck(s) {
			h.Halt = group.ParkedFull
		}
		main := s.Name
		if h.Sequence != "" {
			main = p.mainOf(s)
		}
		_, h.Revoking = c.revoking[main]
		held[s.Holder.Session] = append(held[s.Holder.Session], h)
	}
	for _, list := range held {
		sort.Slice(list, func(i, j int) bool { return list[i].Segment < list[j].Segment })
	}
	return held
}

// digest hashes everything but positions.
func digest(list []group.Held) uint64 {
	h := fnv.New64a()
	for _, s := range list {
		fmt.Fprintf(h, "%s %v\n", s.Session, s.Replaced)
		for _, one := range s.Holdings {
			one.Position = 0
			fmt.Fprintf(h, "%+v\n", one)
		}
	}
	return max(h.Sum64(), 1)
}
