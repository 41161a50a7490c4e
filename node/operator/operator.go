// Package operator is the client for an operator's calls to nodes: to list, move and
// close sessions, to drain a node, and to collect diagnostics. It calls a node at its
// address for links.
//
// Each call opens its own connection: calls are rare, and gateways have no connections
// to each other.
package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// ProgressInterval is how often a draining node reports its progress.
	ProgressInterval = 250 * time.Millisecond
	// drainSilence is how long Drain waits for the next report.
	drainSilence = 20 * ProgressInterval
	// maxDebugBytes bounds the diagnostics of one node.
	maxDebugBytes = 64 << 20
)

// Client calls nodes. It authenticates as a node does. Its methods are safe for
// concurrent use.
type Client struct{ tls *tls.Config }

// New returns a Client with a certificate of the cluster's authority. Without
// files it uses no TLS, as nodes on loopback addresses or with insecure peers do.
func New(files trust.PeerTLS, log *slog.Logger) (*Client, error) {
	credentials, err := files.Load(log)
	if err != nil {
		return nil, err
	}
	return WithTLS(credentials.Client()), nil
}

// WithTLS returns a Client with a TLS configuration, which is nil for none.
func WithTLS(config *tls.Config) *Client { return &Client{config} }

// Sessions are the sessions of one gateway.
type Sessions struct {
	Open int `json:"open"`
	Full int `json:"full"` // sessions whose socket is full
	// Slow lists sessions whose socket is full, the furthest behind first.
	Slow []gateway.SlowSession `json:"slow,omitempty"`
}

// Sessions counts the sessions of a gateway, and lists at most slow sessions whose
// socket is full.
func (c *Client) Sessions(ctx context.Context, addr string, slow int) (Sessions, error) {
	reply, err := c.sessions(ctx, addr, &peer.SessionsRequest{Slow: uint32(max(slow, 0))})
	if err != nil {
		return Sessions{}, err
	}
	s := Sessions{Open: int(reply.Open), Full: int(reply.Full)}
	for _, one := range reply.Slow {
		s.Slow = append(s.Slow, gateway.SlowSession{
			ID: one.Id, Client: one.Client, Subscriptions: int(one.Subscriptions), Waiting: int(one.WaitingBytes), Behind: eventstore.Position(one.Behind),
		})
	}
	return s, nil
}

// Move asks n sessions of a gateway to connect elsewhere, one after another, and
// returns how many it asked.
func (c *Client) Move(ctx context.Context, addr string, n int) (int, error) {
	return c.change(ctx, addr, &peer.SessionsRequest{Move: uint32(max(n, 0))})
}

// KickSession closes a session, whose client must not reconnect. It reports
// whether the session existed.
func (c *Client) KickSession(ctx context.Context, addr, id string) (bool, error) {
	n, err := c.change(ctx, addr, &peer.SessionsRequest{KickSession: id})
	return n > 0, err
}

// KickClient closes all sessions of a client id, as [Client.KickSession] does, and
// returns their number.
func (c *Client) KickClient(ctx context.Context, addr, client string) (int, error) {
	return c.change(ctx, addr, &peer.SessionsRequest{KickClient: client})
}

func (c *Client) change(ctx context.Context, addr string, req *peer.SessionsRequest) (int, error) {
	reply, err := c.sessions(ctx, addr, req)
	if err != nil {
		return 0, err
	}
	return int(reply.Asked), nil
}

func (c *Client) sessions(ctx context.Context, addr string, req *peer.SessionsRequest) (reply *peer.SessionsReply, err error) {
	err = c.call(ctx, addr, func(node transport.Client) error {
		reply, err = node.Sessions(ctx, req)
		return err
	})
	return reply, err
}

// Drain makes a node leave the cluster as at SIGTERM, and returns when it has
// left. The process stays and serves nothing, unless shutdown is set. Drain calls
// progress, if not nil, several times a second with the remaining sessions and
// commands. The node continues to drain even if ctx ends.
func (c *Client) Drain(ctx context.Context, addr string, shutdown bool, progress func(sessions, commands int)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(drainSilence, cancel)
	defer silent.Stop()
	return c.call(ctx, addr, func(node transport.Client) error {
		reports, err := node.Drain(ctx, &peer.DrainRequest{Shutdown: shutdown})
		if err != nil {
			return err
		}
		for {
			report, err := reports.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return transport.Errorf(transport.Aborted, "the node at %s stopped before it had left", addr)
			case err != nil:
				return err
			case report.Left:
				return nil
			}
			silent.Reset(drainSilence)
			if progress != nil {
				progress(int(report.Sessions), int(report.Commands))
			}
		}
	})
}

// DebugFile is a file with diagnostics of a node.
type DebugFile struct {
	Name string // without a folder
	Data []byte
}

// debugName matches valid names. A name becomes a file name on the operator's disk.
var debugName = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,63}$`)

// Debug returns the diagnostics of a node, at most 64 MiB: cluster.json,
// readyz.txt and metrics.txt (its pages), log.txt (its newest log lines, 1 to 2
// MiB), goroutines.txt and heap.pb.gz (profiles of Go's runtime/pprof). If it fails,
// it also returns the files received so far.
func (c *Client) Debug(ctx context.Context, addr string) (files []DebugFile, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err = c.call(ctx, addr, func(node transport.Client) error {
		pieces, err := node.Debug(ctx, &peer.DebugRequest{})
		if err != nil {
			return err
		}
		files, err = receiveFiles(addr, pieces)
		return err
	})
	return files, err
}

func receiveFiles(addr string, pieces transport.Receiver[peer.DebugPiece]) (files []DebugFile, err error) {
	for size := 0; ; {
		p, err := pieces.Recv()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		if size += len(p.Data); size > maxDebugBytes || !debugName.MatchString(p.File) {
			return files, transport.Errorf(transport.ResourceExhausted, "the node at %s sent more than %d MiB, or a file named %.80q", addr, maxDebugBytes>>20, p.File)
		}
		if last := len(files) - 1; last >= 0 && files[last].Name == p.File {
			files[last].Data = append(files[last].Data, p.Data...)
		} else {
			files = append(files, DebugFile{p.File, p.Data})
		}
	}
}

// call makes one call to a node, and explains its error.
func (c *Client) call(ctx context.Context, addr string, do func(transport.Client) error) error {
	var connected atomic.Bool
	pool := transport.NewPool(transport.PoolConfig{TLS: c.tls, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		connected.Store(err == nil)
		return conn, err
	}})
	defer pool.Close()
	return explain(ctx, addr, connected.Load, do(pool.Peer(addr)))
}

// explain returns an operator's error for the error of a call.
func explain(ctx context.Context, addr string, connected func() bool, err error) error {
	if err == nil {
		return nil
	}
	var dial *net.OpError
	switch code := transport.CodeOf(err); {
	case ctx.Err() != nil && connected():
		return fmt.Errorf("the node at %s accepts connections but does not answer: check whether its process is frozen, paused or short of CPU time", addr)
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not answer in time", addr)
	case code == transport.Unimplemented:
		return fmt.Errorf("the node at %s is too old for this command: upgrade it", addr)
	case code != transport.Unavailable:
		return err
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("no node can be reached at %s (%w)", addr, err)
	}
	return fmt.Errorf("no node at %s accepts this call: if the nodes use certificates, set the Cert, Key and CA of PeerTLS (--peer-tls-cert, --peer-tls-key and --peer-tls-ca) to files of the same authority (%w)", addr, err)
}
