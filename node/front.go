package node

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// front serves HTTP on the port for clients, from before the store is open until the
// node ends. At first it only answers that the node is alive, and why it is not ready;
// run then sets the node's handler.
type front struct {
	log     *slog.Logger
	wait    time.Duration // maximum wait for the store
	server  *http.Server
	handler atomic.Pointer[http.Handler]
	reason  atomic.Pointer[string]
	ended   chan error // the result of Serve
	logged  time.Time  // when waitFor last logged; only newNode uses it
}

const (
	// writeTimeout bounds the response to a client, from the end of the request's
	// header on. The gateway extends it for responses that it writes in pieces. The
	// longest of the others is the response to a command, which may take 30 s.
	writeTimeout = 2 * time.Minute
	// waitLogInterval is how often a node logs that it waits for its store.
	waitLogInterval = 30 * time.Second
)

func (n *node) newFront() *front {
	f := &front{log: n.log, wait: n.cfg.StoreWait, ended: make(chan error, 1)}
	f.setReason("opening the store")
	f.handleWith(f.starting())
	f.server = &http.Server{
		Handler: n.cfg.guardHost(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			(*f.handler.Load()).ServeHTTP(w, r)
		}), n.log),
		ConnState:         n.connections.State,
		ReadHeaderTimeout: n.cfg.Limits.HelloTimeout,
		IdleTimeout:       2 * time.Minute,
		WriteTimeout:      writeTimeout,
		// The gateway rejects larger headers than HeaderBytes with a message, and
		// counts them. Beyond this limit the server reads nothing.
		MaxHeaderBytes: 2 * n.cfg.Limits.HeaderBytes,
		ErrorLog:       slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	go func(l net.Listener) { f.ended <- f.server.Serve(l) }(n.client)
	return f
}

// serve closes the server when ctx ends. It returns an error if the server fails.
func (f *front) serve(ctx context.Context) error {
	select {
	case err := <-f.ended:
		return err
	case <-ctx.Done():
		f.close()
		return nil
	}
}

// close closes the server and its connections.
func (f *front) close() {
	f.server.Close()
	<-f.ended
}

func (f *front) handleWith(h http.Handler) { f.handler.Store(&h) }

func (f *front) setReason(reason string) { f.reason.Store(&reason) }

// waitFor records why the store cannot be opened yet.
func (f *front) waitFor(err error) {
	f.setReason("waiting for the database: " + err.Error())
	if now := time.Now(); now.Sub(f.logged) >= waitLogInterval {
		f.logged = now
		f.log.Warn("waiting for the database", "at_most", f.wait, "err", err)
	}
}

func (f *front) starting() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "alive") })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusServiceUnavailable, "starting: "+*f.reason.Load())
	})
	return mux
}
