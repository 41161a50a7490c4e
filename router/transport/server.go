package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// ServerConfig configures a Server.
type ServerConfig struct {
	// TLS is the server's side of mutual TLS. Without it, connections are not encrypted.
	TLS *tls.Config
	// Silence is how long a peer may send nothing, as in [PoolConfig].
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Server serves other nodes and operators. It is safe for concurrent use.
type Server struct {
	cfg  ServerConfig
	mux  *http.ServeMux
	http *http.Server

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc

	mu       sync.Mutex
	stopping bool
	open     map[net.Conn]struct{} // streams
	named    map[string]*named     // streams that the next one of the same id replaces
	running  sync.WaitGroup        // handlers of streams
}

// NewServer returns a Server that serves nothing; see [Register].
func NewServer(cfg ServerConfig) *Server {
	cfg.Silence = cmp.Or(cfg.Silence, DefaultSilence)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), open: map[net.Conn]struct{}{}, named: map[string]*named{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var only1 http.Protocols
	only1.SetHTTP1(true)
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		Protocols:         &only1,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * idleConns,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}
	return s
}

// Serve serves connections of a listener until Stop or GracefulStop, and closes it.
func (s *Server) Serve(l net.Listener) error {
	l = tuned{l, serverUnacknowledged(s.cfg.Silence)}
	if s.cfg.TLS != nil {
		l = tls.NewListener(l, s.cfg.TLS)
	}
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// tuned sets the options of accepted connections.
type tuned struct {
	net.Listener
	unacknowledged time.Duration
}

func (t tuned) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err == nil {
		tune(c, t.unacknowledged)
	}
	return c, err
}

// GracefulStop accepts no more connections and streams, and returns when the streams and
// calls have ended.
func (s *Server) GracefulStop() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	_ = s.http.Shutdown(s.ctx)
	s.running.Wait()
	s.cancel()
}

// Stop breaks all connections. It returns when the handlers of streams have returned.
func (s *Server) Stop() {
	s.cancel()
	_ = s.http.Close()
	s.mu.Lock()
	s.stopping = true
	for c := range s.open {
		_ = abandon(c)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// serve refuses web pages and callers without a common version. A page that an operator
// opens could otherwise reach a node without certificates at a loopback address: browsers
// name the page in these headers, and a page cannot remove them.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		fail(w, Errorf(InvalidArgument, "this port is for nodes and operators, not for web pages"))
		return
	}
	if r.Method == http.MethodPost && r.Header.Get("Content-Type") != "application/json" {
		fail(w, Errorf(InvalidArgument, "send a JSON object with Content-Type: application/json"))
		return
	}
	if err := spoken.refuse(r.Header.Get(versionHeader)); err != nil {
		fail(w, err)
		return
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		fail(w, unimplemented(r.Method+" "+r.URL.Path))
		return
	}
	s.mux.ServeHTTP(w, r)
}

func fail(w http.ResponseWriter, err error) {
	e := wire(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(cmp.Or(statuses[e.Code], http.StatusInternalServerError))
	_ = json.NewEncoder(w).Encode(e)
}

// handleStream registers the handler of a stream. The stream ends when the handler
// returns.
func handleStream(s *Server, name string, handler func(r *http.Request, st *stream) error) {
	s.mux.HandleFunc("GET "+prefix+name, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != upgrade {
			fail(w, Errorf(InvalidArgument, "%s is a stream: ask for it with Upgrade: %s", name, upgrade))
			return
		}
		st, done, err := s.upgrade(w)
		if err != nil {
			fail(w, err)
			return
		}
		defer done()
		st.end(handler(r, st))
	})
}

// upgrade takes the connection of a request over. done closes it.
func (s *Server) upgrade(w http.ResponseWriter) (st *stream, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, nil, Errorf(Unavailable, "this node is stopping")
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return nil, nil, Errorf(Internal, "the connection cannot be taken over")
	}
	conn, rw, err := hijacker.Hijack()
	if err != nil {
		return nil, nil, Errorf(Internal, "the connection cannot be taken over: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(s.ctx)
	st = &stream{conn: conn, r: rw.Reader, ctx: ctx, cancel: cancel}
	context.AfterFunc(ctx, func() { _ = abandon(conn) })
	s.open[conn] = struct{}{}
	s.running.Add(1)
	done = func() {
		cancel(errEnded)
		_ = abandon(conn)
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
		s.running.Done()
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgrade+"\r\n\r\n"); err != nil {
		st.cancel(err) // the handler notices
	}
	return st, done, nil
}

// named is a stream with an id.
type named struct {
	st    *stream
	ended chan struct{} // closed when its handler has returned
}

var errReplaced = Errorf(Canceled, "the peer has opened this stream again")

// replace breaks the stream that had the id before, if there is one, and waits until its
// handler has returned. The caller calls ended when its own handler returns.
func (s *Server) replace(id string, st *stream) (ended func()) {
	if id == "" {
		return func() {}
	}
	this := &named{st, make(chan struct{})}
	s.mu.Lock()
	before := s.named[id]
	s.named[id] = this
	s.mu.Unlock()
	if before != nil {
		before.st.cancel(errReplaced)
		<-before.ended
	}
	return func() {
		s.mu.Lock()
		if s.named[id] == this {
			delete(s.named, id)
		}
		s.mu.Unlock()
		close(this.ended)
	}
}

// watch makes the stream's context end when the client closes the connection, for
// streams on which the client sends nothing.
func (s *stream) watch() {
	_, _, err := s.read()
	if err == nil {
		err = Errorf(InvalidArgument, "the client sent something on a stream in the other direction")
	}
	s.cancel(err)
}

// handleCall registers the handler of a call.
func handleCall[In, Out any](s *Server, name string, handler func(context.Context, *In) (*Out, error)) {
	s.mux.HandleFunc("POST "+prefix+name, func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		if err := readJSON(r.Body, in); err != nil {
			fail(w, err)
			return
		}
		out, err := handler(r.Context(), in)
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	})
}

// handleList registers the handler of a call that is answered by several messages. An
// error after the first message is an object with the member error, since the status has
// been sent.
func handleList[In, Out any](s *Server, name string, handler func(*In, Sender[Out]) error) {
	s.mux.HandleFunc("POST "+prefix+name, func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		if err := readJSON(r.Body, in); err != nil {
			fail(w, err)
			return
		}
		list := &list[Out]{w: w, encoder: json.NewEncoder(w), ctx: r.Context()}
		switch err := handler(in, list); {
		case err == nil:
		case list.sent:
			_ = list.encoder.Encode(lastOfList{wire(err)})
		default:
			fail(w, err)
		}
	})
}

// lastOfList is the error after the messages of a call.
type lastOfList struct {
	Error *Error `json:"error"`
}

// list sends the messages of a call that is answered by several.
type list[M any] struct {
	w       http.ResponseWriter
	encoder *json.Encoder
	ctx     context.Context
	sent    bool
}

func (l *list[M]) Send(m *M) error {
	if !l.sent {
		l.w.Header().Set("Content-Type", "application/json")
		l.sent = true
	}
	if err := l.encoder.Encode(m); err != nil {
		return err
	}
	return http.NewResponseController(l.w).Flush()
}

func (l *list[M]) Context() context.Context { return l.ctx }

func readJSON(from io.Reader, to any) error {
	raw, err := io.ReadAll(io.LimitReader(from, MaxMessage+1))
	switch {
	case err != nil:
		return Errorf(Unavailable, "the message could not be read: %w", err)
	case len(raw) > MaxMessage:
		return Errorf(ResourceExhausted, "the message has more than %d bytes", MaxMessage)
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return Errorf(InvalidArgument, "the message is not the JSON object that was expected: %w", err)
	}
	return nil
}
