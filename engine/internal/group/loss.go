package group

import "time"

// A loss is how another node has replaced this one, which still owns the group by the
// ring. Gateways ask the coordinator that their rings name, so their reports show which
// of the two nodes the others see. It is not safe for concurrent use.
type loss struct {
	at time.Time
	// mayReturn reports that gateways that this node heard can give the group back to it.
	mayReturn bool
	// heard are the gateways that this node heard while it coordinated, except that of
	// the node that has replaced it.
	heard    map[string]bool
	sessions int             // how many of them had sessions, and so will ask
	asked    map[string]bool // those of heard that have asked this node since
}

// newLoss describes a loss to a node.
func newLoss(r *register, to string, mayReturn bool, now time.Time) *loss {
	l := &loss{at: now, mayReturn: mayReturn, heard: map[string]bool{}, asked: map[string]bool{}}
	for name, g := range r.gateways {
		if name == to {
			continue
		}
		l.heard[name] = true
		if len(g.sessions) > 0 {
			l.sessions++
		}
	}
	return l
}

// ask notes that a gateway asks this node, and reports whether the group must be taken
// back now, and whether the reason is a gateway that was not heard before. Reports of the
// first 500 ms do not count: they may have been on their way, or the rings of other nodes
// change a moment later than that of the node that took it.
func (l *loss) ask(gateway string, now time.Time) (isOver, isNew bool) {
	switch {
	case now.Sub(l.at) < confirmEvery:
		return false, false
	case !l.heard[gateway]:
		return true, true
	}
	l.asked[gateway] = true
	return l.mayReturn && 2*len(l.asked) > l.sessions, false
}
