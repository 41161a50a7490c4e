package node

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// oldPeer is a node of a version without calls for the console; a frozenPeer does not
// answer.
type oldPeer struct{ transport.UnimplementedPeer }

type frozenPeer struct {
	transport.UnimplementedPeer
	asked chan struct{}
}

func (p frozenPeer) FindSessions(ctx context.Context, _ *peer.FindSessionsRequest) (*peer.FindSessionsReply, error) {
	close(p.asked)
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestMembersWithoutSessionsSayWhy(t *testing.T) {
	t.Parallel()
	n := &node{cfg: Config{Name: "n1"}, pool: transport.NewPool(transport.PoolConfig{})}
	defer n.pool.Close()
	frozen := frozenPeer{asked: make(chan struct{})}
	for want, p := range map[string]transport.Peer{"it is too old for this: upgrade it": oldPeer{}, "no answer in time": frozen} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := transport.NewServer(transport.ServerConfig{})
		transport.Register(server, p)
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(l) })
		ctx, cancel := context.WithCancel(t.Context())
		if want == "no answer in time" {
			go func() { <-frozen.asked; cancel() }()
		}
		if _, err := n.findSessions(ctx, console.Member{ID: "n2", Peer: l.Addr().String()}, "", 1); err == nil || err.Error() != want {
			t.Errorf("the error is %v, want %q", err, want)
		}
		cancel()
		server.Stop()
		serving.Wait()
	}
	if _, err := n.findSessions(t.Context(), console.Member{ID: "n1"}, "", 1); err == nil || !strings.Contains(err.Error(), "it is not a gateway") {
		t.Errorf("the error of a node without sessions is %v", err)
	}
}
