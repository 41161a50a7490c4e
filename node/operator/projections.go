package operator

import (
	"context"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// Projections is the work of one node on projections.
type Projections struct {
	// Segments are the ones on which it works, at most 4,096.
	Segments []Segment `json:"segments"`
	// Memories are the projections in its memory.
	Memories []Memory `json:"memories"`
}

// A Segment is a segment of a build that a node works on.
type Segment struct {
	Projection string              `json:"projection"`
	Build      int64               `json:"build"`
	Segment    int                 `json:"segment"`
	Position   eventstore.Position `json:"position"` // up to which its rows show the log
	// Stopped is why it does not follow the log, "" if it does: the cause of
	// ganglion_projection_retries_total.
	Stopped string `json:"stopped,omitempty"`
}

// A Memory is a projection in the memory of a node.
type Memory struct {
	Projection string              `json:"projection"`
	Position   eventstore.Position `json:"position"` // up to which its state shows the log
	Current    bool                `json:"current"`  // the state can be read
	Stopped    bool                `json:"stopped"`  // an event cannot be folded
}

// State describes the projection in words.
func (m Memory) State() string {
	switch {
	case m.Stopped:
		return "stopped: an event cannot be folded"
	case m.Current:
		return "active"
	}
	return "building"
}

// Projections returns what a node works on for projections.
func (c *Client) Projections(ctx context.Context, addr string) (p Projections, err error) {
	var reply *peer.ProjectionsReply
	err = c.call(ctx, addr, func(node peer.PeerClient) error {
		reply, err = node.Projections(ctx, &peer.ProjectionsRequest{})
		return err
	})
	if err != nil {
		return p, err
	}
	p = Projections{Segments: []Segment{}, Memories: []Memory{}}
	for _, s := range reply.Segments {
		p.Segments = append(p.Segments, Segment{s.Projection, s.Build, int(s.Segment), eventstore.Position(s.Position), s.Stopped})
	}
	for _, m := range reply.Memories {
		p.Memories = append(p.Memories, Memory{m.Projection, eventstore.Position(m.Position), m.Current, m.Stopped})
	}
	return p, nil
}
