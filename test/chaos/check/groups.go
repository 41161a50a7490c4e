package check

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/group"
)

// The names of the promises about consumer groups in anomalies.
const (
	GroupOrdered  = "a segment's events arrive in order, and none is left out"
	GroupAlone    = "no two members have a segment while the first counts as alive"
	GroupFenced   = "only acknowledgements of the newest epoch count"
	GroupComplete = "every event of a group is acknowledged"
)

// The consumer group of a run, which the program of the nodes declares.
const (
	GroupName     = "readers"
	GroupReads    = "counter" // an aggregate type
	GroupSegments = 8
	AckWithin     = 5 * time.Second
)

// aliveFor is how long a member certainly counts as alive after a sign of life, if
// neither it nor its gateway was hit by a fault. A gateway that is out of the cluster
// loses its members after 2 s, and a silent member its segments after AckWithin, which
// is longer.
const aliveFor = 1500 * time.Millisecond

// Never is the End of what has not ended.
const Never = math.MaxInt64

// A Span is a time, in nanoseconds since the start of the run.
type Span struct{ Begin, End int64 }

// A Tenure is the time for which a session of a member had a segment, as the member saw
// it.
type Tenure struct {
	Member, Gateway string
	Segment         int
	Epoch           uint64
	// Cursor is that of assigned: the events after it follow.
	Cursor uint64
	// The member has the segment from assigned on until revoked, the end of its
	// membership or of its session.
	Span
	Got  []Got
	Acks []Ack
}

// Got is an event that a member was sent.
type Got struct {
	At                int64
	Position, Version uint64
	Stream            string
}

// Ack is an acknowledgement that a member sent, with the time before it was sent.
type Ack struct {
	At     int64
	Cursor uint64
}

// Late is an acknowledgement that a member sent after it had learned that the epoch was
// over, with the reply: revoked, or an error.
type Late struct {
	Member  string
	Segment int
	Epoch   uint64
	Reply   string
}

// Progress is a segment of the group as its table had it at most at a time.
type Progress struct {
	At       int64
	Segment  int
	Epoch    uint64
	Position uint64
}

// Group has the observations of a consumer group.
type Group struct {
	Segments int
	Tenures  []Tenure
	Late     []Late
	Progress []Progress // in order of time
	// Hits has the times at which faults hit a member or a gateway, by its name.
	Hits map[string][]Span
	// Complete is set if the members must have acknowledged everything.
	Complete bool
}

// Pending returns how many events of the log the group reads that are not in a set of
// positions.
func Pending(log []eventstore.Commit, acked map[uint64]bool) (n int) {
	for i := range log {
		c := &log[i]
		for p := c.First(); c.Stream.Type == GroupReads && p <= c.Position; p++ {
			if !acked[uint64(p)] {
				n++
			}
		}
	}
	return n
}

// group checks the consumer group.
func (c *checker) group() {
	g := &c.history.Group
	if g.Segments == 0 {
		return
	}
	due := make([][]Seen, g.Segments)
	for _, e := range c.events {
		if id, err := eventstore.ParseStreamID(e.Stream); err == nil && id.Type == GroupReads {
			s := group.SegmentOf(id, g.Segments)
			due[s] = append(due[s], e)
		}
	}
	tenures := make([][]*Tenure, g.Segments)
	for i := range g.Tenures {
		t := &g.Tenures[i]
		tenures[t.Segment] = append(tenures[t.Segment], t)
		c.h.Deliveries += len(t.Got)
	}
	c.h.Tenures = len(g.Tenures)
	for s := range g.Segments {
		slices.SortStableFunc(tenures[s], func(a, b *Tenure) int { return cmp.Compare(a.Epoch, b.Epoch) })
		for _, t := range tenures[s] {
			c.tenure(t, due[s])
		}
		c.alone(tenures[s])
		c.fenced(s, tenures[s], due[s])
	}
	for _, l := range g.Late {
		if l.Reply != "revoked" {
			c.found(GroupFenced, "segment %d: the reply to an acknowledgement of %s under epoch %d, which was over, was %s", l.Segment, l.Member, l.Epoch, l.Reply)
		}
	}
}

// tenure checks that a member got the events after its cursor, in order and without a
// gap.
func (c *checker) tenure(t *Tenure, due []Seen) {
	at, _ := slices.BinarySearchFunc(due, t.Cursor+1, byPosition)
	for _, e := range t.Got {
		if at == len(due) || due[at].Position != e.Position || due[at].Version != e.Version || due[at].Stream != e.Stream {
			var want Seen
			if at < len(due) {
				want = due[at]
			}
			c.found(GroupOrdered, "segment %d: %s got version %d of %s at position %d under epoch %d, want version %d of %s at %d",
				t.Segment, t.Member, e.Version, e.Stream, e.Position, t.Epoch, want.Version, want.Stream, want.Position)
			return
		}
		at++
	}
}

func byPosition(e Seen, p uint64) int { return cmp.Compare(e.Position, p) }

// alone checks the tenures of a segment in the order of their epochs.
func (c *checker) alone(tenures []*Tenure) {
	had := map[uint64]*Tenure{} // the last tenure that got a position
	gotAt := map[uint64]int64{}
	for i, t := range tenures {
		if i > 0 && tenures[i-1].Epoch == t.Epoch {
			c.found(GroupAlone, "segment %d: epoch %d is that of %s and of %s", t.Segment, t.Epoch, tenures[i-1].Member, t.Member)
			continue
		}
		reported := false
		for _, e := range t.Got {
			if first := had[e.Position]; first != nil && !reported && c.wasAlive(first, gotAt[e.Position], e) {
				reported = true
				c.found(GroupAlone, "segment %d: event %d was sent to %s at %s under epoch %d, and to %s under epoch %d %v later, while %s was alive and had not acknowledged it",
					t.Segment, e.Position, first.Member, first.Gateway, first.Epoch, t.Member, t.Epoch, time.Duration(e.At-gotAt[e.Position]), first.Member)
			}
			had[e.Position], gotAt[e.Position] = t, e.At
		}
	}
}

// wasAlive reports whether a member certainly counted as alive, and held an event that
// it got at a time, when another member got the event.
func (c *checker) wasAlive(t *Tenure, got int64, e Got) bool {
	if t.End <= e.At {
		return false
	}
	sign := got
	for _, a := range t.Acks {
		if a.At <= e.At {
			sign = max(sign, a.At)
			if a.Cursor >= e.Position {
				return false
			}
		}
	}
	from := e.At - int64(aliveFor)
	if sign < from {
		return false
	}
	return !t.isHit(&c.history.Group, from, max(e.At, got))
}

// isHit reports whether a fault hit the member or its gateway between two times.
func (t *Tenure) isHit(g *Group, from, to int64) bool {
	overlaps := func(hit Span) bool { return hit.Begin <= to && hit.End >= from }
	return slices.ContainsFunc(g.Hits[t.Member], overlaps) || slices.ContainsFunc(g.Hits[t.Gateway], overlaps)
}

// fenced checks that a segment's position passes an event only after a member has
// acknowledged the event while no later epoch was known.
func (c *checker) fenced(segment int, tenures []*Tenure, due []Seen) {
	g := &c.history.Group
	known := map[uint64]int64{} // when an epoch was seen first
	see := func(epoch uint64, at int64) {
		if first, ok := known[epoch]; !ok || at < first {
			known[epoch] = at
		}
	}
	var all []Progress
	base := uint64(math.MaxUint64)
	for _, p := range g.Progress {
		if p.Segment == segment {
			see(p.Epoch, p.At)
			base = min(base, p.Position)
			all = append(all, p)
		}
	}
	for _, t := range tenures {
		see(t.Epoch, t.Begin)
		all = append(all, Progress{t.Begin, segment, t.Epoch, t.Cursor})
	}
	slices.SortFunc(all, func(a, b Progress) int { return cmp.Compare(a.At, b.At) })
	over := int64(Never) // when a later epoch was seen
	acked := make([]int64, len(due))
	for i := range acked {
		acked[i] = Never
	}
	for i := len(tenures) - 1; i >= 0; i-- {
		t := tenures[i]
		for epoch, at := range known {
			if epoch > t.Epoch {
				over = min(over, at)
			}
		}
		acks := t.Acks // their cursors never decrease
		for _, e := range t.Got {
			for len(acks) > 0 && acks[0].Cursor < e.Position {
				acks = acks[1:]
			}
			if n, ok := slices.BinarySearchFunc(due, e.Position, byPosition); ok && len(acks) > 0 && acks[0].At <= over {
				acked[n] = min(acked[n], acks[0].At)
			}
		}
	}
	passed := 0
	for passed < len(due) && due[passed].Position <= base {
		passed++ // older than the group
	}
	for _, p := range all {
		for ; passed < len(due) && due[passed].Position <= p.Position; passed++ {
			if acked[passed] > p.At {
				c.found(GroupFenced, "segment %d was at position %d under epoch %d, although no member with the newest epoch had acknowledged event %d of %s",
					segment, p.Position, p.Epoch, due[passed].Position, due[passed].Stream)
			}
		}
	}
	missing := 0
	for i, at := range acked {
		if at == Never && due[i].Position > base {
			if missing++; missing == 1 && g.Complete {
				c.found(GroupComplete, "segment %d: event %d of %s was not acknowledged", segment, due[i].Position, due[i].Stream)
			}
		}
	}
}

// clone copies the parts that a plant changes.
func (g Group) clone() Group {
	g.Tenures, g.Late, g.Progress = slices.Clone(g.Tenures), slices.Clone(g.Late), slices.Clone(g.Progress)
	for i := range g.Tenures {
		g.Tenures[i].Got, g.Tenures[i].Acks = slices.Clone(g.Tenures[i].Got), slices.Clone(g.Tenures[i].Acks)
	}
	return g
}
