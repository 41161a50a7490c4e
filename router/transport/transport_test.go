package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// commandsServer gives streams of commands to the test, and ends each as the test says.
type commandsServer struct {
	UnimplementedPeer
	streams chan CommandsServer
	end     chan error
}

func (s *commandsServer) Commands(st CommandsServer) error {
	s.streams <- st
	select {
	case err := <-s.end:
		return err
	case <-st.Context().Done():
		return st.Context().Err()
	}
}

func start(t *testing.T, p Peer) (addr string, s *Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = NewServer(ServerConfig{})
	Register(s, p)
	var running sync.WaitGroup
	running.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); running.Wait() })
	return l.Addr().String(), s
}

func dial(t *testing.T) *Pool {
	p := NewPool(PoolConfig{})
	t.Cleanup(p.Close)
	return p
}

func TestStreamCarriesMessagesBothWaysAndItsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  error
		want Code // "": io.EOF
	}{
		"in order": {nil, ""},
		"an error": {Errorf(Aborted, "paused"), Aborted},
		"another":  {errors.New("what"), Internal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := &commandsServer{streams: make(chan CommandsServer, 1), end: make(chan error)}
			addr, _ := start(t, srv)
			client, err := dial(t).Commands(t.Context(), addr, "")
			if err != nil {
				t.Fatal(err)
			}
			st := <-srv.streams
			for i := range uint64(100) { // nothing of a message is kept for the next
				if err := client.Send(&peer.Requests{Seen: i, Items: make([]*peer.Request, i)}); err != nil {
					t.Fatal(err)
				}
				got, err := st.Recv()
				if err != nil || got.Seen != i || len(got.Items) != int(i) {
					t.Fatalf("message %d: %v, %v", i, got, err)
				}
				if err := st.Send(&peer.Replies{Draining: i%2 == 1}); err != nil {
					t.Fatal(err)
				}
				if got, err := client.Recv(); err != nil || got.Draining != (i%2 == 1) {
					t.Fatalf("answer %d: %v, %v", i, got, err)
				}
			}
			// What the server does not read before the end does not hide the end.
			if err := client.Send(&peer.Requests{Seen: 1}); err != nil {
				t.Fatal(err)
			}
			srv.end <- c.end
			_, err = client.Recv()
			if c.want == "" && !errors.Is(err, io.EOF) || c.want != "" && (CodeOf(err) != c.want || err.Error() != c.end.Error()) {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// receiver ends each stream while another goroutine receives, as nodes that drain do.
type receiver struct{ UnimplementedPeer }

func (receiver) Commands(st CommandsServer) error {
	first := make(chan struct{}, 1)
	go func() {
		for {
			if _, err := st.Recv(); err != nil {
				return
			}
			select {
			case first <- struct{}{}:
			default:
			}
		}
	}()
	<-first
	return nil
}

func TestEndReachesTheClientWhileTheServerReceives(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, receiver{})
	pool := dial(t)
	for range 100 {
		client, err := pool.Commands(t.Context(), addr, "")
		if err != nil {
			t.Fatal(err)
		}
		var sending sync.WaitGroup
		sending.Go(func() {
			for client.Send(&peer.Requests{Seen: 1}) == nil {
			}
		})
		if _, err := client.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("a stream that ended in order is %v", err)
		}
		client.(typed[peer.Requests, peer.Replies, *peer.Requests, *peer.Replies]).cancel(nil)
		sending.Wait()
	}
}

func TestBrokenConnectionIsNoEnd(t *testing.T) {
	t.Parallel()
	srv := &commandsServer{streams: make(chan CommandsServer, 1), end: make(chan error)}
	addr, s := start(t, srv)
	client, err := dial(t).Commands(t.Context(), addr, "")
	if err != nil {
		t.Fatal(err)
	}
	<-srv.streams
	s.mu.Lock()
	for conn := range s.open {
		_ = conn.(*net.TCPConn).CloseWrite() // as a killed process does
	}
	s.mu.Unlock()
	if _, err := client.Recv(); CodeOf(err) != Unavailable {
		t.Errorf("a connection that broke is %v", err)
	}
}

func TestStreamEndsWithItsContexts(t *testing.T) {
	t.Parallel()
	srv := &commandsServer{streams: make(chan CommandsServer, 1), end: make(chan error)}
	addr, s := start(t, srv)
	ctx, cancel := context.WithCancel(t.Context())
	pool := dial(t)
	client, err := pool.Commands(ctx, addr, "")
	if err != nil {
		t.Fatal(err)
	}
	st := <-srv.streams
	cancel()
	if _, err := client.Recv(); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
	if _, err := st.Recv(); CodeOf(err) != Unavailable {
		t.Errorf("the server receives %v", err)
	}
	client, err = pool.Commands(t.Context(), addr, "")
	if err != nil {
		t.Fatal(err)
	}
	<-srv.streams
	pool.Close()
	if _, err := client.Recv(); !errors.Is(err, ErrPoolClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := pool.Commands(t.Context(), addr, ""); !errors.Is(err, ErrPoolClosed) {
		t.Errorf("a closed pool opens a stream: %v", err)
	}
	s.Stop()
}

// The earlier stream's handler has returned before the later one's begins, so a request
// that was in transit on the earlier stream is not begun after one of the later stream.
func TestStreamIsReplacedByTheNextOneOfItsID(t *testing.T) {
	t.Parallel()
	srv := &commandsServer{streams: make(chan CommandsServer, 1), end: make(chan error)}
	addr, _ := start(t, srv)
	pool := dial(t)
	first, err := pool.Commands(t.Context(), addr, "a")
	if err != nil {
		t.Fatal(err)
	}
	old := <-srv.streams
	other, err := pool.Commands(t.Context(), addr, "b")
	if err != nil {
		t.Fatal(err)
	}
	<-srv.streams
	if _, err := pool.Commands(t.Context(), addr, "a"); err != nil {
		t.Fatal(err)
	}
	<-srv.streams
	if old.Context().Err() == nil {
		t.Error("the earlier stream is still served")
	}
	if err := first.Send(&peer.Requests{}); err == nil {
		if _, err = first.Recv(); err == nil {
			t.Error("the earlier stream still works")
		}
	}
	if _, err := old.Recv(); err == nil {
		t.Error("the earlier handler still receives")
	}
	if err := other.Send(&peer.Requests{}); err != nil {
		t.Errorf("the stream with another id: %v", err)
	}
}

func TestTooLargeMessageIsRefusedByBothSides(t *testing.T) {
	t.Parallel()
	srv := &commandsServer{streams: make(chan CommandsServer, 1), end: make(chan error)}
	addr, _ := start(t, srv)
	client, err := dial(t).Commands(t.Context(), addr, "")
	if err != nil {
		t.Fatal(err)
	}
	st := <-srv.streams
	big := &peer.Requests{Items: []*peer.Request{{Body: &peer.Request_Command{Command: &peer.Command{Data: make([]byte, MaxMessage)}}}}}
	if err := client.Send(big); CodeOf(err) != ResourceExhausted {
		t.Errorf("sending: %v", err)
	}
	raw := client.(typed[peer.Requests, peer.Replies, *peer.Requests, *peer.Replies]).conn
	if _, err := raw.Write(binary.BigEndian.AppendUint32(nil, MaxMessage+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); CodeOf(err) != ResourceExhausted {
		t.Errorf("receiving: %v", err)
	}
}

// request writes a request to a server and returns the response.
func request(t *testing.T, addr, text string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	t.Cleanup(func() { r.Body.Close() })
	return r
}

type vitals struct{ UnimplementedPeer }

func (vitals) Vitals(context.Context, *peer.VitalsRequest) (*peer.VitalsReply, error) {
	return &peer.VitalsReply{Commands: 7}, nil
}

// A page that an operator opens cannot reach a node at a loopback address.
func TestWebPagesAreRefused(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, vitals{})
	post := func(path, headers string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: 2\r\n\r\n{}", path, addr, headers)
	}
	for want, texts := range map[int][]string{
		http.StatusOK: {post("/peer/vitals", "Content-Type: application/json\r\n")},
		http.StatusBadRequest: {
			post("/peer/vitals", "Content-Type: application/json\r\nOrigin: http://evil.example\r\n"),
			post("/peer/vitals", "Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n"),
			post("/peer/vitals", "Content-Type: text/plain\r\n"),
			post("/peer/vitals", ""),
			"GET /peer/commands HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /peer/commands HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			"no HTTP\r\n\r\n",
		},
		http.StatusNotImplemented: {
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /peer/vitals HTTP/1.1\r\nHost: x\r\n\r\n",
			post("/peer/steps", "Content-Type: application/json\r\n"),
		},
	} {
		for _, text := range texts {
			if r := request(t, addr, text); r.StatusCode != want {
				t.Errorf("%q is answered with %s, want %d", text, r.Status, want)
			}
		}
	}
}

func TestCallsAreAnsweredWithTheirErrors(t *testing.T) {
	t.Parallel()
	addr, _ := start(t, vitals{})
	pool := dial(t)
	reply, err := pool.Peer(addr).Vitals(t.Context(), &peer.VitalsRequest{})
	if err != nil || reply.Commands != 7 {
		t.Errorf("%+v, %v", reply, err)
	}
	if _, err := pool.Peer(addr).Steps(t.Context(), &peer.StepsRequest{}); CodeOf(err) != Unimplemented {
		t.Errorf("a call that is not served: %v", err)
	}
	if _, err := pool.Peer("127.0.0.1:1").Vitals(t.Context(), &peer.VitalsRequest{}); CodeOf(err) != Unavailable {
		t.Errorf("a peer that does not exist: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pool.Peer(addr).Vitals(ctx, &peer.VitalsRequest{}); CodeOf(err) != Canceled {
		t.Errorf("after its context: %v", err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: http.NotFoundHandler()}
	var running sync.WaitGroup
	running.Go(func() { _ = web.Serve(other) })
	defer running.Wait()
	defer web.Close()
	for _, err := range []error{
		func() error {
			_, err := pool.Peer(other.Addr().String()).Vitals(t.Context(), &peer.VitalsRequest{})
			return err
		}(),
		func() error { _, err := pool.Commands(t.Context(), other.Addr().String(), ""); return err }(),
	} {
		if CodeOf(err) != Unavailable || !strings.Contains(err.Error(), "another service") {
			t.Errorf("another service: %v", err)
		}
	}
}

// drains ends a drain after two reports, in order or not.
type drains struct {
	UnimplementedPeer
	err error
}

func (d drains) Drain(_ *peer.DrainRequest, to Sender[peer.DrainProgress]) error {
	for i := range uint32(2) {
		if err := to.Send(&peer.DrainProgress{Sessions: i}); err != nil {
			return err
		}
	}
	return d.err
}

func TestListedAnswersEndInOrderOrWithTheirError(t *testing.T) {
	t.Parallel()
	for _, want := range []error{nil, Errorf(Aborted, "half-way")} {
		addr, _ := start(t, drains{err: want})
		reports, err := dial(t).Peer(addr).Drain(t.Context(), &peer.DrainRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var n uint32
		for ; ; n++ {
			var report *peer.DrainProgress
			if report, err = reports.Recv(); err != nil {
				break
			}
			if report.Sessions != n {
				t.Errorf("report %d is %+v", n, report)
			}
		}
		if n != 2 || want == nil && !errors.Is(err, io.EOF) || want != nil && CodeOf(err) != Aborted {
			t.Errorf("%d reports, then %v, want %v", n, err, want)
		}
	}
}

// A server that stops in order accepts no stream, and waits for the open ones.
func TestGracefulStopWaitsForStreams(t *testing.T) {
	t.Parallel()
	srv := &commandsServer{streams: make(chan CommandsServer, 1), end: make(chan error)}
	addr, s := start(t, srv)
	pool := dial(t)
	client, err := pool.Commands(t.Context(), addr, "")
	if err != nil {
		t.Fatal(err)
	}
	<-srv.streams
	stopped := make(chan struct{})
	go func() { s.GracefulStop(); close(stopped) }()
	for {
		late, err := pool.Commands(t.Context(), addr, "")
		if err != nil {
			break
		}
		_ = late
		<-srv.streams
		srv.end <- nil
	}
	select {
	case <-stopped:
		t.Fatal("it did not wait")
	default:
	}
	srv.end <- nil
	if _, err := client.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the open stream ended with %v", err)
	}
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Fatal("it does not return")
	}
}
