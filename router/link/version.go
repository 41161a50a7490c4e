package link

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// versionHeader has, on each call, the versions of the protocol between nodes
// that the caller speaks, as "1-2". A call without it speaks version 1.
const versionHeader = "ganglion-link"

// Versions are the versions that a program speaks, from Oldest to Newest.
//
// A new field in a message needs no new version, since older programs ignore it.
// A new version is for a change that they must not ignore. The release that
// introduces a version also speaks the one before, so that both releases run
// side by side. A later release can drop the older version.
type Versions struct{ Oldest, Newest int }

// spoken are the versions of this program.
var spoken = Versions{1, 1}

// Options that next.go adds in builds for upgrade tests.
var (
	nextServer []grpc.ServerOption
	nextClient []grpc.DialOption
)

func (v Versions) String() string { return fmt.Sprintf("%d-%d", v.Oldest, v.Newest) }

// agree returns the newest version that both speak. ok is false if they share
// none.
func (v Versions) agree(other Versions) (version int, ok bool) {
	version = min(v.Newest, other.Newest)
	return version, version >= max(v.Oldest, other.Oldest)
}

// versionsOf returns the versions in the header of a call.
func versionsOf(ctx context.Context) Versions {
	v := Versions{1, 1}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if text := strings.Join(md.Get(versionHeader), ""); text != "" {
			if n, err := fmt.Sscanf(text, "%d-%d", &v.Oldest, &v.Newest); n != 2 || err != nil {
				return Versions{} // no program speaks version 0
			}
		}
	}
	return v
}

// refuse returns an error to a caller without a common version.
func (v Versions) refuse(ctx context.Context) error {
	theirs := versionsOf(ctx)
	if _, ok := v.agree(theirs); ok {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "this node speaks versions %v of the protocol between nodes, the caller %v: upgrade through a release that speaks both", v, theirs)
}

// server makes a server refuse callers without a common version.
func (v Versions) server() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := v.refuse(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := v.refuse(stream.Context()); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	}
}

// client makes a client send its versions.
func (v Versions) client() []grpc.DialOption {
	withVersions := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, versionHeader, v.String())
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(withVersions(ctx), method, req, reply, conn, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(withVersions(ctx), desc, conn, method, opts...)
		}),
	}
}
