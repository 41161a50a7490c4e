package feed_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/transport"
)

// alone is the view of a single node.
func alone(ctx context.Context) <-chan *cluster.View {
	views := make(chan *cluster.View, 1)
	views <- &cluster.View{Members: []cluster.Member{{ID: "n1", Domain: true, State: cluster.Ready}}}
	context.AfterFunc(ctx, func() { close(views) })
	return views
}

// A single node delivers the commits of its own store. With peers, set Watch to
// the cluster's Watch and Open to the pool's Feed.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "feed")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	publisher := feed.NewPublisher(feed.PublisherConfig{})
	store, err := sqlite.Open(ctx, sqlite.Config{Dir: dir, Committed: publisher.Publish})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	delivered := make(chan struct{})
	subscriber, err := feed.NewSubscriber(feed.SubscriberConfig{
		Self:  "n1",
		Store: store,
		Begin: func(w eventstore.Position) { fmt.Println("from now on, after position", w) },
		Deliver: func(commits []eventstore.Commit) {
			for _, c := range commits {
				for i, e := range c.Events {
					fmt.Println(c.First()+eventstore.Position(i), c.Stream, e.Type, string(e.Data))
				}
			}
			close(delivered)
		},
		Push:  true,
		Local: publisher,
		Watch: alone,
		Open:  new(transport.Pool).Feed, // not used by a single node
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error)
	go func() { ended <- subscriber.Run(ctx) }()
	<-subscriber.Started()

	_, err = store.Append(ctx, eventstore.Unit{
		Stream: eventstore.StreamID{Type: "counter", ID: "42"},
		Commands: []eventstore.Command{{
			Key:    "0190d8a4-1",
			At:     time.Now(),
			Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":3}`)}},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-delivered
	cancel()
	fmt.Println("ended:", <-ended)
	// Output:
	// from now on, after position 0
	// 1 counter/42 added {"by":3}
	// ended: <nil>
}
