package progress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// server is a member that runs projections.
type server struct {
	transport.UnimplementedPeer
	*Publisher
	*transport.Server
	addr string
}

func (s server) Progress(to transport.Sender[peer.ProgressBatch]) error {
	return s.Publisher.Progress(to)
}

func serve(t *testing.T, p *Publisher, addr string) server {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := server{Publisher: p, Server: transport.NewServer(transport.ServerConfig{}), addr: l.Addr().String()}
	transport.Register(s.Server, s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s
}

// received has the newest position of each segment that a subscriber announced.
type received struct {
	mu      sync.Mutex
	newest  map[Segment]eventstore.Position
	changed chan struct{} // capacity 1
}

func (r *received) announce(s Segment, p eventstore.Position) {
	r.mu.Lock()
	r.newest[s] = p
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// wait waits until a segment is at a position.
func (r *received) wait(t *testing.T, s Segment, want eventstore.Position) {
	t.Helper()
	for {
		r.mu.Lock()
		got := r.newest[s]
		r.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-r.changed:
		case <-t.Context().Done():
			t.Fatalf("%v is at %d, want %d", s, got, want)
		}
	}
}

// subscribe runs a subscriber of members until the test ends, and returns the
// channel of its views.
func subscribe(t *testing.T, addrs ...string) (*received, chan *cluster.View) {
	t.Helper()
	views := make(chan *cluster.View, 1)
	views <- viewOf(addrs...)
	r := &received{newest: map[Segment]eventstore.Position{}, changed: make(chan struct{}, 1)}
	pool := transport.NewPool(transport.PoolConfig{})
	s, err := NewSubscriber(SubscriberConfig{
		Self: "gateway", Open: pool.Progress, Announce: r.announce, Logger: slog.New(slog.DiscardHandler),
		Watch: func(ctx context.Context) <-chan *cluster.View {
			context.AfterFunc(ctx, func() { close(views) })
			return views
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; pool.Close() })
	return r, views
}

func viewOf(addrs ...string) *cluster.View {
	v := &cluster.View{Members: []cluster.Member{{ID: "gateway", Projections: "any", PeerAddr: "127.0.0.1:1"}, {ID: "old", PeerAddr: "127.0.0.1:1"}}}
	for _, addr := range addrs {
		v.Members = append(v.Members, cluster.Member{ID: addr, Projections: cluster.AnyProjection, PeerAddr: addr})
	}
	return v
}

func TestSubscriberGetsPositionsOfAllMembers(t *testing.T) {
	a, b := serve(t, NewPublisher(), "127.0.0.1:0"), serve(t, NewPublisher(), "127.0.0.1:0")
	first, second := Segment{"listings", 1, 0}, Segment{"listings", 1, 1}
	a.Publish(first, 5) // before the stream opens
	got, views := subscribe(t, a.addr)
	got.wait(t, first, 5)
	views <- viewOf(a.addr, b.addr)
	b.Publish(second, 7)
	got.wait(t, second, 7)
	a.Publish(first, 6)
	got.wait(t, first, 6)
}

func TestStreamIsOpenedAgain(t *testing.T) {
	p := NewPublisher()
	one := Segment{"listings", 1, 0}
	port, err := ports.Reserve(1) // keeps it while no server listens
	if err != nil {
		t.Fatal(err)
	}
	first := serve(t, p, fmt.Sprint("127.0.0.1:", port))
	got, _ := subscribe(t, first.addr)
	p.Publish(one, 1)
	got.wait(t, one, 1)
	first.Stop()
	p.Publish(one, 2)
	serve(t, p, first.addr)
	got.wait(t, one, 2)
}

func TestSlowStreamSkipsReplacedPositions(t *testing.T) {
	p := NewPublisher()
	a, b := Segment{"listings", 1, 0}, Segment{"listings", 1, 1}
	p.Publish(a, 1)
	_, sent, _, _ := p.after(0)
	for i := range eventstore.Position(1000) {
		p.Publish(b, i)
		p.Publish(a, i)
	}
	moved, newest, _, _ := p.after(sent)
	if len(moved) != 2 || moved[0].Position != 999 || moved[0].Number != 1 || moved[1].Number != 0 {
		t.Errorf("a stream that missed 2000 changes gets %v", moved)
	}
	if moved, _, _, _ := p.after(newest); len(moved) != 0 {
		t.Errorf("without a change a stream gets %v", moved)
	}
}

func TestPublisherKeepsNewestSegments(t *testing.T) {
	p := NewPublisher()
	for i := range maxSegments + 2 {
		p.Publish(Segment{"listings", int64(i), 0}, 1)
		p.Publish(Segment{"listings", 0, 0}, 1)
	}
	moved, _, _, _ := p.after(0)
	if len(moved) != maxSegments {
		t.Fatalf("%d segments are kept", len(moved))
	}
	kept := map[int64]bool{}
	for _, s := range moved {
		kept[s.Build] = true
	}
	if !kept[0] || kept[1] || kept[2] || !kept[maxSegments+1] {
		t.Error("the segments that moved last are not the ones that are kept")
	}
}

func TestCloseEndsStreams(t *testing.T) {
	p := NewPublisher()
	s := serve(t, p, "127.0.0.1:0")
	pool := transport.NewPool(transport.PoolConfig{})
	defer pool.Close()
	stream, err := pool.Progress(t.Context(), s.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.Publish(Segment{"listings", 1, 0}, 1)
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	p.Close()
	for err == nil {
		_, err = stream.Recv()
	}
	s.GracefulStop() // returns, since the stream has ended
}
