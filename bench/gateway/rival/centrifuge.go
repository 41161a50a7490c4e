package rival

import (
	"context"
	"net/http"
	"time"

	"github.com/centrifugal/centrifuge"
)

// History of a channel: enough for the missed events of the benchmark.
const (
	historySize = 30_000
	historyTTL  = 10 * time.Minute
)

// Centrifuge serves with the library as its documentation shows it: in-memory
// broker, JSON, positioning and recovery, history for every channel, at most 16
// messages per frame. Six settings differ from its defaults, each in its favour:
//
//   - The queue of a client can hold 64 MiB instead of 1 MiB. A recovery is one
//     frame, so with 1 MiB the library would close clients that missed 20,000
//     events.
//   - A write may take a minute instead of a second, which that frame needs if
//     1,000 clients reconnect together.
//   - A client may take 5 minutes instead of 15 s to connect, since it waits for
//     those frames.
//   - Write buffers are pooled, which needs less memory per client.
//   - Its pings, messages every 25 s, need no pong: a client that only counts
//     events does not recognise them.
//   - It does not compare positions with the history every 40 s: with 10,000
//     clients on a channel, it unsubscribed about one client in several thousand,
//     because it mistook a publication in transit for a lost one.
//
// It returns when the publisher disconnects.
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
	go func() { _ = http.Serve(clients, mux) }() // until the process ends
	return servePublish(publisher, func(channel string, data []byte) error {
		_, err := node.Publish(channel, data, centrifuge.WithHistory(historySize, historyTTL))
		return err
	})
}
