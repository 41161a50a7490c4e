package node

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/observe"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// TestStatusKeepsConcurrentChanges drains a node while its problem changes.
func TestStatusKeepsConcurrentChanges(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	for range 20_000 {
		n := &node{log: slog.New(slog.DiscardHandler)}
		n.status.Store(&status{state: cluster.Ready})
		var both sync.WaitGroup
		both.Go(func() { n.setState(cluster.Draining) })
		both.Go(func() { n.updateStatus(func(s *status) { s.wentBack = lost }) })
		both.Wait()
		if s := n.status.Load(); s.state != cluster.Draining || !errors.Is(s.problem(), lost) {
			t.Fatalf("the node is %v, and its problem is %v", s.state, s.problem())
		}
	}
}

// refusing is a store that refuses appends.
type refusing struct{ eventstore.Store }

func (refusing) Append(context.Context, eventstore.Unit) (eventstore.Appended, error) {
	return eventstore.Appended{}, eventstore.ErrUnavailable
}

func TestNodeIsReadyWhileDatabaseRefusesAppends(t *testing.T) {
	t.Parallel()
	n := &node{observer: observe.New("n1", nil)}
	n.status.Store(&status{state: cluster.Ready})
	shown := func(want cluster.Problem, state string) {
		t.Helper()
		if p := n.problem(); p != want || stateOf(cluster.Ready, p) != state {
			t.Errorf("members show %s: %q, want %s: %q", stateOf(cluster.Ready, p), p, state, want)
		}
	}
	shown(cluster.NoProblem, "ready")
	_, _ = observe.Store{Store: refusing{}, Observer: n.observer}.Append(t.Context(), eventstore.Unit{})
	shown(cluster.StoreRefuses, "ready")
	n.status.Store(&status{state: cluster.Ready, wentBack: eventstore.ErrWentBack})
	shown(cluster.LogWentBack, NotReady)
}

// TestNodeWithoutGatewayTellsClientsSo also has pages, which get no request of a client.
func TestNodeWithoutGatewayTellsClientsSo(t *testing.T) {
	t.Parallel()
	url, _ := runNode(t, Config{Domain: true, Handler: http.NotFoundHandler()})
	for _, path := range []string{"/v1/ws", "/v1/aggregates/auction/1", "/v1/docs"} {
		if status, body := getAs(t, url+path, ""); status != http.StatusNotFound || !strings.Contains(body, `"code":"not_found"`) || !strings.Contains(body, "no gateway role") {
			t.Errorf("%s: got %d %.200s", path, status, body)
		}
	}
	if status, body := getAs(t, url+"/v1/cluster", ""); status != http.StatusOK {
		t.Errorf("/v1/cluster: got %d %.200s", status, body)
	}
	if status, body := getAs(t, url+"/page", ""); status != http.StatusNotFound || strings.Contains(body, "gateway") {
		t.Errorf("/page: got %d %.200s", status, body)
	}
}
