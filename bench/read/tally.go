package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/node"
)

// The nodes of fanout and takeover have one aggregate, one row for each of
// them, and one query. All events of the aggregate are alike, and the row is about as
// long as an event.
type (
	counter struct{}
	add     struct {
		By int64 `json:"by"`
	}
	added struct {
		By int64 `json:"by"`
	}

	// tally is the row of a counter. N is the version of its newest event.
	tally struct {
		N    int64  `json:"n"`
		Name string `json:"name"`
	}
	talliesOf struct {
		Name string `json:"name"`
	}
)

func (c add) Decide(aggregate.Call, counter) (aggregate.Decision[counter], error) {
	return aggregate.Emit[counter](added(c))
}
func (added) Apply(*counter) {}

func defineTallies() (*aggregate.Catalog, error) {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[counter]{
		Name:     "counter",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[counter]{"add": add{}},
		Events:   aggregate.Events[counter]{"added": added{}},
	})
	tallies := projection.Define(c, projection.Table[tally]{
		Name:    "tallies",
		On:      projection.Handlers[tally]{projection.On(func(at projection.At, _ added, t *tally) { t.Name, t.N = at.ID, t.N+1 })},
		Indexes: [][]string{{"name", "n"}},
	})
	query.Define(c, query.Rows[talliesOf, tally]{
		Name: "tallies_of", Access: aggregate.Anyone, From: tallies,
		Where: func(_ query.Call, q talliesOf) query.Cond { return query.Is("name", q.Name) },
		Order: []string{"n"}, Limit: 10,
	})
	return c, c.Err()
}

// runNode runs a node until ctx ends. The one with the name gateway has no aggregates
// and no projections. join has gossip addresses of others, separated by commas; admin
// is the address for profiles. Either may be empty.
func runNode(ctx context.Context, name, store, gossip, join, admin string) error {
	c, err := defineTallies()
	if err != nil {
		return err
	}
	cfg := node.Config{
		Catalog: c, Name: name, Domain: name != "gateway", Gateway: true, Store: store,
		Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: gossip, AdminListen: admin,
		Ready:  func(url string) { fmt.Println("ganglion: ready", url) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	}
	if join != "" {
		cfg.Join = strings.Split(join, ",")
	}
	return node.Run(ctx, cfg)
}
