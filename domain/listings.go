package domain

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

// Listing is one auction as buyers look for it.
type Listing struct {
	Item     string    `json:"item"`
	Price    int64     `json:"price"` // the reserve, then the top bid
	ClosesAt time.Time `json:"closes_at"`
	Open     bool      `json:"open"`
}

// Listings has every auction that was opened, by its id.
var Listings = projection.Define(&Catalog, projection.Table[Listing]{
	Name: "listings",
	Doc:  "Auctions as buyers look for them.",
	On: projection.Handlers[Listing]{
		projection.On(func(_ projection.At, e AuctionOpened, l *Listing) {
			*l = Listing{Item: e.Item, Price: e.Reserve, ClosesAt: e.ClosesAt, Open: true}
		}),
		projection.On(func(_ projection.At, e BidPlaced, l *Listing) { l.Price = e.Amount }),
		projection.On(func(_ projection.At, _ AuctionClosed, l *Listing) { l.Open = false }),
	},
	Indexes: [][]string{{"open", "price"}},
	Scenarios: projection.Scenarios{
		"an opened auction is listed at its reserve": projection.
			Given("auction/42", lamp).
			Shows("42", `{"item": "lamp", "price": 1000, "closes_at": "2026-05-01T12:00:00Z", "open": true}`),
		"a bid is the new price": projection.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			Shows("42", `{"item": "lamp", "price": 1500, "closes_at": "2026-05-01T12:00:00Z", "open": true}`),
		"a closed auction is no longer open": projection.
			Given("auction/42", lamp, AuctionClosed{}).
			Shows("42", `{"item": "lamp", "price": 1000, "closes_at": "2026-05-01T12:00:00Z", "open": false}`).
			Lacks("43"),
	},
})

// OpenAuctions asks what can be bid on, the cheapest first.
type OpenAuctions struct {
	Budget int64 `json:"budget,omitzero"` // 0: any price
}

var _ = query.Define(&Catalog, query.Rows[OpenAuctions, Listing]{
	Name:   "open_auctions",
	Doc:    "The auctions that can be bid on, the cheapest first.",
	Access: aggregate.Anyone,
	From:   Listings,
	Where: func(_ query.Call, q OpenAuctions) query.Cond {
		return query.All(query.Is("open", true), query.AtMost("price", q.Budget).If(q.Budget > 0))
	},
	Order: []string{"price"},
	Scenarios: query.Scenarios[OpenAuctions]{
		"within the budget": query.
			Ask(OpenAuctions{Budget: 1000}, query.Among(Listing{Price: 1000, Open: true}, Listing{Price: 1001, Open: true})).
			Answers("1"),
		"the cheapest first": query.
			Ask(OpenAuctions{}, query.Among(Listing{Price: 30, Open: true}, Listing{Price: 20, Open: true}, Listing{Price: 10})).
			Answers("2", "1"),
	},
})
