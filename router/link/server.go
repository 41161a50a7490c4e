package link

import (
	"cmp"
	"crypto/tls"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	streamWindow = 64 << 10 // one slow reader holds back no more than this
	connWindow   = 1 << 20

	// gRPC pings no more often than every 10 s. The pings matter only where
	// the kernel has no such option.
	pingEvery = 10 * time.Second
)

// The kernel drops a connection when the data sent on it has gone
// unacknowledged for this long (gRPC sets TCP_USER_TIMEOUT to it). The next
// attempt is then a new connection, not a retransmission minutes later.
//
// Both bounds follow the silence that an operator allows: a slow network that
// needs a longer silence also needs a longer wait for acknowledgements. The
// client, which sends commands, waits half a silence. If only the data that it
// sends is lost, it still hears the peer for a while, until the peer's kernel
// stops for want of acknowledgements; with the default silence it would notice
// only after 700 to 800 ms. Linux counts from the first retransmission, which
// it makes after 200 ms at the earliest.
func clientUnacknowledged(silence time.Duration) time.Duration { return silence / 2 }
func serverUnacknowledged(silence time.Duration) time.Duration { return 4 * silence }

// ServerConfig configures NewServer.
type ServerConfig struct {
	// TLS is the server's side of mutual TLS. Without it, the server speaks in
	// the clear.
	TLS *tls.Config
	// Silence is how long a peer may say nothing, as in Config. The kernel
	// drops a connection whose data is unacknowledged for four times as long.
	//
	// Defaults to 500 ms.
	Silence time.Duration
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
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: serverUnacknowledged(cmp.Or(cfg.Silence, DefaultSilence))}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
	}
	if cfg.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(cfg.TLS)))
	}
	opts = append(append(opts, spoken.server()...), nextServer...)
	return grpc.NewServer(append(opts, cfg.Options...)...)
}
