package transport

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"
)

// ErrPoolClosed reports a Pool that was closed.
var ErrPoolClosed = errors.New("transport: the pool of connections is closed")

const (
	// connectTimeout bounds the time to connect to an address that does not answer, and
	// openTimeout that until a stream is open.
	connectTimeout = 500 * time.Millisecond
	openTimeout    = 2 * time.Second
	// idleConns is how long a connection for calls is kept without one.
	idleConns = 30 * time.Second
)

// PoolConfig configures a Pool.
type PoolConfig struct {
	// TLS is the client's side of mutual TLS. Without it, connections are not
	// encrypted. Its VerifyConnection gets the peer's address (host:port) as the
	// ServerName, which crypto/tls leaves empty if the host is an IP address.
	TLS *tls.Config
	// Silence is how long a peer may send nothing before its streams are abandoned.
	// The kernel drops a connection whose data is unacknowledged for half of it.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Dial opens a connection to an address (host:port).
	//
	// Defaults to that of a [net.Dialer] with a timeout of 500 ms.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Pool opens streams and makes calls to peers. It is safe for concurrent use.
type Pool struct {
	cfg   PoolConfig
	calls *http.Transport

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
}

// NewPool returns a Pool without connections.
func NewPool(cfg PoolConfig) *Pool {
	cfg.Silence = cmp.Or(cfg.Silence, DefaultSilence)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Dial == nil {
		dialer := &net.Dialer{Timeout: connectTimeout}
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", addr) }
	}
	p := &Pool{cfg: cfg}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dial(ctx, addr) }
	p.calls = &http.Transport{
		DialContext: dial, DialTLSContext: dial,
		DisableCompression: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: idleConns,
		MaxResponseHeaderBytes: maxHeader,
	}
	return p
}

// Close breaks all streams and calls. Later ones fail with ErrPoolClosed.
func (p *Pool) Close() {
	p.cancel(ErrPoolClosed)
	p.calls.CloseIdleConnections()
}

// dial connects to an address, with TLS if it is configured.
func (p *Pool) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := p.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, Errorf(Unavailable, "while dialing: %w", err)
	}
	tune(conn, clientUnacknowledged(p.cfg.Silence))
	if p.cfg.TLS == nil {
		return conn, nil
	}
	cfg := p.cfg.TLS.Clone()
	if host, _, err := net.SplitHostPort(addr); err == nil && cfg.ServerName == "" {
		cfg.ServerName = host
	}
	if verify := cfg.VerifyConnection; verify != nil {
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			state.ServerName = addr
			return verify(state)
		}
	}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, Errorf(Unavailable, "TLS: %w", err)
	}
	return secured, nil
}

func (p *Pool) request(ctx context.Context, method, addr, name string, query url.Values, body io.Reader) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: addr, Path: prefix + name, RawQuery: query.Encode()}
	if p.cfg.TLS != nil {
		u.Scheme = "https"
	}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, Errorf(InvalidArgument, "peer address %q: %w", addr, err)
	}
	r.Header.Set(versionHeader, spoken.String())
	return r, nil
}

// join returns a context that ends with ctx and with the pool.
func (p *Pool) join(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(ErrPoolClosed) })
	return ctx, func(cause error) { stop(); cancel(cause) }
}

// open opens a stream, which ends with ctx.
func (p *Pool) open(ctx context.Context, addr, name string, query url.Values) (*stream, error) {
	if p.ctx.Err() != nil {
		return nil, ErrPoolClosed
	}
	ctx, cancel := p.join(ctx)
	opening, opened := context.WithTimeout(ctx, max(openTimeout, 2*p.cfg.Silence))
	defer opened()
	st, err := p.upgrade(opening, addr, name, query)
	if err != nil {
		err = cmp.Or(context.Cause(ctx), err)
		cancel(nil)
		return nil, err
	}
	st.ctx, st.cancel = ctx, cancel
	context.AfterFunc(ctx, func() { _ = abandon(st.conn) })
	return st, nil
}

func (p *Pool) upgrade(ctx context.Context, addr, name string, query url.Values) (_ *stream, err error) {
	r, err := p.request(ctx, http.MethodGet, addr, name, query, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", upgrade)
	conn, err := p.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = Errorf(Unavailable, "the peer did not open the stream in time")
		}
		if err != nil {
			_ = conn.Close()
		}
	}()
	if err := r.Write(conn); err != nil {
		return nil, Errorf(Unavailable, "the connection to the peer broke: %w", err)
	}
	in := bufio.NewReaderSize(conn, 16<<10)
	response, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, Errorf(Unavailable, "the peer did not open the stream: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Upgrade") != upgrade {
		return nil, failure(response)
	}
	return &stream{conn: conn, r: in}, nil
}

// failure returns the error of a response.
func failure(r *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	e := new(Error)
	if err == nil && json.Unmarshal(raw, e) == nil && e.Code != "" {
		return e
	}
	return Errorf(Unavailable, "the peer answers %q: is its address that of another service?", r.Status)
}

// post makes a call, and returns the body of a response without an error.
func (p *Pool) post(ctx context.Context, addr, name string, in any) (io.ReadCloser, error) {
	if p.ctx.Err() != nil {
		return nil, ErrPoolClosed
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, Errorf(Internal, "the message cannot be encoded: %w", err)
	}
	r, err := p.request(ctx, http.MethodPost, addr, name, nil, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := p.calls.RoundTrip(r)
	if err != nil {
		var e *Error
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		} else if errors.As(err, &e) {
			return nil, err
		}
		return nil, Errorf(Unavailable, "the peer does not answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		return nil, failure(response)
	}
	return response.Body, nil
}

// call makes a call that is answered by one message.
func call[In, Out any](ctx context.Context, p *Pool, addr, name string, in *In) (*Out, error) {
	ctx, cancel := p.join(ctx)
	defer cancel(nil)
	body, err := p.post(ctx, addr, name, in)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	out := new(Out)
	if err := readJSON(body, out); err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	_, _ = io.Copy(io.Discard, body) // so that the connection is used again
	return out, nil
}

// callList makes a call that is answered by several messages. The caller must receive
// until an error, or end ctx.
func callList[In, Out any](ctx context.Context, p *Pool, addr, name string, in *In) (Receiver[Out], error) {
	ctx, cancel := p.join(ctx)
	body, err := p.post(ctx, addr, name, in)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	return &listed[Out]{ctx, cancel, body, json.NewDecoder(body)}, nil
}

// listed receives the answers of callList.
type listed[M any] struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	body    io.Closer
	decoder *json.Decoder
}

func (l *listed[M]) Context() context.Context { return l.ctx }

func (l *listed[M]) Recv() (*M, error) {
	m, err := l.next()
	if err != nil {
		l.cancel(nil)
		_ = l.body.Close()
	}
	return m, err
}

func (l *listed[M]) next() (*M, error) {
	var raw json.RawMessage
	if err := l.decoder.Decode(&raw); errors.Is(err, io.EOF) {
		return nil, io.EOF
	} else if err != nil {
		return nil, cmp.Or(context.Cause(l.ctx), Errorf(Unavailable, "the connection to the peer broke: %w", err))
	}
	var last lastOfList
	m := new(M)
	if err := errors.Join(json.Unmarshal(raw, &last), json.Unmarshal(raw, m)); err != nil {
		return nil, Errorf(InvalidArgument, "the peer sent something else than the JSON object that was expected: %w", err)
	}
	if last.Error != nil {
		return nil, last.Error
	}
	return m, nil
}
