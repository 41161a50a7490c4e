package node

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// maxFound bounds the sessions in a reply, which must not exceed 1 MiB.
const maxFound = 200

// FindSessions counts the gateway's sessions, and describes the first ones that match a
// text.
func (s peerServer) FindSessions(_ context.Context, req *peer.FindSessionsRequest) (*peer.FindSessionsReply, error) {
	g := s.gateway
	if g == nil {
		return nil, transport.Errorf(transport.FailedPrecondition, "this node has no sessions: it is not a gateway")
	}
	matching, list := g.Find(req.Text, int(min(req.Most, maxFound)))
	stats := g.Stats()
	reply := &peer.FindSessionsReply{Open: uint32(stats.Sessions), Full: uint32(stats.Full), Matching: uint32(matching)}
	for _, one := range list {
		d := &peer.SessionDescription{
			Id: one.ID, Client: one.Client, Protocol: one.Protocol, Opened: one.Opened.Unix(), WaitingBytes: uint64(one.Waiting), Full: one.IsFull,
			Subscriptions: uint32(one.Subscriptions),
		}
		for _, t := range one.Topics {
			d.Topics = append(d.Topics, &peer.SessionTopic{Name: t.Name, Behind: uint64(t.Behind)})
		}
		reply.Sessions = append(reply.Sessions, d)
	}
	return reply, nil
}

// findSessions asks a gateway for its sessions.
func (n *node) findSessions(ctx context.Context, m console.Member, text string, most int) (found console.Sessions, err error) {
	var reply *peer.FindSessionsReply
	req := &peer.FindSessionsRequest{Text: text, Most: uint32(most)}
	err = n.ask(ctx, m, func(s transport.Peer) (err error) {
		reply, err = s.FindSessions(ctx, req)
		return err
	}, func(c transport.Client) (err error) {
		reply, err = c.FindSessions(ctx, req)
		return err
	})
	if err != nil {
		return found, err
	}
	found = console.Sessions{Open: int(reply.Open), Full: int(reply.Full), Matching: int(reply.Matching)}
	for _, s := range reply.Sessions {
		one := console.Session{
			ID: s.Id, Client: s.Client, Protocol: s.Protocol, Seconds: max(0, int64(time.Since(time.Unix(s.Opened, 0))/time.Second)), Waiting: s.WaitingBytes,
			Full: s.Full, Subscriptions: int(s.Subscriptions), Topics: []console.Topic{},
		}
		for _, t := range s.Topics {
			one.Topics = append(one.Topics, console.Topic{Name: t.Name, Behind: t.Behind})
		}
		found.List = append(found.List, one)
	}
	return found, nil
}
