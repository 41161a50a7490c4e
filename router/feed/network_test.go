package feed

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// feedServer is the Feed half of a peer.
type feedServer interface {
	Feed(*peer.FeedRequest, grpc.ServerStreamingServer[peer.FeedBatch]) error
}

type peerServer struct {
	peer.UnimplementedPeerServer
	feedServer
}

func (s peerServer) Feed(r *peer.FeedRequest, stream grpc.ServerStreamingServer[peer.FeedBatch]) error {
	return s.feedServer.Feed(r, stream)
}

// network connects the nodes of a test, in memory (for synctest bubbles) or over
// loopback.
type network struct {
	t        testing.TB
	loopback bool

	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
	servers   map[string]*grpc.Server
	conns     map[string]*grpc.ClientConn
}

func newNetwork(t testing.TB, loopback bool) *network {
	n := &network{
		t: t, loopback: loopback,
		listeners: make(map[string]*bufconn.Listener),
		servers:   make(map[string]*grpc.Server),
		conns:     make(map[string]*grpc.ClientConn),
	}
	t.Cleanup(n.close)
	return n
}

// serve starts a peer's server and returns its address.
func (n *network) serve(f feedServer) (addr string) {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	var l net.Listener
	if n.loopback {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			n.t.Fatal(err)
		}
		addr = l.Addr().String()
	} else {
		addr = fmt.Sprintf("node-%d", len(n.listeners))
		b := bufconn.Listen(256 << 10)
		n.listeners[addr] = b
		l = b
	}
	srv := grpc.NewServer()
	peer.RegisterPeerServer(srv, peerServer{feedServer: f})
	n.servers[addr] = srv
	go func() { _ = srv.Serve(l) }() // Stop ends it and waits for it
	return addr
}

// stop kills a peer's server, which ends its streams immediately.
func (n *network) stop(addr string) {
	n.mu.Lock()
	srv := n.servers[addr]
	n.mu.Unlock()
	srv.Stop()
}

// finish ends a peer's server once its streams have ended.
func (n *network) finish(addr string) {
	n.mu.Lock()
	srv := n.servers[addr]
	n.mu.Unlock()
	srv.GracefulStop()
}

func (n *network) conn(addr string) (conn *grpc.ClientConn, release func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	release = func() {} // connections live as long as the network
	if c := n.conns[addr]; c != nil {
		return c, release, nil
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64 << 10),
	}
	if l := n.listeners[addr]; l != nil {
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return l.DialContext(ctx)
		}))
	}
	c, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err == nil {
		n.conns[addr] = c
	}
	return c, release, err
}

// drop closes the connection to an address while it is in use.
func (n *network) drop(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.conns[addr]; c != nil {
		_ = c.Close()
		delete(n.conns, addr)
	}
}

func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	for _, s := range n.servers {
		s.Stop()
	}
}

// domain returns a ready domain member.
func domain(id, addr string) cluster.Member {
	return cluster.Member{ID: id, Boot: 1, Domain: true, State: cluster.Ready, PeerAddr: addr}
}
