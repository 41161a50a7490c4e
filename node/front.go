package node

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// front serves HTTP on the port for clients, from before the node has a store
// until it ends. Until answerWith it says that the node is alive and why it is
// not ready.
type front struct {
	log     *slog.Logger
	wait    time.Duration // for the store
	server  *http.Server
	handler atomic.Pointer[http.Handler]
	reason  atomic.Pointer[string]
	ended   chan error // what Serve returned
	told    time.Time  // when the log line was last written; of the goroutine that opens the store
}

// tellEvery is how often a node that waits for its store says so in its log.
const tellEvery = 30 * time.Second

func (n *node) newFront() *front {
	f := &front{log: n.log, wait: n.cfg.StoreWait, ended: make(chan error, 1)}
	f.say("opening the store")
	f.answerWith(f.starting())
	f.server = &http.Server{
		Handler: n.cfg.guardHost(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			(*f.handler.Load()).ServeHTTP(w, r)
		}), n.log),
		ConnState:         n.connections.State,
		ReadHeaderTimeout: n.cfg.Limits.HelloTimeout,
		IdleTimeout:       2 * time.Minute,
		WriteTimeout:      clientWrite, // the gateway gives each piece of a long answer its own
		// The gateway itself refuses what is past HeaderBytes, in words and
		// with a count. Nothing past this is read at all.
		MaxHeaderBytes: 2 * n.cfg.Limits.HeaderBytes,
		ErrorLog:       slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	go func(l net.Listener) { f.ended <- f.server.Serve(l) }(n.client)
	return f
}

// serve returns when ctx has ended and nothing is served any more, or when the
// server fails.
func (f *front) serve(ctx context.Context) error {
	select {
	case err := <-f.ended:
		return err
	case <-ctx.Done():
		f.close()
		return nil
	}
}

// close ends the server and its connections.
func (f *front) close() {
	f.server.Close()
	<-f.ended
}

func (f *front) answerWith(h http.Handler) { f.handler.Store(&h) }

func (f *front) say(reason string) { f.reason.Store(&reason) }

// waitFor notes why the store can't be opened yet.
func (f *front) waitFor(err error) {
	f.say("waiting for the database: " + err.Error())
	if now := time.Now(); now.Sub(f.told) >= tellEvery {
		f.told = now
		f.log.Warn("waiting for the database", "at_most", f.wait, "error", err)
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
