package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/proto/peer"
	gossip "github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/transport"
	"github.com/ganglion-es/ganglion/test/harness"
)

// readyz waits until /readyz of a node has the given status and text.
func readyz(t *testing.T, url string, status int, text string) {
	t.Helper()
	harness.Eventually(t, url+"/readyz", func() error {
		resp, err := harness.HTTP.Get(url + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if resp.StatusCode != status || !strings.Contains(string(body), text) {
			return fmt.Errorf("got %s: %s, want %d and %q", resp.Status, body, status, text)
		}
		return nil
	})
}

// closedWith waits until a session is closed with a code.
func closedWith(t *testing.T, s *harness.Session, code websocket.StatusCode) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatalf("the session is still open, want it closed with %d", code)
	}
	if got := websocket.CloseStatus(s.Err()); got != code {
		t.Errorf("the session was closed with %v, want %d", s.Err(), code)
	}
}

// TestGatewayWithoutLogAndOwnersClosesSessions stops the database of a gateway,
// and then the domain node.
func TestGatewayWithoutLogAndOwnersClosesSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := startCluster(t, server.URL("postgres"), []string{"domain", "gateway"})
	domain, gateway := c.members[0], c.members[1].URLs[0]
	s, err := harness.Dial(ctx, harness.WS(gateway), "ada", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	domain.Signal(syscall.SIGSTOP)
	closedWith(t, s, 4200)
	readyz(t, gateway, 503, "the log has not answered")

	domain.Signal(syscall.SIGCONT)
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	readyz(t, gateway, 200, "ready")
}

// feeder is a domain node that executes no commands and publishes the events of
// a test.
type feeder struct {
	transport.UnimplementedPeer
	*feed.Publisher
}

func (f feeder) Feed(member string, to transport.Sender[peer.FeedBatch]) error {
	return f.Publisher.Feed(member, to)
}

// join adds the feeder to the cluster until the test ends.
func (f feeder) join(t *testing.T, cluster string, seeds []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := transport.NewServer(transport.ServerConfig{})
	transport.Register(server, f)
	c, err := gossip.New(gossip.Config{
		ID: "feeder", Cluster: cluster, BindAddr: "127.0.0.1", Join: seeds,
		Self: gossip.Member{Domain: true, State: gossip.Ready, PeerAddr: l.Addr().String()},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(l) }()
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		server.Stop()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestFeedGapWithoutLogClosesSessions pushes an event to a gateway without the
// one before it, while the database that has both is stopped. The stream itself
// stays healthy.
func TestFeedGapWithoutLogClosesSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := startCluster(t, server.URL("postgres"), []string{"gateway"}, "--cluster", "holes")
	gateway := c.members[0].URLs[0]
	f := feeder{Publisher: feed.NewPublisher(feed.PublisherConfig{})}
	f.join(t, "holes", c.seeds)
	readyz(t, gateway, 200, "ready")
	harness.Eventually(t, "the feed has no subscriber", func() error {
		if n := f.Stats().Subscribers; n != 1 {
			return fmt.Errorf("%d subscribers", n)
		}
		return nil
	})
	s, err := harness.Dial(ctx, harness.WS(gateway), "ada", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := harness.Status(gateway)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	f.Publish(st.Log, []eventstore.Commit{{
		Position: 2, Stream: eventstore.StreamID{Type: "counter", ID: "a"}, Version: 1, Key: "k", At: time.Now(),
		Events: []eventstore.Event{{Type: "added", Form: 1, Data: json.RawMessage(`{"by":1}`)}},
	}})
	closedWith(t, s, 4200)
	readyz(t, gateway, 503, "events arrive late")
}

// TestGatewayWithoutDomainNodesIsNotReady kills the only domain node of a
// cluster. Sessions stay open, since no other gateway could serve them.
func TestGatewayWithoutDomainNodesIsNotReady(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := startCluster(t, database(t), []string{"domain", "gateway", "gateway"})
	gateway := c.members[1].URLs[0]
	s, err := harness.Dial(ctx, harness.WS(gateway), "ada", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c.members[0].Kill()
	for _, m := range c.members[1:] {
		readyz(t, m.URLs[0], 503, "no ready domain node")
	}
	c.start(0)
	for _, m := range c.members[1:] {
		readyz(t, m.URLs[0], 200, "ready")
	}
	if f, err := s.Call(ctx, map[string]any{"op": "ping"}); err != nil || f.Op != "pong" {
		t.Errorf("the session that stayed open replies %+v, %v", f, err)
	}
}

// TestLoneGatewayClosesItsSessions starts a gateway with the name of another
// cluster. It sees no other node, so other gateways may serve its sessions.
func TestLoneGatewayClosesItsSessions(t *testing.T) {
	t.Parallel()
	c := startCluster(t, database(t), []string{"gateway"}, "--cluster", "misspelled")
	gateway := c.members[0].URLs[0]
	// On a slow machine the 5 s may pass before this session opens.
	if s, err := harness.Dial(t.Context(), harness.WS(gateway), "ada", nil); err == nil {
		defer s.Close()
		closedWith(t, s, 4200)
	}
	readyz(t, gateway, 503, "no ready domain node")
	if st, err := harness.Status(gateway); err != nil || !regexp.MustCompile(`in sight for \d+s`).MatchString(st.Problem) {
		t.Errorf("the problem is %q, %v, want the seconds without a domain node", st.Problem, err)
	}
	if s, err := harness.Dial(t.Context(), harness.WS(gateway), "ada", nil); err == nil {
		s.Close()
		t.Error("it still accepts sessions")
	}
}
