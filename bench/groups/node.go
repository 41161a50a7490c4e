package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/node"
)

// lot is the aggregate whose events the groups read. The backlogs of deliver are written
// to the log itself, so nothing decides.
type (
	lot   struct{}
	offer bid
)

func (o offer) Decide(aggregate.Call, lot) (aggregate.Decision[lot], error) {
	return aggregate.Emit[lot](bid(o))
}
func (bid) Apply(*lot) {}

// groupName returns the name of the nth group. That of deliver is the first.
func groupName(n int) string { return fmt.Sprintf("readers-%d", n) }

// define returns a catalog with a number of groups, each of which reads all events.
func define(groups int) (*aggregate.Catalog, error) {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[lot]{
		Name:     "lot",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lot]{"offer": offer{}},
		Events:   aggregate.Events[lot]{"bid": bid{}},
	})
	for n := range groups {
		group.Define(c, group.Group{Name: groupName(n), Reads: group.Reads{"lot"}, Segments: partitions, Access: aggregate.Anyone})
	}
	return c, c.Err()
}

// runNode runs a node with all roles and a number of groups until ctx ends.
func runNode(ctx context.Context, store, groups string) error {
	n, err := strconv.Atoi(groups)
	if err != nil {
		return err
	}
	c, err := define(n)
	if err != nil {
		return err
	}
	return node.Run(ctx, node.Config{
		Catalog: c, Name: "node", Store: store,
		Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
		Ready:  func(url string) { fmt.Println(roleReady + url) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
}
