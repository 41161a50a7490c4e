package node

import (
	"context"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// maxSteps bounds the steps in a reply.
const maxSteps = 64

// Steps reports what the node did lately for a command.
func (s peerServer) Steps(_ context.Context, req *peer.StepsRequest) (*peer.StepsReply, error) {
	n := s.node
	n.observer.Steps.Keep()
	reply := &peer.StepsReply{}
	for _, one := range n.observer.Steps.Of(eventstore.StreamID{Type: req.Type, ID: req.Id}, req.Key, maxSteps) {
		reply.Steps = append(reply.Steps, &peer.Step{
			Kind: one.Kind, Command: one.Name, Position: uint64(one.Position), Began: one.Began.UnixMicro(), Took: one.Ended.Sub(one.Began).Microseconds(),
			Outcome: one.Outcome, Attempt: uint32(one.Attempt), Subscriptions: uint32(one.Subscriptions),
		})
	}
	for _, p := range n.readSide.projections.Stats() {
		f := &peer.Follower{Name: p.Projection, Segments: uint32(len(p.Segments))}
		for i, segment := range p.Segments {
			if i == 0 || uint64(segment.Position) < f.Lowest {
				f.Lowest = uint64(segment.Position)
			}
		}
		if f.Segments > 0 {
			reply.Followers = append(reply.Followers, f)
		}
	}
	return reply, nil
}

// steps asks a member what it did for a command.
func (n *node) steps(ctx context.Context, m console.Member, stream eventstore.StreamID, key string) (steps []console.Step, followers []console.Follower, err error) {
	var reply *peer.StepsReply
	req := &peer.StepsRequest{Type: stream.Type, Id: stream.ID, Key: key}
	err = n.ask(ctx, m, func(s transport.Peer) (err error) {
		reply, err = s.Steps(ctx, req)
		return err
	}, func(c transport.Client) (err error) {
		reply, err = c.Steps(ctx, req)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, one := range reply.Steps {
		steps = append(steps, console.Step{
			Kind: one.Kind, Command: one.Command, Position: one.Position, Began: one.Began, Took: one.Took,
			Outcome: one.Outcome, Attempt: int(one.Attempt), Subscriptions: int(one.Subscriptions),
		})
	}
	for _, f := range reply.Followers {
		followers = append(followers, console.Follower{Name: f.Name, Segments: int(f.Segments), Lowest: f.Lowest})
	}
	return steps, followers, nil
}
