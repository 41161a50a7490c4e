package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/node"
)

// The origin is the node from which the measured gateway receives its events. Its
// counters have a command that emits several events. With one event per commit,
// the log, the origin and the clients, which share half of the machine, could not
// saturate a gateway. The gateway itself is the released binary, which treats all
// events alike.

type counter struct {
	Value int64 `json:"value"`
}

type add struct {
	By int64 `json:"by"`
}

// burst adds 1 N times.
type burst struct {
	N int `json:"n"`
}

type added struct {
	By int64 `json:"by"`
}

func (c add) Decide(aggregate.Call, counter) (aggregate.Decision[counter], error) {
	return aggregate.Emit(added(c))
}

func (c burst) Decide(aggregate.Call, counter) (aggregate.Decision[counter], error) {
	events := make([]aggregate.Event[counter], c.N)
	for i := range events {
		events[i] = added{By: 1}
	}
	return aggregate.Emit(events...)
}

func (e added) Apply(s *counter) { s.Value += e.By }

// runOrigin runs the node until ctx ends.
func runOrigin(ctx context.Context, store, gossip string) error {
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[counter]{
		Name:     "counter",
		Access:   aggregate.Access{Send: aggregate.Authenticated, Read: aggregate.Authenticated},
		Commands: aggregate.Commands[counter]{"add": add{}, "burst": burst{}},
		Events:   aggregate.Events[counter]{"added": added{}},
	})
	return node.Run(ctx, node.Config{
		Catalog: &catalog, Name: "origin", Store: store,
		Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: gossip,
		Ready:  func(url string) { fmt.Println("ganglion: ready", url) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
}
