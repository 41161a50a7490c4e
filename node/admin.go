package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// adminHeaderTimeout bounds the header of an operator's request.
const adminHeaderTimeout = 5 * time.Second

// adminAddr adds the loopback address to :PORT, since profiles reveal the content of
// the memory.
func adminAddr(addr string) string {
	if strings.HasPrefix(addr, ":") {
		return "127.0.0.1" + addr
	}
	return addr
}

func (n *node) serveAdmin(ctx context.Context) error {
	// The request sets how long a profile takes, so only the header has a deadline.
	server := &http.Server{
		Handler: n.cfg.guardHost(adminHandler(n.cfg.LogLevel, n.log), n.log), ReadHeaderTimeout: adminHeaderTimeout,
		ErrorLog: slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	n.log.Info("profiles and the log level are served", "url", "http://"+n.admin.Addr().String())
	return serveUntil(ctx, func() error { return server.Serve(n.admin) }, func() { server.Close() })
}

func adminHandler(level *slog.LevelVar, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	serveProfiles(mux)
	mux.HandleFunc("GET /log-level", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, strings.ToLower(level.Level().String()))
	})
	mux.HandleFunc("PUT /log-level", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(io.LimitReader(r.Body, 64))
		if err == nil {
			_, err = setLogLevel(level, log, strings.TrimSpace(string(text)))
		}
		if err != nil {
			writeText(w, http.StatusBadRequest, err.Error())
			return
		}
		writeText(w, http.StatusOK, strings.ToLower(level.Level().String()))
	})
	return mux
}

// setLogLevel changes the log level, and returns the one before.
func setLogLevel(level *slog.LevelVar, log *slog.Logger, text string) (from slog.Level, err error) {
	var to slog.Level
	if to.UnmarshalText([]byte(text)) != nil {
		return from, fmt.Errorf("%.20q is not a level: write debug, info, warn or error", text)
	}
	from = level.Level()
	level.Set(to)
	log.Warn("an operator changed the log level", "from", from, "to", to)
	return from, nil
}

// LogLevel changes the log level for an operator.
func (s peerServer) LogLevel(_ context.Context, req *peer.LogLevelRequest) (*peer.LogLevelReply, error) {
	from, err := setLogLevel(s.node.cfg.LogLevel, s.log, req.Level)
	if err != nil {
		return nil, transport.Errorf(transport.InvalidArgument, "%w", err)
	}
	return &peer.LogLevelReply{Before: strings.ToLower(from.String())}, nil
}
