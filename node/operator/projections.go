package operator

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// Projections is the work of one node on projections, relays and intakes.
type Projections struct {
	// Segments are the ones on which it works, at most 4,096.
	Segments []Segment `json:"segments"`
	// Memories are the projections in its memory.
	Memories []Memory `json:"memories"`
	// Intakes are the queues from which it takes commands.
	Intakes []Intake `json:"intakes"`
}

// An Intake takes commands from the queue of a broker on one node, with counters since
// the start of the node.
type Intake struct {
	Intake string `json:"intake"`
	Queue  string `json:"queue"` // and the broker, without secrets
	// State is stopped while the node does not serve, away without a connection to the
	// queue, waiting before the first message over a connection, and then working.
	State string    `json:"state"`
	Since time.Time `json:"since"` // when the state began, by the node's clock
	// Problem is the last error of a connection, also of one that was replaced.
	Problem    string            `json:"problem,omitempty"`
	ProblemAt  time.Time         `json:"problem_at,omitzero"`
	Unfinished int               `json:"unfinished"` // messages that were taken and not finished
	Commands   map[string]uint64 `json:"commands"`   // finished messages, by their outcome: result, rejected, conflict, dead_letter
	Retries    uint64            `json:"retries"`    // commands that were sent again
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
	err = c.call(ctx, addr, func(node transport.Client) error {
		reply, err = node.Projections(ctx, &peer.ProjectionsRequest{})
		return err
	})
	if err != nil {
		return p, err
	}
	p = Projections{Segments: []Segment{}, Memories: []Memory{}, Intakes: []Intake{}}
	for _, s := range reply.Segments {
		p.Segments = append(p.Segments, Segment{s.Projection, s.Build, int(s.Segment), eventstore.Position(s.Position), s.Stopped})
	}
	for _, m := range reply.Memories {
		p.Memories = append(p.Memories, Memory{m.Projection, eventstore.Position(m.Position), m.Current, m.Stopped})
	}
	for _, in := range reply.Intakes {
		one := Intake{
			Intake: in.Intake, Queue: in.Queue, State: in.State, Since: time.UnixMilli(in.Since), Problem: in.Problem,
			Unfinished: int(in.Unfinished), Commands: in.Commands, Retries: in.Retries,
		}
		if in.ProblemAt > 0 {
			one.ProblemAt = time.UnixMilli(in.ProblemAt)
		}
		p.Intakes = append(p.Intakes, one)
	}
	return p, nil
}
