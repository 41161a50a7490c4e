package rival

import (
	"context"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"
)

// History of a channel: enough for what is missed in the benchmark.
const (
	historySize = 30_000
	historyTTL  = 10 * time.Minute
)

// Centrifuge serves the library as its own documentation shows it: in-memory
// broker, JSON, positioning and recovery on, history kept for every channel,
// 16 messages a frame at most. Six settings are not its defaults, all of them
// for its sake:
//
//   - A client's queue may hold 64 MiB instead of 1: a recovery is one frame,
//     and the library would close every client that missed 20,000 events.
//   - A write may take a minute instead of a second, as that frame does when a
//     thousand clients come back at once.
//   - A client may take minutes instead of 15 seconds until it has connected,
//     as it does behind those frames.
//   - Buffers for writing are pooled, which takes less memory for each client.
//   - Its pings, messages every 25 seconds, need no answer: a client that only
//     counts events does not see them among others.
//   - Positions are not compared with the history every 40 seconds: a client that
//     a publication is on its way to is taken for one that has lost it, and
//     unsubscribed. One in some thousand was, with 10,000 clients on a channel.
//
// It returns when the publisher has gone.
func Centrifuge() error {
	node, err := centrifuge.New(centrifuge.Config{
		ClientQueueMaxSize: 64 << 20, ClientStaleCloseDelay: 5 * time.Minute, ClientChannelPositionCheckDelay: -1,
	})
	if err != nil {
		return err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "reader"}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		client.OnSubscribe(func(_ centrifuge.SubscribeEvent, reply centrifuge.SubscribeCallback) {
			reply(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{EnableRecovery: true}}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return err
	}
	defer func() { _ = node.Shutdown(context.Background()) }()

	mux := http.NewServeMux()
	mux.Handle("/connection/websocket", centrifuge.NewWebsocketHandler(node, centrifuge.WebsocketConfig{
		UseWriteBufferPool: true,
		WriteTimeout:       time.Minute,
		PingPongConfig:     centrifuge.PingPongConfig{PongTimeout: -1},
	}))
	clients, publisher, err := listen()
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(clients, mux) }() // ends with the process
	return servePublish(publisher, func(channel string, data []byte) error {
		_, err := node.Publish(channel, data, centrifuge.WithHistory(historySize, historyTTL))
		return err
	})
}
