//go:build ganglionnext

package link

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// With this build tag, upgrade tests build a stand-in for the next release. It
// speaks one more version, and its messages to peers have a field that this
// release does not know.
func init() { spoken.Newest++ }

const nextField = 15_000 // not used by any message

func withNextField(m any) any {
	message, ok := m.(proto.Message)
	if !ok {
		return m
	}
	message = proto.Clone(message) // heartbeats are shared
	r := message.ProtoReflect()
	r.SetUnknown(protowire.AppendString(protowire.AppendTag(r.GetUnknown(), nextField, protowire.BytesType), "from the next program"))
	return message
}

type nextServerStream struct{ grpc.ServerStream }

func (s nextServerStream) SendMsg(m any) error { return s.ServerStream.SendMsg(withNextField(m)) }

type nextClientStream struct{ grpc.ClientStream }

func (s nextClientStream) SendMsg(m any) error { return s.ClientStream.SendMsg(withNextField(m)) }

func init() {
	nextServer = []grpc.ServerOption{grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, nextServerStream{stream})
	})}
	nextClient = []grpc.DialOption{grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := open(ctx, desc, conn, method, opts...)
		return nextClientStream{stream}, err
	})}
}
