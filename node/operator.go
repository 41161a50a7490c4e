package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/link"
)

// Operator asks gateways about their sessions, and has them do something about
// those, at the address where nodes reach each other. It proves itself as a
// node does. Its methods are safe for concurrent use.
type Operator struct{ tls *tls.Config }

// NewOperator returns an Operator with a certificate of the cluster's
// authority; without files it speaks in the clear, as nodes on loopback
// addresses or with insecure peers do.
func NewOperator(files PeerTLS, log *slog.Logger) (*Operator, error) {
	f, err := files.load(log)
	if err != nil {
		return nil, err
	}
	return &Operator{f.client()}, nil
}

// Sessions are the sessions of one gateway.
type Sessions struct {
	Open int `json:"open"`
	Full int `json:"full"` // of those, with a full socket
	// Slow lists those, the ones that are furthest behind first.
	Slow []gateway.SlowSession `json:"slow,omitempty"`
}

// Sessions counts the sessions of the gateway at an address for peers, and
// lists at most so many slow ones.
func (o *Operator) Sessions(ctx context.Context, addr string, slow int) (Sessions, error) {
	reply, err := askSessions(ctx, o.tls, addr, &peer.SessionsRequest{Slow: uint32(max(slow, 0))})
	if err != nil {
		return Sessions{}, err
	}
	s := Sessions{Open: int(reply.Open), Full: int(reply.Full)}
	for _, one := range reply.Slow {
		s.Slow = append(s.Slow, gateway.SlowSession{
			ID: one.Id, Client: one.Client, Subscriptions: int(one.Subscriptions), Waiting: int(one.WaitingBytes), Behind: eventstore.Position(one.Behind),
		})
	}
	return s, nil
}

// Move asks n sessions to connect elsewhere, one after another, and returns
// how many were asked.
func (o *Operator) Move(ctx context.Context, addr string, n int) (int, error) {
	return o.do(ctx, addr, &peer.SessionsRequest{Move: uint32(max(n, 0))})
}

// KickSession closes a session for good, and returns whether it was there.
func (o *Operator) KickSession(ctx context.Context, addr, id string) (bool, error) {
	n, err := o.do(ctx, addr, &peer.SessionsRequest{KickSession: id})
	return n > 0, err
}

// KickClient closes all sessions of a client id for good, and returns how many
// there were.
func (o *Operator) KickClient(ctx context.Context, addr, client string) (int, error) {
	return o.do(ctx, addr, &peer.SessionsRequest{KickClient: client})
}

func (o *Operator) do(ctx context.Context, addr string, req *peer.SessionsRequest) (int, error) {
	reply, err := askSessions(ctx, o.tls, addr, req)
	return int(reply.GetAsked()), err
}

// askSessions makes one call, on a connection of its own: there is none
// between two gateways, and calls are few.
func askSessions(ctx context.Context, tls *tls.Config, addr string, req *peer.SessionsRequest) (*peer.SessionsReply, error) {
	pool := link.NewPool(link.PoolConfig{TLS: tls})
	defer pool.Close()
	conn, _, err := pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	reply, err := peer.NewPeerClient(conn).Sessions(ctx, req)
	if err != nil {
		return nil, notAnswered(ctx, addr, err)
	}
	return reply, nil
}

// notAnswered says why a node did not do what an operator asked.
func notAnswered(ctx context.Context, addr string, err error) error {
	switch code := grpcstatus.Code(err); {
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not answer in time", addr)
	case code == codes.Unimplemented:
		return fmt.Errorf("the node at %s is older than this command", addr)
	case code == codes.Unavailable && strings.Contains(err.Error(), "while dialing"):
		return fmt.Errorf("no node can be reached at %s (%s)", addr, grpcstatus.Convert(err).Message())
	case code == codes.Unavailable && (strings.Contains(err.Error(), context.DeadlineExceeded.Error()) || strings.Contains(err.Error(), net.ErrClosed.Error())):
		return fmt.Errorf("the node at %s takes connections and does not answer: its process is frozen or paused, or has no free processor (%s)",
			addr, grpcstatus.Convert(err).Message())
	case code == codes.Unavailable:
		return fmt.Errorf("no node that takes this call answers at %s: nodes with certificates want one of the same authority, in --peer-tls-cert, -key and -ca (%s)",
			addr, grpcstatus.Convert(err).Message())
	}
	return errors.New(grpcstatus.Convert(err).Message())
}

// Sessions serves askSessions.
func (s peerServer) Sessions(ctx context.Context, req *peer.SessionsRequest) (*peer.SessionsReply, error) {
	g := s.gateway
	if g == nil {
		return nil, grpcstatus.Error(codes.FailedPrecondition, "this node has no sessions: it is no gateway")
	}
	var asked int
	switch {
	case req.Move > 0:
		if !s.moving.TryLock() {
			return nil, grpcstatus.Error(codes.Aborted, "sessions of this gateway are being moved already: try again when that is done")
		}
		defer s.moving.Unlock()
		asked = g.Move(ctx, int(req.Move))
	case req.KickSession != "":
		asked = g.KickSession(req.KickSession)
	case req.KickClient != "":
		asked = g.KickClient(req.KickClient)
	}
	if asked > 0 {
		s.log.Info("sessions were sent away by an operator", "count", asked, "moved", req.Move > 0, "session", req.KickSession, "client", req.KickClient)
	}
	reply := &peer.SessionsReply{Asked: uint32(asked)}
	for _, one := range g.Slow(int(min(req.Slow, slowMost))) {
		reply.Slow = append(reply.Slow, &peer.Session{
			Id: one.ID, Client: one.Client, Subscriptions: uint32(one.Subscriptions), WaitingBytes: uint64(one.Waiting), Behind: uint64(one.Behind),
		})
	}
	stats := g.Stats()
	reply.Open, reply.Full = uint32(stats.Sessions), uint32(stats.Full)
	return reply, nil
}

// slowMost bounds the sessions in one reply, which has 1 MiB at most.
const slowMost = 1000

const (
	// censusAge is how old the counts in /v1/cluster may be, so that whoever
	// asks a node often does not have it ask all others as often.
	censusAge = time.Second
	// censusMost is how long /v1/cluster waits for the other gateways.
	censusMost = 300 * time.Millisecond
)

// census knows how many sessions the other gateways have.
type census struct {
	self string
	tls  *tls.Config

	mu     sync.Mutex
	at     time.Time
	counts map[string]*int
}

// count returns the number of sessions of each member that is a gateway and
// answers.
func (c *census) count(ctx context.Context, members []cluster.Member) map[string]*int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < censusAge {
		return c.counts
	}
	// Who asked may go; the answer is for whoever asks next, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), censusMost)
	defer cancel()
	var (
		asking  sync.WaitGroup
		answers = make([]*int, len(members))
	)
	for i, m := range members {
		if !m.Gateway || m.ID == c.self {
			continue
		}
		asking.Go(func() {
			if reply, err := askSessions(ctx, c.tls, m.PeerAddr, &peer.SessionsRequest{}); err == nil {
				answers[i] = new(int(reply.Open))
			}
		})
	}
	asking.Wait()
	c.at, c.counts = time.Now(), make(map[string]*int)
	for i, m := range members {
		c.counts[m.ID] = answers[i]
	}
	return c.counts
}
