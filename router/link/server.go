package link

import (
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	streamWindow = 64 << 10 // one slow reader holds back no more than this
	connWindow   = 1 << 20

	// A connection is dropped by the kernel once what was sent on it has gone
	// unacknowledged for this long (gRPC sets TCP_USER_TIMEOUT to it), so that
	// the next attempt is a new one and not a retransmission minutes away. Who
	// sends commands is told after no more than a silence: where only what it
	// sends is lost, it hears the peer go on for a while, until the peer's own
	// kernel stops sending for want of acknowledgements, and would give it up
	// only after 700 to 800 ms. Linux counts from the first retransmission, which
	// it makes after 200 ms at the earliest.
	serverUnacknowledged = 2 * time.Second
	clientUnacknowledged = DefaultSilence / 2

	// gRPC pings no more often than every 10 s. The pings matter only where
	// the kernel has no such option.
	pingEvery = 10 * time.Second
)

// ServerConfig configures NewServer.
type ServerConfig struct {
	// TLS is the server's side of mutual TLS. Without it, the server speaks in
	// the clear.
	TLS *tls.Config
	// Options are added to the server's own.
	Options []grpc.ServerOption
}

// NewServer returns a gRPC server with the windows and limits that streams
// between nodes are made for. It has no reflection, and refuses messages of
// more than 1 MiB and headers of more than 8 KiB.
func NewServer(cfg ServerConfig) *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(receiveLimit),
		grpc.MaxHeaderListSize(8 << 10),
		grpc.MaxConcurrentStreams(64),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: serverUnacknowledged}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
	}
	if cfg.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	opts = append(append(opts, spoken.server()...), nextServer...)
	return grpc.NewServer(append(opts, cfg.Options...)...)
}
