package link

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// server is a peer whose side of the stream the test plays.
type server struct {
	transport.UnimplementedPeer
	addr    string
	streams chan transport.CommandsServer
	end     chan error // what the method returns
}

func (s *server) Commands(stream transport.CommandsServer) error {
	select {
	case s.streams <- stream:
	case <-stream.Context().Done():
		return nil
	}
	select {
	case err := <-s.end:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func newServer(t testing.TB) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String(), streams: make(chan transport.CommandsServer), end: make(chan error)}
	g := transport.NewServer(transport.ServerConfig{})
	transport.Register(g, s)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { g.Stop(); running.Wait() })
	return s
}

// newLink runs a link to an address. changes receives when it goes up or down.
func newLink(t testing.TB, addr string, silence time.Duration) (l *Link, changes chan struct{}) {
	pool := transport.NewPool(transport.PoolConfig{})
	changes = make(chan struct{}, 100)
	l = New(Config{Node: "p", Addr: addr, Open: pool.Commands, Silence: silence, Changed: func() { changes <- struct{}{} }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); pool.Close() })
	return l, changes
}

func say(t *testing.T, stream transport.CommandsServer, batch *peer.Replies) {
	t.Helper()
	if err := stream.Send(batch); err != nil {
		t.Fatal(err)
	}
}

// hear returns the next n requests.
func hear(t *testing.T, stream transport.CommandsServer, n int) (items []*peer.Request, batches int) {
	t.Helper()
	for len(items) < n {
		batch, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.GetItems()) > 0 {
			batches++
		}
		items = append(items, batch.GetItems()...)
	}
	return items, batches
}

// gone returns when the link has abandoned a stream.
func gone(stream transport.CommandsServer) {
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

func get(id string) *peer.Request {
	return &peer.Request{Body: &peer.Request_Get{Get: &peer.Get{Id: id}}}
}

type end struct {
	reply *peer.Reply
	fate  Fate
}

func mustSend(t testing.TB, l *Link, msg *peer.Request) <-chan end {
	t.Helper()
	done := make(chan end, 2)
	if err := l.Send(msg, Trusted, func(reply *peer.Reply, fate Fate) { done <- end{reply, fate} }); err != nil {
		t.Fatal(err)
	}
	return done
}

func TestRepliesFindTheirRequestsInAnyOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, up := newLink(t, s.addr, time.Minute)
	stream := <-s.streams
	if err := l.Send(get("early"), Trusted, nil); !errors.Is(err, ErrDown) {
		t.Errorf("before the peer has sent anything: %v, want ErrDown", err)
	}
	say(t, stream, &peer.Replies{})
	<-up
	var ends []<-chan end
	for range 3 {
		ends = append(ends, mustSend(t, l, get("x")))
	}
	items, _ := hear(t, stream, 3)
	say(t, stream, &peer.Replies{Items: []*peer.Reply{
		{Id: items[2].Id}, {Id: 4711}, {Id: items[0].Id}, {Id: items[0].Id}, {Id: items[1].Id},
	}})
	for i, e := range ends {
		if got := <-e; got.fate != Answered || got.reply.GetId() != items[i].Id {
			t.Errorf("request %d: %v", i, got)
		}
	}
	// Later requests report that those replies were acted on.
	for {
		mustSend(t, l, get("y"))
		if items, _ := hear(t, stream, 1); items[0].Seen == 5 {
			break
		}
	}
	if st := l.Status(); !st.Up || st.HeardMS < 0 || st.Node != "p" || st.Addr != s.addr {
		t.Errorf("status: %+v", st)
	}
}

func TestBrokenStreamReportsFateOfEachRequest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  error
		want Fate
	}{
		"broken":    {transport.Errorf(transport.Unavailable, "gone"), Unknown},
		"clean end": {nil, NotExecuted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			l, changed := newLink(t, s.addr, time.Minute)
			stream := <-s.streams
			say(t, stream, &peer.Replies{})
			<-changed
			sent := mustSend(t, l, get("sent"))
			hear(t, stream, 1)
			s.end <- c.end
			if got := <-sent; got.fate != c.want {
				t.Errorf("a request that was sent is %v, want %v", got.fate, c.want)
			}
			<-changed
			if l.Trust() == Trusted {
				t.Error("the link is usable without a stream")
			}
			stream = <-s.streams // the link opens it again
			say(t, stream, &peer.Replies{})
			<-changed
			again := mustSend(t, l, get("again"))
			items, _ := hear(t, stream, 1)
			say(t, stream, &peer.Replies{Items: []*peer.Reply{{Id: items[0].Id}}})
			if got := <-again; got.fate != Answered {
				t.Errorf("on the next stream, a request is %v", got.fate)
			}
		})
	}
}

// The peer reads nothing, so the kernel's buffers fill, and then the link's queue.
func TestQueuedRequestsWereNotExecuted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, time.Minute)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	big := func() *peer.Request {
		return &peer.Request{Body: &peer.Request_Command{Command: &peer.Command{Data: make([]byte, 60<<10)}}}
	}
	var ends []<-chan end
	for {
		done := make(chan end, 2)
		err := l.Send(big(), Trusted, func(reply *peer.Reply, fate Fate) { done <- end{reply, fate} })
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, done)
	}
	s.end <- transport.Errorf(transport.Unavailable, "gone")
	count := make(map[Fate]int)
	last := Unknown
	for i, e := range ends {
		got := <-e
		count[got.fate]++
		if last == NotExecuted && got.fate == Unknown {
			t.Errorf("request %d may have been sent, one before it was not", i)
		}
		last = got.fate
	}
	if count[Unknown] == 0 || count[NotExecuted] < 32 || count[Answered] != 0 {
		t.Errorf("fates: %v; want some unknown, most not executed", count)
	}
	if size := maxQueuedSize / (60 << 10); len(ends) < size {
		t.Errorf("the queue took %d requests, want at least %d", len(ends), size)
	}
}

func TestRequestsAreBatchedDuringASend(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, time.Minute)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	// Fill the window, so that a send blocks until the peer reads.
	big := &peer.Request{Body: &peer.Request_Command{Command: &peer.Command{Data: make([]byte, 512<<10)}}}
	mustSend(t, l, big)
	const n = 640
	for range n {
		mustSend(t, l, get("x"))
	}
	items, batches := hear(t, stream, n+1)
	if len(items) != n+1 || batches > n/batchMessages+3 {
		t.Errorf("%d requests came in %d batches, want fewer batches", len(items), batches)
	}
	for i := 1; i < len(items); i++ {
		if items[i].Id != items[i-1].Id+1 {
			t.Fatalf("request %d came after %d", items[i].Id, items[i-1].Id)
		}
	}
}

func TestSilentPeersStreamIsAbandoned(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, 2*time.Second)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	sent := mustSend(t, l, get("x"))
	if got := <-sent; got.fate != Unknown {
		t.Errorf("sent to a peer that fell silent: %v, want unknown", got.fate)
	}
	gone(stream)
	if l.Trust() == Trusted {
		t.Error("the link is usable before the peer has sent a batch again")
	}
	say(t, <-s.streams, &peer.Replies{})
	<-changed // down
	<-changed // up
}

func TestDrainingPeerAndFinishedLinkAcceptNoRequests(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, time.Minute)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	open := mustSend(t, l, get("open"))
	say(t, stream, &peer.Replies{Draining: true})
	<-changed
	if err := l.Send(get("x"), Trusted, nil); !errors.Is(err, ErrDraining) || l.Trust() != Unusable {
		t.Errorf("a draining peer: %v, trust %v", err, l.Trust())
	}
	l.Finish()
	items, _ := hear(t, stream, 1)
	say(t, stream, &peer.Replies{Items: []*peer.Reply{{Id: items[0].Id}}})
	if got := <-open; got.fate != Answered {
		t.Errorf("the unanswered request is %v", got.fate)
	}
	gone(stream) // then the link ends
}

func TestBrokenStreamIsAWarningUnlessThePeerWasDraining(t *testing.T) {
	t.Parallel()
	for _, draining := range []bool{false, true} {
		s := newServer(t)
		var log bytes.Buffer
		pool := transport.NewPool(transport.PoolConfig{})
		l := New(Config{
			Node: "p", Addr: s.addr, Open: pool.Commands, Silence: time.Minute,
			Changed: func() {}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { l.Run(ctx) })
		stream := <-s.streams
		say(t, stream, &peer.Replies{Draining: draining})
		s.end <- transport.Errorf(transport.Unavailable, "the connection broke")
		<-s.streams // the link has dealt with the first one
		cancel()
		running.Wait()
		pool.Close()
		if warned := strings.Contains(log.String(), "command stream ended"); warned == draining {
			t.Errorf("draining %v: the log has %q", draining, log.String())
		}
	}
}

func TestTooLargeRequestIsRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, time.Minute)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	sized := func(n int) *peer.Request {
		return &peer.Request{Body: &peer.Request_Command{Command: &peer.Command{Data: make([]byte, n)}}}
	}
	if err := l.Send(sized(MaxMessage), Trusted, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("past the limit: %v, want ErrTooLarge", err)
	}
	mustSend(t, l, sized(MaxMessage-100))
	hear(t, stream, 1) // a stream carries a request of the largest size
}

func newPipe(ctx context.Context) *pipe {
	return &pipe{ctx: ctx, in: make(chan *peer.Requests), out: make(chan *peer.Replies)}
}

// heartbeats sends empty batches on a stream until the test ends.
func heartbeats(t *testing.T, stream transport.CommandsServer) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil && stream.Send(&peer.Replies{}) == nil {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
}

func TestPeerThatStartsLateIsNotDoubted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, 2*time.Second)
	gone(<-s.streams) // abandoned before the first batch
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	if status := l.Status(); !status.Up || status.Doubted {
		t.Errorf("the link is %+v, want it up and not on trial", status)
	}
}

func TestTrialOfIdleLinkEnds(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, 2*time.Second)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	gone(stream)
	<-changed // down
	stream = <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed // up
	if !l.Status().Doubted {
		t.Fatal("a link that was silent is not on trial")
	}
	heartbeats(t, stream)
	for l.Status().Doubted {
		select {
		case <-stream.Context().Done():
			t.Fatal("the stream was abandoned although the peer sent heartbeats")
		case <-time.After(time.Millisecond):
		}
	}
}
