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
	streamWindow = 64 << 10 // bytes that one slow reader can hold back
	connWindow   = 1 << 20

	// gRPC pings at most every 10 s. The pings matter only on systems without
	// TCP_USER_TIMEOUT.
	pingEvery = 10 * time.Second
)

// The kernel drops a connection when data sent on it has been unacknowledged for
// this time, which gRPC sets as TCP_USER_TIMEOUT. Then gRPC connects again
// immediately. Otherwise it would wait for a retransmission, minutes later.
//
// Both bounds follow the silence that an operator allows: a slow network that
// needs a longer silence also needs a longer wait for acknowledgements. The
// client, which sends the commands, waits half a silence. If only the data that
// it sends is lost, the peer's data still arrives for a while, until the peer's
// kernel stops sending because it gets no acknowledgements. Without the shorter
// wait, a client would notice such a loss only after 700 to 800 ms, at the
// default silence. Linux counts from the first retransmission, which it makes
// after 200 ms at the earliest.
func clientUnacknowledged(silence time.Duration) time.Duration { return silence / 2 }
func serverUnacknowledged(silence time.Duration) time.Duration { return 4 * silence }

// ServerConfig configures NewServer.
type ServerConfig struct {
	// TLS is the server's side of mutual TLS. Without it, connections are not
	// encrypted.
	TLS *tls.Config
	// Silence is how long a peer may send nothing, as in Config. The kernel
	// drops a connection whose data is unacknowledged for four times as long.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Options are added to the server's own.
	Options []grpc.ServerOption
}

// NewServer returns a gRPC server with the windows and limits of streams between
// nodes. It has no reflection, and refuses messages of more than 1 MiB and
// headers of more than 8 KiB.
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
