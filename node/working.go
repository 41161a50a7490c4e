package node

import (
	"cmp"
	"context"
	"errors"
	"sort"
	"strings"

	"github.com/ganglion-es/ganglion/node/operator"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// maxWorked bounds the segments in a reply, which must not exceed 1 MiB.
const maxWorked = 4096

var errNoGateway = errors.New("this member has no sessions: it is not a gateway")

// ProjectionWork is the work of one node on projections, relays and intakes.
type ProjectionWork = operator.Projections

// work returns what this node works on for projections and relays, sorted by
// projection, build and segment, and its intakes.
func (n *node) work() ProjectionWork {
	w := ProjectionWork{Segments: []operator.Segment{}, Memories: []operator.Memory{}, Intakes: n.servedIntakes()}
	for _, s := range n.readSide.projections.Stats() {
		for _, f := range s.Segments {
			w.Segments = append(w.Segments, operator.Segment{
				Projection: s.Projection, Build: f.Build, Segment: f.Segment, Position: f.Position, Stopped: string(f.Stopped),
			})
		}
	}
	for _, s := range n.readSide.projections.Relays() {
		for _, f := range s.Segments {
			_, why := relayWaits(s, f)
			w.Segments = append(w.Segments, operator.Segment{Projection: s.Projection, Build: f.Build, Position: f.Position, Stopped: why})
		}
	}
	sort.Slice(w.Segments, func(i, j int) bool {
		a, b := w.Segments[i], w.Segments[j]
		return cmp.Or(cmp.Compare(a.Projection, b.Projection), cmp.Compare(a.Build, b.Build), cmp.Compare(a.Segment, b.Segment)) < 0
	})
	w.Segments = w.Segments[:min(len(w.Segments), maxWorked)]
	for _, f := range n.readSide.projections.Memory() {
		w.Memories = append(w.Memories, operator.Memory{Projection: f.Projection, Position: f.Position, Current: f.Current, Stopped: f.Stopped})
	}
	return w
}

// addWork adds to each member what it works on for projections.
func (n *node) addWork(ctx context.Context, members []MemberStatus) {
	answers := n.working.of(ctx, n.cluster.View().Members)
	for i := range members {
		if m := &members[i]; m.ID == n.cfg.Name {
			m.Projections = new(n.work())
		} else {
			m.Projections = answers[m.ID]
		}
	}
}

// Projections reports to an operator or another node what this node works on.
func (s peerServer) Projections(context.Context, *peer.ProjectionsRequest) (*peer.ProjectionsReply, error) {
	w, reply := s.node.work(), &peer.ProjectionsReply{}
	for _, one := range w.Segments {
		reply.Segments = append(reply.Segments, &peer.WorkedSegment{
			Projection: one.Projection, Build: one.Build, Segment: uint32(one.Segment), Position: uint64(one.Position), Stopped: strings.ToValidUTF8(one.Stopped, "?"),
		})
	}
	for _, one := range w.Memories {
		reply.Memories = append(reply.Memories, &peer.MemoryProjection{
			Projection: one.Projection, Position: uint64(one.Position), Current: one.Current, Stopped: one.Stopped,
		})
	}
	for _, in := range w.Intakes {
		one := &peer.ServedIntake{
			Intake: in.Intake, Queue: in.Queue, State: in.State, Since: in.Since.UnixMilli(), Problem: strings.ToValidUTF8(in.Problem, "?"),
			Unfinished: uint32(in.Unfinished), Commands: in.Commands, Retries: in.Retries,
		}
		if in.Problem != "" {
			one.ProblemAt = in.ProblemAt.UnixMilli()
		}
		reply.Intakes = append(reply.Intakes, one)
	}
	return reply, nil
}
