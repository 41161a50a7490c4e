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

// versionHeader says, on each call, which versions of what nodes say to each
// other the caller speaks, as "1-2". Without it, it is version 1.
const versionHeader = "ganglion-link"

// Versions are those that a program speaks, from the oldest to the newest.
//
// A member that is added to a message needs no version: who does not know it
// ignores it. A new version is for what must not be ignored. The program that
// brings it still speaks the one before, so that nodes of both run side by
// side; a later one may stop to.
type Versions struct{ Oldest, Newest int }

// spoken are this program's.
var spoken = Versions{1, 1}

// What a build for tests of upgrades adds, see next.go.
var (
	nextServer []grpc.ServerOption
	nextClient []grpc.DialOption
)

func (v Versions) String() string { return fmt.Sprintf("%d-%d", v.Oldest, v.Newest) }

// agree returns the newest version that both speak. ok is false if there is
// none.
func (v Versions) agree(other Versions) (version int, ok bool) {
	version = min(v.Newest, other.Newest)
	return version, version >= max(v.Oldest, other.Oldest)
}

// versionsOf reads the header of a call.
func versionsOf(ctx context.Context) Versions {
	v := Versions{1, 1}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if text := strings.Join(md.Get(versionHeader), ""); text != "" {
			if n, err := fmt.Sscanf(text, "%d-%d", &v.Oldest, &v.Newest); n != 2 || err != nil {
				return Versions{} // no version is 0: there is nothing to agree on
			}
		}
	}
	return v
}

// refuse answers a caller with whom there is no common version.
func (v Versions) refuse(ctx context.Context) error {
	theirs := versionsOf(ctx)
	if _, ok := v.agree(theirs); ok {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "this node speaks the versions %v of links, the caller %v: upgrade through a release that speaks both", v, theirs)
}

// server makes a server refuse such callers.
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

// client makes callers say what they speak.
func (v Versions) client() []grpc.DialOption {
	say := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, versionHeader, v.String())
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(say(ctx), method, req, reply, conn, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(say(ctx), desc, conn, method, opts...)
		}),
	}
}
