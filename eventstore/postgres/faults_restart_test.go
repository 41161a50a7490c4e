package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func TestStoppedServerIsUnavailable(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	u, err := url.Parse(server.URLAt(server.Addr(), "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "s3cret")
	s := open(t, postgres.Config{URL: u.String(), Deadline: time.Second})
	defer s.Close()
	appendFirst(t, s, unit("a", 0, "before"))
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	unavailable := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
			t.Errorf("%s: got %v, want unavailable", what, err)
		} else if text := err.Error(); strings.Contains(text, "s3cret") || strings.Contains(text, "postgres://") || strings.Contains(text, "\n") {
			t.Errorf("%s: the error reveals too much: %s", what, text)
		}
	}
	_, err = s.Append(t.Context(), unit("a", 1, "meanwhile"))
	unavailable("append", err)
	_, err = s.Read(t.Context(), 0, 1)
	unavailable("read", err)
	unavailable("check", s.Check(t.Context()))
	_, err = postgres.Open(t.Context(), postgres.Config{URL: u.String()})
	unavailable("open", err)
	u.Host = "no-such-host.invalid"
	_, err = postgres.Open(t.Context(), postgres.Config{URL: u.String()})
	unavailable("open at an unknown host", err)
}

func TestOpenWaitsForStartingServer(t *testing.T) {
	t.Parallel()
	// While the file "held" exists, the server waits for its archive and reports
	// that it is starting.
	server := startServer(t, postgrestest.Options{Settings: map[string]string{
		"restore_command": "while [ -e ../held ]; do sleep 0.05; done; false", "recovery_target_action": "promote",
	}})
	held, data := filepath.Join(server.Dir(), "held"), filepath.Join(server.Dir(), "data")
	if err := errors.Join(server.Stop(), os.WriteFile(held, nil, 0o600), os.WriteFile(filepath.Join(data, "recovery.signal"), nil, 0o600),
		server.Own(data)); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- server.Start(t.Context()) }()

	waiting, lines := make(chan struct{}), &strings.Builder{}
	log := slog.New(signalled{slog.NewTextHandler(lines, nil), "waiting for the database to start", waiting})
	url := server.URL("postgres")
	opened := make(chan error, 1)
	go func() {
		for {
			s, err := postgres.Open(t.Context(), postgres.Config{URL: url, Logger: log})
			if err == nil {
				s.Close()
			} else if !strings.Contains(err.Error(), "SQLSTATE") && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond) // the server does not listen yet: Open does not wait for that, and nothing signals it
				continue
			}
			opened <- err
			return
		}
	}()
	select {
	case <-waiting:
	case err := <-opened:
		t.Fatalf("Open did not wait: %v", err)
	}
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(lines.String(), "waiting for the database"); n != 1 || !strings.Contains(lines.String(), "57P03") {
		t.Errorf("it was logged %d times:\n%s", n, lines)
	}
}

// signalled closes a channel at the first line with a message.
type signalled struct {
	slog.Handler
	message string
	seen    chan struct{}
}

func (h signalled) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.message {
		close(h.seen)
	}
	return h.Handler.Handle(ctx, r)
}

func TestOlderCopyIsDetectedAfterRestart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p := newProxy(t, server.Addr()) // keeps its address when the server restarts
	s := open(t, postgres.Config{URL: server.URLAt(p.addr, "postgres")})
	defer s.Close()
	restart := func(while func() error) {
		t.Helper()
		if err := errors.Join(server.Stop(), while(), server.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		p.target = server.Addr()
		p.mu.Unlock()
	}
	place := func(u eventstore.Unit) error {
		_, err := s.Append(ctx, u)
		return err
	}
	if err := place(unit("a", 0, "old")); err != nil {
		t.Fatal(err)
	}
	older := t.TempDir()
	restart(func() error { return server.Copy(older) })
	if err := place(unit("a", 1, "newer")); err != nil {
		t.Fatalf("after an ordinary restart: %v", err)
	}
	restart(func() error { return server.Replace(older) })
	if err := place(unit("b", 0, "after")); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("append: %v, want a log that went back", err)
	}
	if _, err := s.Read(ctx, 0, 10); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("read: %v, want a log that went back", err)
	}
	operator := open(t, postgres.Config{URL: server.URL("postgres")})
	defer operator.Close()
	id, err := operator.AcceptLoss(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(ctx); err != nil || s.LogID() != id {
		t.Errorf("resume: %v, and the log is %s, want %s", err, s.LogID(), id)
	}
	if err := place(unit("b", 0, "after")); err != nil {
		t.Errorf("append after the loss was accepted: %v", err)
	}
	if got := logKeys(t, s); got != "old after" {
		t.Errorf("the log holds %q", got)
	}
}

func TestCrashedServerKeepsAcknowledgedCommits(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := open(t, postgres.Config{URL: server.URL("postgres")})
	for i := range 10 {
		if _, err := s.Append(ctx, unit("a", eventstore.Version(i), string(rune('a'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(server.Crash(), server.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	s = open(t, postgres.Config{URL: server.URL("postgres")})
	defer s.Close()
	if got := logKeys(t, s); got != "a b c d e f g h i j" {
		t.Errorf("after a crash the log holds %q", got)
	}
}
