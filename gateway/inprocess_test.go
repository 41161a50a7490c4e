package gateway_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
)

// refuseAll is an Authenticator that knows no client.
type refuseAll struct{}

func (refuseAll) Token(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("no token is valid")
}

func (refuseAll) Trust(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("no client is trusted")
}

// TestHandlerInProcessNeedsNoToken runs a handler of client/go over a server that only
// the own process reaches: it handles, fails, parks, and loses its segment.
func TestHandlerInProcessNeedsNoToken(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newMailer(2)
	n := w.node(consuming(g), func(c *gateway.Config) { c.Auth = refuseAll{} })
	srv := httptest.NewUnstartedServer(n.Handler())
	srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return gateway.InProcess(ctx, gateway.Identity{})
	}
	srv.Start()
	t.Cleanup(srv.Close)
	connect := func(url string) *ganglion.Client {
		c, err := ganglion.Connect(t.Context(), ganglion.Options{URLs: []string{url}, OnError: func(*ganglion.Error) {}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	ctx, stop := context.WithCancel(t.Context())
	events, ended := make(chan ganglion.GroupEvent), make(chan error, 1)
	outcomes := make(chan error)
	go func() {
		ended <- connect(srv.URL).Handle(ctx, "mailer", func(ctx context.Context, e ganglion.GroupEvent) error {
			events <- e
			select {
			case err := <-outcomes:
				return err
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}, ganglion.WithMember("n1"), ganglion.WithConcurrency(1))
	}()
	waitFor(t, func() bool { return len(g.present()) == 1 })
	g.give("n1", "0", "1")

	w.append(eventstore.StreamID{Type: "counter", ID: "a"}, eventstore.Event{Type: "added", Data: []byte(`{}`), Form: 1})
	if e := <-events; e.Stream != "counter/a" || e.Version != 1 || e.Attempt != 1 {
		t.Errorf("got %+v", e)
	}
	outcomes <- nil
	segment := "0"
	waitFor(t, func() bool {
		if g.at("1") > 0 {
			segment = "1"
		}
		return g.at(segment) == 1
	})
	w.append(eventstore.StreamID{Type: "counter", ID: "a"}, eventstore.Event{Type: "added", Data: []byte(`{}`), Form: 1})
	<-events
	outcomes <- ganglion.Park("no such mailbox")
	waitFor(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.parked["counter/a"] == 2
	})

	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Handle returned %v", err)
	}
	waitFor(t, func() bool { return len(g.present()) == 0 })

	// The same gateway needs a token everywhere else.
	err := connect(n.url).Handle(t.Context(), "mailer", nil)
	var refused *ganglion.Error
	if !errors.As(err, &refused) || refused.Code != ganglion.CodeUnauthenticated && !strings.Contains(refused.Message, "may not consume") {
		t.Errorf("a client from outside got %v", err)
	}
}
