package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
)

// TestFaultCutAtEveryByte breaks the connection after each byte of an append's
// reply and of its request. The store still learns the outcome of the append.
func TestFaultCutAtEveryByte(t *testing.T) {
	t.Parallel()
	p, proxied, direct, list := openBehindProxy(t, postgres.Config{Deadline: 10 * time.Second})
	version := eventstore.Version(0)
	next := func(what string) {
		t.Helper()
		a, err := proxied.Append(t.Context(), unit("a", version, fmt.Sprintf("k%06d", version))) // all of the same length
		version++
		want := eventstore.Place{Version: version, Position: eventstore.Position(version)}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if a.Commands[0] != want {
			t.Fatalf("%s: placed at %v, want %v", what, a.Commands[0], want)
		}
	}
	next("the first")
	next("uncut")
	request, reply := p.lengths()
	if request < 100 || reply < 20 {
		t.Fatalf("an append has %d bytes, and its reply %d", request, reply)
	}
	cutAt := func(r rule, what string, n int) {
		t.Helper()
		hit := p.nextCut(r, n)
		next(fmt.Sprintf("%s, cut after %d bytes", what, n))
		<-hit
	}
	for n := range reply {
		cutAt(cutReply, "the reply", n)
	}
	for n := 0; n < request; n += rounds(23, 1) {
		cutAt(cutRequest, "the request", n)
	}
	if got, want := list.keys(), keysOf(readAll(t, direct)); got != want {
		t.Errorf("announced %q, and the log holds %q", got, want)
	}
	storetest.Clean(t, direct)
	t.Logf("a request of %d bytes and a reply of %d", request, reply)
}

// TestFaultCutSessions breaks every connection after n bytes, for increasing n,
// until a session starts and works.
func TestFaultCutSessions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, proxied, direct, _ := openBehindProxy(t, postgres.Config{Deadline: time.Minute, Patience: 500 * time.Millisecond})
	version, works := eventstore.Version(0), 0
	for n := 0; works < 2; n += rounds(97, 7) {
		p.refuse(true) // ends the open connections
		p.refuse(false)
		p.cutSessions(n)
		works = 0
		u := unit("a", version, fmt.Sprint("k", version))
		_, err := proxied.Append(ctx, u)
		switch {
		case err == nil:
			works++
		case errors.Is(err, eventstore.ErrUnknown), errors.Is(err, eventstore.ErrUnavailable):
		default:
			t.Fatalf("append, sessions cut after %d bytes: %v", n, err)
		}
		if _, rerr := proxied.Head(ctx); rerr == nil {
			works++
		} else {
			wantUnavailable(t, "read", rerr)
		}
		p.cutSessions(-1)
		if err != nil {
			p.refuse(true)
			p.refuse(false)
			worksAgain(t, func() error {
				_, err := proxied.Append(ctx, u)
				return sentAgain(err)
			})
		}
		version++
		if n > 1<<16 {
			t.Fatal("no session worked within 64 KiB")
		}
	}
	if got := len(readAll(t, direct)); got != int(version) {
		t.Errorf("the log holds %d commits, want %d", got, version)
	}
	storetest.Clean(t, direct)
}

// TestFaultSilentHostIsPassedOver names a host that never answers before the one
// that does: the first is like a primary whose machine has failed.
func TestFaultSilentHostIsPassedOver(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	silent, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // never accepts: only the kernel completes connections
	server := startServer(t, postgrestest.Options{})
	s := openTo(t, postgres.Config{
		URL:            "postgres://postgres@" + silent.Addr().String() + "," + server.Addr() + "/postgres?sslmode=disable",
		ConnectTimeout: time.Second,
	})
	if _, err := s.Append(ctx, unit("a", 0, "k")); err != nil {
		t.Errorf("append: %v", err)
	}
	if _, err := s.Head(ctx); err != nil {
		t.Errorf("read: %v", err)
	}
}

// TestFaultSilentServer loses the replies to reads without a network error.
func TestFaultSilentServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background() // never ends
	server := startServer(t, postgrestest.Options{})
	p := newProxy(t, server.Addr())
	s := openTo(t, postgres.Config{URL: server.URLAt(p.addr, "postgres"), Deadline: time.Second, ConnectTimeout: time.Second})
	appendFirst(t, s, unit("a", 0, "k"))
	p.freeze(true)
	_, err := s.Read(ctx, 0, 1)
	wantUnavailable(t, "read", err)
	_, err = s.Append(ctx, unit("a", 1, "l"))
	if !errors.Is(err, eventstore.ErrUnknown) && !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("append: %v", err)
	}
	p.freeze(false)
	worksAgain(t, func() error {
		_, err := s.Append(ctx, unit("a", 1, "l"))
		return sentAgain(err)
	})
	worksAgain(t, func() error { _, err := s.Read(ctx, 0, 1); return err })
	if got := logKeys(t, s); got != "k l" {
		t.Errorf("the log holds %q", got)
	}
}

// TestFaultCloseWhileSilent closes a store whose server is silent. All calls of Close,
// Append and Head return.
func TestFaultCloseWhileSilent(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	p := newProxy(t, server.Addr())
	s := open(t, postgres.Config{URL: server.URLAt(p.addr, "postgres"), Deadline: time.Second, ConnectTimeout: time.Second})
	appendFirst(t, s, unit("a", 0, "k"))
	p.freeze(true)
	const each = 8
	answers := make(chan error, 2*each+1)
	for i := range each {
		go func() { _, err := s.Append(context.Background(), unit(fmt.Sprint("b", i), 0, "k")); answers <- err }()
		go func() { _, err := s.Head(context.Background()); answers <- err }()
	}
	until(t, server.URL("postgres"), `(select count(*) from commit) > 1`) // the reply to an append is lost
	answers <- s.Close()
	timeout := time.After(stuckAfter)
	closed := false
	for range 2*each + 1 {
		select {
		case err := <-answers:
			switch {
			case err == nil && !closed:
				closed = true
			case errors.Is(err, eventstore.ErrUnknown), errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrClosed):
			default:
				t.Errorf("got %v", err)
			}
		case <-timeout:
			t.Fatal("a call does not return")
		}
	}
}
