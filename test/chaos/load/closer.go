package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/check"
)

const (
	// closeEvery is the mean pause of a closer between two auctions, which stay open for
	// shortest to longest.
	closeEvery        = 600 * time.Millisecond
	shortest, longest = 500 * time.Millisecond, 12 * time.Second
)

// closer opens auctions that end during the run, most by themselves. Each has one
// bidder. Some are closed by their seller, at about their closing time or before.
type closer struct {
	load           *Load
	random         *rand.Rand
	seller, bidder *client
}

func (c *closer) run(running, all context.Context) {
	defer c.seller.close()
	defer c.bidder.close()
	for n := 0; running.Err() == nil; n++ {
		c.auction(all, fmt.Sprintf("auction/%s-ends-%d", c.load.pool.prefix, n))
		pause(running, closeEvery/2+rand.N(closeEvery))
	}
}

func (c *closer) auction(ctx context.Context, stream string) {
	lane := 0
	send := func(by *client, name string, amount int64, closes time.Time) {
		lane++
		cmd := &check.Command{Client: by.id, Stream: stream, Key: c.load.key(), Name: name, Amount: amount, ClosesAt: closes, Lane: lane}
		errors := by.send(ctx, []*check.Command{cmd})
		c.load.record([]check.Command{*cmd}, errors...)
	}
	open := shortest + time.Duration(c.random.Int64N(int64(longest-shortest)))
	closes := time.Now().Add(open).Truncate(time.Microsecond)
	send(c.seller, "open", 1, closes)
	for amount := range c.random.IntN(4) {
		send(c.bidder, "bid", int64(amount+1), time.Time{})
	}
	if c.random.IntN(4) == 0 {
		pause(ctx, min(time.Second, time.Until(closes)-time.Duration(c.random.IntN(20))*time.Millisecond))
		send(c.seller, "close", 0, time.Time{})
	}
}
