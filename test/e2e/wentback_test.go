package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestImmediatelyAcceptedLossClosesEverySession restores an older copy of the log
// and accepts the loss before any node has noticed it. The new history then grows
// longer than the lost one. Sessions that had events of the lost history must not
// receive events of the new one.
func TestImmediatelyAcceptedLossClosesEverySession(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := startTrio(t, server.URL("postgres"))
	rounds := 1
	if long {
		rounds = 20
	}
	for round := range rounds {
		loseAndAccept(t, c, server, fmt.Sprint("counter/r", round))
	}
}

func loseAndAccept(t *testing.T, c *cluster, server *postgrestest.Server, stream string) {
	t.Helper()
	ctx := t.Context()
	do := func(steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	client := &harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer client.Leave()
	add := func(history string, n int) (last harness.Frame) {
		t.Helper()
		for i := range n {
			f, err := client.Do(ctx, stream, "add", fmt.Sprint(history, i), map[string]int{"by": 1})
			if err != nil {
				t.Fatal(err)
			}
			last = f
		}
		return last
	}
	add("kept", 10)
	backup := filepath.Join(t.TempDir(), "backup")
	do(server.Stop, func() error { return server.Copy(backup) }, func() error { return server.Start(ctx) })
	lost := add("lost", 10)

	type watcher struct {
		*harness.Session
		after []harness.Frame // events after the lost history; owned by the reader until the session ends
	}
	watchers := make([]*watcher, len(c.members))
	for i, url := range c.wsURLs() {
		harness.Eventually(t, "a session on "+url, func() error {
			s, err := harness.Dial(ctx, url, "eve", nil)
			if err == nil {
				watchers[i] = &watcher{Session: s}
			}
			return err
		})
		w := watchers[i]
		defer w.Close()
		seen := make(chan struct{})
		if _, err := w.Subscribe(ctx, "s", map[string]any{"stream": stream, "after": 0}, func(f harness.Frame) {
			switch {
			case f.Op != "event":
			case f.Cause == lost.Key && f.Position == lost.Position:
				close(seen)
			case f.Position >= lost.Position || strings.HasPrefix(f.Cause, "new"):
				w.after = append(w.after, f)
			}
		}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-seen:
		case <-w.Done():
			t.Fatalf("the session on %s ended: %v", url, w.Err())
		}
	}

	do(server.Stop, func() error { return server.Replace(backup) }, func() error { return server.Start(ctx) })
	operator, err := postgres.Open(ctx, postgres.Config{URL: c.store})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operator.AcceptLoss(ctx); err != nil {
		t.Fatal(err)
	}
	if err := operator.Close(); err != nil {
		t.Fatal(err)
	}
	if f := add("new", 30); f.Position <= lost.Position {
		t.Fatalf("the new history ends at %d, the lost one at %d", f.Position, lost.Position)
	}
	for i, w := range watchers {
		select {
		case <-w.Done():
		case <-time.After(time.Minute):
			t.Fatalf("%s: the session on node %d is still open on the lost history", stream, i+1)
		}
		if code := websocket.CloseStatus(w.Err()); code != 4200 {
			t.Errorf("%s: the session on node %d ended with %v, want 4200", stream, i+1, w.Err())
		}
		if len(w.after) > 0 {
			t.Errorf("%s: the session on node %d got events of the new history: %+v", stream, i+1, w.after)
		}
	}
}

// TestLogThatWentBackIsNotServed replaces the log with an older copy under running
// gateways. They log it and close their sessions. They serve nothing until an
// operator has accepted the loss; then clients with newer cursors get an error.
func TestLogThatWentBackIsNotServed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	// The URL has a fixed TCP port, on which nodes find the restarted server.
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

	// A follower that has received all twenty events.
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
		harness.Eventually(t, fmt.Sprintf("node %d notices that the log went back", i+1), func() error {
			resp, err := harness.HTTP.Get(n.URLs[0] + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != 503 {
				return fmt.Errorf("readyz returns %s", resp.Status)
			}
			if !strings.Contains(n.Output(), "the log went back") {
				return fmt.Errorf("its log has no message")
			}
			return nil
		})
		lines := regexp.MustCompile(`(?m)^.*level=ERROR.*went back.*$`).FindAllString(n.Output(), -1)
		if len(lines) != 1 || !regexp.MustCompile(`the log went back.* seen=20 seen_at=\S+ head=10 head_at=\S+ lost=10$`).MatchString(lines[0]) {
			t.Errorf("node %d does not log the loss in one line: %q", i+1, lines)
		}
	}

	_, errs, code := call(t, "log", "accept-loss", "--store", store)
	if code != 2 || !strings.Contains(errs, "ends at position 10") || !strings.Contains(errs, "cursor_ahead") || !strings.Contains(errs, "--yes") {
		t.Errorf("accept-loss without --yes: exit %d, %s", code, errs)
	}
	out, errs, code := call(t, "log", "accept-loss", "--yes", "--store", store)
	if code != 0 || !strings.Contains(out, "ends at position 10") {
		t.Fatalf("accept-loss: exit %d, %s%s", code, out, errs)
	}
	for _, url := range c.urls() {
		harness.Eventually(t, url+" serves the accepted log", func() error {
			resp, err := harness.HTTP.Get(url + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != 200 {
				return fmt.Errorf("readyz returns %s", resp.Status)
			}
			return nil
		})
	}

	// The follower reconnects with a cursor and a log id that no longer exist.
	err = <-ended
	refused, ok := err.(*harness.ErrRefused)
	if !ok || refused.Frame.Code != "cursor_ahead" {
		t.Errorf("the follower ended with %v, want cursor_ahead", err)
	}
	// Lost commands can be sent again.
	if f := add(10, 20); f.Version != 20 || f.Replayed {
		t.Errorf("sent again: version %d, replayed %v", f.Version, f.Replayed)
	}
	// A client without an old cursor reads all of the new log.
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
