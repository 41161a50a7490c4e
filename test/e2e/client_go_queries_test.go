package e2e

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

type (
	openAuctions struct {
		Budget int64 `json:"budget,omitzero"`
	}
	listing struct {
		Item  string `json:"item"`
		Price int64  `json:"price"`
		Open  bool   `json:"open"`
	}
)

// TestClientGoQueriesFollowAuctionsThroughKills keeps a live query of client/go
// open while each of three nodes is killed with kill -9 and restarted. After each
// command, a query with the command's position shows it, and the live query shows
// the same rows in the same order once it has reached the position.
func TestClientGoQueriesFollowAuctionsThroughKills(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c := startTrio(t, database(t))
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: c.urls(), ClientID: "ada", OnError: func(*ganglion.Error) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	query := ganglion.Query[openAuctions, listing]{Name: "open_auctions"}
	question := openAuctions{Budget: 5000}
	live := query.Follow(client, question)
	defer live.Close()

	check := func(r ganglion.Result, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var page ganglion.Page[listing]
		for { // a position that is not reached in time, since a node has just died, is final for one query
			if page, err = query.Run(ctx, client, question, ganglion.AtLeast(r.Position)); err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatal(err)
			}
		}
		if page.Position < r.Position {
			t.Fatalf("the rows show position %d, want at least %d", page.Position, r.Position)
		}
		for {
			now, err := live.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if now.Position >= r.Position {
				if !reflect.DeepEqual(now.Rows, page.Rows) {
					t.Fatalf("after position %d the live query shows\n%+v\nand the query\n%+v", r.Position, now.Rows, page.Rows)
				}
				return
			}
		}
	}
	auction := func(i int) *ganglion.Aggregate[listing, any] {
		return ganglion.Type[listing, any]{Name: "auction"}.Aggregate(client, fmt.Sprint(i))
	}
	price := func(i int) int { return 1000 + i*611%4000 }
	for round := range 3 {
		for i := 10 * round; i < 10*(round+1); i++ {
			check(auction(i).Send(ctx, "open", map[string]any{"item": "a lamp", "reserve": price(i), "closes_at": time.Now().Add(time.Hour)}))
		}
		c.members[round].Kill()
		bids, err := ganglion.Connect(ctx, ganglion.Options{URLs: c.urls(), ClientID: "bob", OnError: func(*ganglion.Error) {}})
		if err != nil {
			t.Fatal(err)
		}
		for i := 10 * round; i < 10*(round+1); i += 3 {
			a := ganglion.Type[listing, any]{Name: "auction"}.Aggregate(bids, fmt.Sprint(i))
			check(a.Send(ctx, "bid", map[string]any{"amount": price(i) + 1500})) // some leave the budget
		}
		bids.Close()
		check(auction(10*round+1).Send(ctx, "close", nil))
		c.start(round)
		c.settled()
	}
}
