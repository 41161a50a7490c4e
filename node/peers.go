package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// goodbyeTimeout bounds how long a node that has left waits until its peers have
	// received its last messages.
	goodbyeTimeout = time.Second
	// maxSlow bounds the sessions in a reply, which must not exceed 1 MiB.
	maxSlow = 1000
)

// peerServer serves other nodes (commands, events) and operators.
type peerServer struct {
	transport.UnimplementedPeer
	node      *node
	router    *router.Router
	publisher *feed.Publisher  // nil without the domain role
	gateway   *gateway.Gateway // nil without the gateway role
	moving    *sync.Mutex      // held while sessions are moved
	log       *slog.Logger
}

// peerServer returns what the node does for other nodes and operators.
func (n *node) peerServer() peerServer {
	return peerServer{node: n, router: n.router, publisher: n.publisher, gateway: n.gateway, moving: &n.moving, log: n.log}
}

func (n *node) servePeers(ctx context.Context) error {
	server := transport.NewServer(transport.ServerConfig{TLS: n.tls.Server(), Silence: n.cfg.Suspect})
	transport.Register(server, n.peerServer())
	return serveUntil(ctx, func() error { return server.Serve(n.peers) }, func() {
		// After a drain the streams end on their own once the last events and the
		// goodbye are sent.
		hard := time.AfterFunc(goodbyeTimeout, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	})
}

func (s peerServer) Commands(stream transport.CommandsServer) error {
	return s.router.Commands(stream)
}

func (s peerServer) Feed(member string, to transport.Sender[peer.FeedBatch]) error {
	if s.publisher == nil {
		return s.UnimplementedPeer.Feed(member, to)
	}
	return s.publisher.Feed(member, to)
}

// Progress sends the positions of the projections that the node runs.
func (s peerServer) Progress(to transport.Sender[peer.ProgressBatch]) error {
	publisher := s.node.readSide.publisher
	if publisher == nil {
		return s.UnimplementedPeer.Progress(to)
	}
	return publisher.Progress(to)
}

// Sessions counts, moves or closes the gateway's sessions for an operator.
func (s peerServer) Sessions(ctx context.Context, req *peer.SessionsRequest) (*peer.SessionsReply, error) {
	g := s.gateway
	if g == nil {
		return nil, transport.Errorf(transport.FailedPrecondition, "this node has no sessions: it is not a gateway")
	}
	var asked int
	switch {
	case req.Move > 0:
		if !s.moving.TryLock() {
			return nil, transport.Errorf(transport.Aborted, "sessions of this gateway are already being moved: try again later")
		}
		defer s.moving.Unlock()
		asked = g.Move(ctx, int(req.Move))
	case req.KickSession != "":
		asked = g.KickSession(req.KickSession)
	case req.KickClient != "":
		asked = g.KickClient(req.KickClient)
	case req.RevokeClient != "":
		r, ok := s.node.clientRevoker()
		if !ok {
			return nil, transport.Errorf(transport.FailedPrecondition, "it has no file of revoked tokens: set Revocations (--jwt-revocations)")
		}
		if err := r.RevokeClient(req.RevokeClient); err != nil {
			return nil, transport.Errorf(transport.Internal, "%w", err)
		}
		s.log.Info("an operator revoked the tokens of a client", "client", req.RevokeClient)
	}
	if asked > 0 {
		s.log.Info("an operator moved or closed sessions", "count", asked, "moved", req.Move > 0, "session", req.KickSession, "client", req.KickClient)
	}
	reply := &peer.SessionsReply{Asked: uint32(asked), Revoked: req.RevokeClient != ""}
	for _, one := range g.Slow(int(min(req.Slow, maxSlow))) {
		reply.Slow = append(reply.Slow, &peer.Session{
			Id: one.ID, Client: one.Client, Subscriptions: uint32(one.Subscriptions), WaitingBytes: uint64(one.Waiting), Behind: uint64(one.Behind),
		})
	}
	stats := g.Stats()
	reply.Open, reply.Full = uint32(stats.Sessions), uint32(stats.Full)
	return reply, nil
}
