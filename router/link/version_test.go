package link

import (
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ganglion-es/ganglion/proto/peer"
)

func TestNewestCommonVersionIsChosen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b Versions
		want int // 0: none
	}{
		{Versions{1, 1}, Versions{1, 1}, 1},
		{Versions{1, 1}, Versions{1, 2}, 1},
		{Versions{1, 2}, Versions{2, 3}, 2},
		{Versions{1, 1}, Versions{2, 3}, 0},
		{Versions{2, 3}, Versions{3, 4}, 3},
		{Versions{1, 3}, Versions{0, 0}, 0},
	} {
		for _, pair := range [][2]Versions{{c.a, c.b}, {c.b, c.a}} {
			got, ok := pair[0].agree(pair[1])
			if ok != (c.want > 0) || ok && got != c.want {
				t.Errorf("%v and %v agree on %d (%v), want %d", pair[0], pair[1], got, ok, c.want)
			}
		}
	}
}

// A server that has dropped version 1 refuses callers that speak only version 1,
// including old programs that send no versions. The error says what to do.
func TestCallerWithoutCommonVersionIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		server Versions
		says   string // the caller's header; empty: none
		ok     bool
	}{
		{Versions{1, 1}, "", true},
		{Versions{1, 1}, "1-1", true},
		{Versions{1, 2}, "1-1", true},
		{Versions{1, 1}, "1-2", true},
		{Versions{2, 3}, "1-2", true},
		{Versions{2, 3}, "1-1", false},
		{Versions{2, 3}, "", false},
		{Versions{1, 1}, "2-3", false},
		{Versions{1, 1}, "nonsense", false},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		g := grpc.NewServer(c.server.server()...)
		s := &server{streams: make(chan peer.Peer_CommandsServer, 1), end: make(chan error, 1)}
		s.end <- nil
		peer.RegisterPeerServer(g, s)
		var running sync.WaitGroup
		running.Go(func() { _ = g.Serve(l) })

		conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		if c.says != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, versionHeader, c.says)
		}
		_, unary := peer.NewPeerClient(conn).Sessions(ctx, &peer.SessionsRequest{})
		stream, err := peer.NewPeerClient(conn).Commands(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		for _, err := range []error{unary, err} {
			refused := status.Code(err) == codes.FailedPrecondition
			if refused == c.ok || refused && !strings.Contains(err.Error(), "upgrade through a release that speaks both") {
				t.Errorf("a server with %v answers a caller with %q: %v", c.server, c.says, err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		running.Wait()
	}
}
