package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestLogWentBack sets the log back to an older copy under running gateways.
// They notice, say so and send their sessions away; nothing is served until an
// operator has accepted the loss, and then clients that knew more are told.
func TestLogWentBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	// TCP on a fixed port, so that nodes find the server after its restart.
	store := server.URL("postgres")
	c := startTrio(t, store)

	client := &harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer client.Leave()
	add := func(from, to int) (last harness.Frame) {
		t.Helper()
		for i := from; i < to; i++ {
			f, err := client.Do(ctx, "counter/a", "add", fmt.Sprint("k", i), map[string]int{"by": 1})
			if err != nil {
				t.Fatal(err)
			}
			last = f
		}
		return last
	}

	add(0, 10)
	backup := filepath.Join(t.TempDir(), "backup")
	for _, step := range []func() error{server.Stop, func() error { return server.Copy(backup) }, func() error { return server.Start(ctx) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	lost := add(10, 20)

	// A follower that has seen all twenty.
	seen := make(chan struct{})
	follower := &harness.Follower{ID: "bob", URLs: c.wsURLs(), Target: map[string]any{"stream": "counter/a"}}
	follower.Each = func(f harness.Frame) {
		if f.Position == lost.Position {
			close(seen)
		}
	}
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	ended := make(chan error, 1)
	go func() { ended <- follower.Follow(following, nil) }()
	select {
	case <-seen:
	case err := <-ended:
		t.Fatalf("the follower ended: %v", err)
	}
	watching, err := harness.Dial(ctx, c.wsURLs()[0], "eve", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer watching.Close()

	for _, step := range []func() error{server.Stop, func() error { return server.Replace(backup) }, func() error { return server.Start(ctx) }} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}

	if code := websocket.CloseStatus(watching.Err()); code != 4200 {
		t.Errorf("the session was closed with %d, want 4200", code)
	}
	for i, n := range c.members {
		harness.Eventually(t, fmt.Sprintf("node %d serves a log that went back", i+1), func() error {
			resp, err := harness.HTTP.Get(n.URLs[0] + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != 503 {
				return fmt.Errorf("readyz answers %s", resp.Status)
			}
			if !strings.Contains(n.Output(), "the log went back") {
				return fmt.Errorf("its log does not say so")
			}
			return nil
		})
	}

	out, errs, code := call(t, "log", "accept-loss", "--store", store)
	if code != 0 || !strings.Contains(out, "ends at position 10") {
		t.Fatalf("accept-loss: exit %d, %s%s", code, out, errs)
	}
	for _, url := range c.urls() {
		harness.Eventually(t, url+" does not serve the accepted log", func() error {
			resp, err := harness.HTTP.Get(url + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				return fmt.Errorf("readyz answers %s", resp.Status)
			}
			return nil
		})
	}

	// The follower comes back with a cursor and a log id that are no more.
	err = <-ended
	refused, ok := err.(*harness.ErrRefused)
	if !ok || refused.Frame.Code != "cursor_ahead" {
		t.Errorf("the follower ended with %v, want cursor_ahead", err)
	}
	// The log goes on where it is: what was lost can be sent again.
	if f := add(10, 20); f.Version != 20 || f.Replayed {
		t.Errorf("sent again: version %d, replayed %v", f.Version, f.Replayed)
	}
	// A client that never knew the old log reads all of the new one.
	var got int
	done := make(chan struct{})
	fresh := &harness.Follower{ID: "bob", URLs: c.wsURLs(), Target: map[string]any{"stream": "counter/a"}, Each: func(harness.Frame) {
		if got++; got == 20 {
			close(done)
		}
	}}
	go func() { ended <- fresh.Follow(following, nil) }()
	select {
	case <-done:
	case err := <-ended:
		t.Fatalf("the fresh follower ended: %v", err)
	}
	unfollow()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
