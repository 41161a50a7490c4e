package link

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ganglion-es/ganglion/proto/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a peer whose side of the stream the test writes itself.
type server struct {
	peer.UnimplementedPeerServer
	addr    string
	streams chan peer.Peer_CommandsServer
	end     chan error // what the method returns
}

func (s *server) Commands(stream peer.Peer_CommandsServer) error {
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
	s := &server{addr: l.Addr().String(), streams: make(chan peer.Peer_CommandsServer), end: make(chan error)}
	g := NewServer(ServerConfig{})
	peer.RegisterPeerServer(g, s)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { g.Stop(); running.Wait() })
	return s
}

// newLink runs a link to an address; changes tells when it goes up or down.
func newLink(t testing.TB, addr string, silence time.Duration) (l *Link, changes chan struct{}) {
	pool := NewPool(PoolConfig{})
	changes = make(chan struct{}, 100)
	l = New(Config{Node: "p", Addr: addr, Conn: pool.Conn, Silence: silence, Changed: func() { changes <- struct{}{} }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); pool.Close() })
	return l, changes
}

func say(t *testing.T, stream peer.Peer_CommandsServer, batch *peer.Replies) {
	t.Helper()
	if err := stream.Send(batch); err != nil {
		t.Fatal(err)
	}
}

// hear returns the next n requests.
func hear(t *testing.T, stream peer.Peer_CommandsServer, n int) (items []*peer.Request, batches int) {
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
		t.Errorf("before the peer has spoken: %v, want ErrDown", err)
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
	// What is sent from now on says that those replies were acted on.
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

func TestABrokenStreamTellsEachRequestItsFate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  error
		want Fate
	}{
		"broken":        {status.Error(codes.Unavailable, "gone"), Unknown},
		"in good order": {nil, NotExecuted},
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
			stream = <-s.streams // it is opened again
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

// The peer reads nothing: gRPC's window fills, then our queue.
func TestWhatIsStillQueuedWasNotExecuted(t *testing.T) {
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
	s.end <- status.Error(codes.Unavailable, "gone")
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

func TestRequestsAreGatheredWhileOneIsOnItsWay(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, time.Minute)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	// Fill the window, so that a send is in flight for as long as we like.
	big := &peer.Request{Body: &peer.Request_Command{Command: &peer.Command{Data: make([]byte, 512<<10)}}}
	mustSend(t, l, big)
	const n = 640
	for range n {
		mustSend(t, l, get("x"))
	}
	items, batches := hear(t, stream, n+1)
	if len(items) != n+1 || batches > n/batchMessages+3 {
		t.Errorf("%d requests came in %d batches, want them gathered", len(items), batches)
	}
	for i := 1; i < len(items); i++ {
		if items[i].Id != items[i-1].Id+1 {
			t.Fatalf("request %d came after %d", items[i].Id, items[i-1].Id)
		}
	}
}

func TestASilentPeerIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	l, changed := newLink(t, s.addr, 200*time.Millisecond)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	sent := mustSend(t, l, get("x"))
	if got := <-sent; got.fate != Unknown {
		t.Errorf("sent to a peer that fell silent: %v, want unknown", got.fate)
	}
	<-stream.Context().Done()
	if l.Trust() == Trusted {
		t.Error("the link is usable before the peer has spoken again")
	}
	say(t, <-s.streams, &peer.Replies{})
	<-changed // down
	<-changed // up
}

func TestADrainingPeerAndAFinishedLinkTakeNothing(t *testing.T) {
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
		t.Errorf("what was open is %v", got.fate)
	}
	<-stream.Context().Done() // then the link ends
}

func TestTooLargeARequestIsRefused(t *testing.T) {
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
	hear(t, stream, 1) // gRPC carries what we take
}

// pipe is an inbound stream in memory, for bubbles: sockets don't work there.
type pipe struct {
	ctx context.Context
	in  chan *peer.Requests
	out chan *peer.Replies
	grpc.ServerStream
}

func newPipe(ctx context.Context) *pipe {
	return &pipe{ctx: ctx, in: make(chan *peer.Requests), out: make(chan *peer.Replies)}
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Recv() (*peer.Requests, error) {
	select {
	case batch, ok := <-p.in:
		if !ok {
			return nil, io.EOF
		}
		return batch, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

func (p *pipe) Send(batch *peer.Replies) error {
	select {
	case p.out <- batch:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) SetHeader(metadata.MD) error  { return nil }
func (p *pipe) SendHeader(metadata.MD) error { return nil }
func (p *pipe) SetTrailer(metadata.MD)       {}

// serve runs an Inbound on a pipe and collects what it handles.
func serve(t *testing.T) (p *pipe, in *Inbound, handled chan *peer.Request, ended chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	p = newPipe(ctx)
	in = NewInbound(p, InboundConfig{})
	handled, ended = make(chan *peer.Request, 100), make(chan error, 1)
	go func() {
		ended <- in.Serve(ctx, func(r *peer.Request) { handled <- r }, func(uint64) {})
		cancel() // as gRPC does when the method returns
	}()
	return p, in, handled, ended
}

func TestANodeThatWasFrozenBeginsNothingOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _, handled, ended := serve(t)
		<-p.out
		p.in <- &peer.Requests{Items: []*peer.Request{get("new")}}
		if r := <-handled; r.GetGet().GetId() != "new" {
			t.Errorf("handled %v", r)
		}
		// Nothing leaves this node for 600 ms. What it finds then was given up.
		time.Sleep(600 * time.Millisecond)
		p.in <- &peer.Requests{Items: []*peer.Request{get("old")}}
		<-p.out
		if err := <-ended; status.Code(err) != codes.Aborted {
			t.Errorf("the stream ended with %v, want that it was aborted", err)
		}
		synctest.Wait()
		if len(handled) != 0 {
			t.Errorf("handled %v after the pause", <-handled)
		}
	})
}

func TestAPeerThatIsNotHeardIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, _, handled, ended := serve(t)
		start, beats := time.Now(), 0
		for {
			select {
			case <-p.out:
				beats++
				continue
			case err := <-ended:
				if took := time.Since(start); status.Code(err) != codes.Aborted || took < DefaultSilence || took > DefaultSilence+2*Heartbeat {
					t.Errorf("ended after %v with %v", took, err)
				}
			}
			break
		}
		if beats < 5 || len(handled) != 0 {
			t.Errorf("%d heartbeats, want one every 100 ms", beats)
		}
	})
}

func TestAClosedStreamAnswersWhatItTook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, in, handled, ended := serve(t)
		p.in <- &peer.Requests{Items: []*peer.Request{{Id: 1}, {Id: 2}}}
		<-handled
		<-handled
		in.Drain()
		for !(<-p.out).GetDraining() {
		}
		in.Close()
		p.in <- &peer.Requests{Items: []*peer.Request{{Id: 3}}} // too late
		synctest.Wait()
		if n := in.Reply(&peer.Reply{Id: 2}, 10); n != 1 {
			t.Errorf("the first reply has number %d", n)
		}
		in.Reply(&peer.Reply{Id: 1}, 10)
		var got []uint64
		for {
			select {
			case batch := <-p.out:
				for _, reply := range batch.GetItems() {
					got = append(got, reply.GetId())
				}
				continue
			case err := <-ended:
				if err != nil {
					t.Errorf("ended with %v, want good order", err)
				}
			}
			break
		}
		if len(got) != 2 || got[0] != 2 || got[1] != 1 || len(handled) != 0 {
			t.Errorf("replies to %v, want 2 and 1; %d requests handled too late", got, len(handled))
		}
	})
}

func TestAStreamWithTooMuchUnansweredIsNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p := newPipe(ctx)
		in := NewInbound(p, InboundConfig{Silence: time.Hour})
		var handled int
		ended := make(chan error, 1)
		go func() { ended <- in.Serve(ctx, func(*peer.Request) { handled++ }, func(uint64) {}) }()
		go func() {
			for {
				select {
				case <-p.out:
				case <-ctx.Done():
					return
				}
			}
		}()
		batch := &peer.Requests{Items: make([]*peer.Request, maxUnanswered+10)}
		p.in <- batch
		synctest.Wait()
		if handled != maxUnanswered {
			t.Errorf("handled %d requests, want %d", handled, maxUnanswered)
		}
		for range 10 {
			in.Reply(&peer.Reply{}, 2)
		}
		time.Sleep(Heartbeat)
		synctest.Wait()
		if handled != maxUnanswered+10 {
			t.Errorf("handled %d requests, want all, now that ten were answered", handled)
		}
		cancel()
		<-ended
	})
}

// heartbeats sends empty batches on a stream until the test ends.
func heartbeats(t *testing.T, stream peer.Peer_CommandsServer) {
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
	l, changed := newLink(t, s.addr, 200*time.Millisecond)
	<-(<-s.streams).Context().Done() // it was given up before the peer said a word
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
	l, changed := newLink(t, s.addr, time.Second)
	stream := <-s.streams
	say(t, stream, &peer.Replies{})
	<-changed
	<-stream.Context().Done()
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
			t.Fatal("the stream was given up although the peer was heard")
		case <-time.After(time.Millisecond):
		}
	}
}
