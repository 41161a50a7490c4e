package domain

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

// Bid is one client's highest bid in one auction.
type Bid struct {
	Auction string    `json:"auction"`
	Bidder  string    `json:"bidder"`
	Amount  int64     `json:"amount"`
	At      time.Time `json:"at"`
}

// Bids has the highest bid of each client in each auction, by auction and
// client.
var Bids = projection.Define(&Catalog, projection.Table[Bid]{
	Name: "bids",
	Doc:  "The highest bid of each client in each auction.",
	On: projection.Handlers[Bid]{
		projection.OnKey(
			func(at projection.At, e BidPlaced) string { return at.ID + "/" + e.Bidder },
			func(at projection.At, e BidPlaced, b *Bid) {
				*b = Bid{Auction: at.ID, Bidder: e.Bidder, Amount: e.Amount, At: at.Time}
			}),
	},
	Indexes: [][]string{{"bidder", "at"}},
	Scenarios: projection.Scenarios{
		"each bidder has one row": projection.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			And("auction/42", BidPlaced{Bidder: "eve", Amount: 1600}, BidPlaced{Bidder: "bob", Amount: 1700}).At(noon).
			Shows("42/eve", `{"auction": "42", "bidder": "eve", "amount": 1600, "at": "2026-05-01T12:00:00Z"}`).
			Shows("42/bob", `{"auction": "42", "bidder": "bob", "amount": 1700, "at": "2026-05-01T12:00:01Z"}`),
	},
})

// BidsOf asks for a client's bids, the newest first. Only the client itself gets
// an answer that is not empty.
type BidsOf struct {
	Bidder string `json:"bidder"`
}

var _ = query.Define(&Catalog, query.Rows[BidsOf, Bid]{
	Name:   "bids_of",
	Doc:    "A client's own bids, the newest first.",
	Access: aggregate.Authenticated,
	From:   Bids,
	Where: func(c query.Call, q BidsOf) query.Cond {
		return query.All(query.Is("bidder", q.Bidder), query.Is("bidder", c.Client))
	},
	Order: []string{"-at"},
	Scenarios: query.Scenarios[BidsOf]{
		"a client's own bids, the newest first": query.
			Ask(BidsOf{Bidder: "bob"}, query.Among(Bid{Bidder: "bob", At: noon}, Bid{Bidder: "eve"}, Bid{Bidder: "bob", At: noon.Add(time.Hour)})).
			By("bob").Answers("3", "1"),
		"the bids of others are not shown": query.
			Ask(BidsOf{Bidder: "bob"}, query.Among(Bid{Bidder: "bob"})).
			By("eve").Answers(),
		"an anonymous client has no bids": query.
			Ask(BidsOf{Bidder: "bob"}, query.Among(Bid{Bidder: "bob"})).
			Forbid(),
	},
})
