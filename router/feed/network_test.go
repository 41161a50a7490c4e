package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// feedServer is the Feed half of a peer.
type feedServer interface {
	Feed(member string, to transport.Sender[peer.FeedBatch]) error
}

type peerServer struct {
	transport.UnimplementedPeer
	feedServer
}

func (s peerServer) Feed(member string, to transport.Sender[peer.FeedBatch]) error {
	return s.feedServer.Feed(member, to)
}

// network connects the nodes of a test, in memory (for synctest bubbles) or over
// loopback.
type network struct {
	t        testing.TB
	loopback bool
	pool     *transport.Pool

	mu      sync.Mutex
	servers map[string]*transport.Server
	nodes   map[string]*memoryNode
	cuts    map[string][]context.CancelCauseFunc // of streams over loopback
}

func newNetwork(t testing.TB, loopback bool) *network {
	n := &network{t: t, loopback: loopback, servers: map[string]*transport.Server{}, nodes: map[string]*memoryNode{}, cuts: map[string][]context.CancelCauseFunc{}}
	if loopback {
		n.pool = transport.NewPool(transport.PoolConfig{})
	}
	t.Cleanup(n.close)
	return n
}

// serve starts a peer's server and returns its address.
func (n *network) serve(f feedServer) (addr string) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.loopback {
		addr = fmt.Sprintf("node-%d", len(n.nodes))
		node := &memoryNode{feed: f}
		node.ctx, node.kill = context.WithCancel(context.Background())
		n.nodes[addr] = node
		return addr
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	srv := transport.NewServer(transport.ServerConfig{})
	transport.Register(srv, peerServer{feedServer: f})
	n.servers[l.Addr().String()] = srv
	go func() { _ = srv.Serve(l) }() // Stop ends it and waits for it
	return l.Addr().String()
}

// stop kills a peer's server, which ends its streams immediately.
func (n *network) stop(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node := n.nodes[addr]; node != nil {
		node.kill()
		return
	}
	n.servers[addr].Stop()
}

// finish ends a peer's server once its streams have ended.
func (n *network) finish(addr string) {
	n.mu.Lock()
	node, srv := n.nodes[addr], n.servers[addr]
	n.mu.Unlock()
	if node != nil {
		node.streams.Wait()
		node.kill()
		return
	}
	srv.GracefulStop()
}

func (n *network) open(ctx context.Context, addr, member string) (transport.Receiver[peer.FeedBatch], error) {
	n.mu.Lock()
	node := n.nodes[addr]
	n.mu.Unlock()
	if node != nil {
		return node.open(ctx, member)
	}
	if !n.loopback {
		return nil, errors.New("no node has this address")
	}
	ctx, cut := context.WithCancelCause(ctx)
	context.AfterFunc(ctx, func() { cut(nil) })
	n.mu.Lock()
	n.cuts[addr] = append(n.cuts[addr], cut)
	n.mu.Unlock()
	return n.pool.Feed(ctx, addr, member)
}

// drop breaks the streams of an address.
func (n *network) drop(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if node := n.nodes[addr]; node != nil {
		node.drop()
	}
	for _, cut := range n.cuts[addr] {
		cut(errDropped)
	}
	n.cuts[addr] = nil
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pool != nil {
		n.pool.Close()
	}
	for _, s := range n.servers {
		s.Stop()
	}
	for _, node := range n.nodes {
		node.kill()
		node.streams.Wait()
	}
}

// memoryNode serves feeds in memory.
type memoryNode struct {
	feed    feedServer
	ctx     context.Context
	kill    context.CancelFunc
	streams sync.WaitGroup

	mu   sync.Mutex
	cuts []context.CancelCauseFunc
}

var errDropped = errors.New("the connection broke")

func (n *memoryNode) drop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, cut := range n.cuts {
		cut(errDropped)
	}
	n.cuts = nil
}

func (n *memoryNode) open(ctx context.Context, member string) (transport.Receiver[peer.FeedBatch], error) {
	if n.ctx.Err() != nil {
		return nil, errors.New("connection refused")
	}
	ctx, cut := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.ctx, func() { cut(errDropped) })
	n.mu.Lock()
	n.cuts = append(n.cuts, cut)
	n.mu.Unlock()
	// One batch is in transit, as much as a small window of TCP holds.
	s := &memoryStream{ctx: ctx, batches: make(chan []byte, 1), ended: make(chan struct{})}
	n.streams.Go(func() {
		defer stop()
		defer cut(nil)
		s.err = n.feed.Feed(member, s)
		close(s.ended)
	})
	return s, nil
}

// memoryStream is both ends of a stream in memory.
type memoryStream struct {
	ctx     context.Context
	batches chan []byte
	ended   chan struct{} // after err
	err     error
}

func (s *memoryStream) Context() context.Context { return s.ctx }

func (s *memoryStream) Send(m *peer.FeedBatch) error {
	wire, err := m.MarshalVT()
	if err != nil {
		return err
	}
	select {
	case s.batches <- wire:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *memoryStream) Recv() (*peer.FeedBatch, error) {
	var wire []byte
	select {
	case wire = <-s.batches:
	case <-s.ended:
		select {
		case wire = <-s.batches:
		default:
			if s.err == nil {
				return nil, io.EOF
			}
			return nil, s.err
		}
	}
	m := new(peer.FeedBatch)
	return m, m.UnmarshalVT(wire)
}

// domain returns a ready domain member.
func domain(id, addr string) cluster.Member {
	return cluster.Member{ID: id, Boot: 1, Domain: true, State: cluster.Ready, PeerAddr: addr}
}
