package cluster_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/ganglion-es/ganglion/router/cluster"
)

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	var nodes sync.WaitGroup
	defer nodes.Wait()
	defer cancel()

	start := func(id string, seeds ...string) *cluster.Cluster {
		c, err := cluster.New(cluster.Config{
			ID:       id,
			Cluster:  "example",
			BindAddr: "127.0.0.1", // on a free port
			Join:     seeds,
			Self:     cluster.Member{Domain: true, PeerAddr: ":9080"},
		})
		if err != nil {
			panic(err)
		}
		nodes.Go(func() { c.Run(ctx) })
		return c
	}
	n1 := start("n1")
	n2 := start("n2", n1.Addr())
	<-n2.Joined()
	n2.SetState(cluster.Ready)

	for view := range n1.Watch(ctx) {
		if m, _ := view.Member("n2"); m.State == cluster.Ready {
			fmt.Println("n1 sees", len(view.Members), "members; owners:", view.Owners())
			return
		}
	}
	// Output:
	// n1 sees 2 members; owners: [n2]
}
