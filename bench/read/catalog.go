package main

import (
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

// lot is the aggregate whose events the projections read. The benchmark writes
// them to the log itself, so nothing decides.
type (
	lot  struct{}
	list struct{}

	// listed and bid are the events: the first of each lot, and all others.
	listed struct {
		Title    string    `json:"title"`
		Reserve  int64     `json:"reserve"`
		ClosesAt time.Time `json:"closes_at"`
	}
	bid struct {
		Bidder string `json:"bidder"`
		Amount int64  `json:"amount"`
	}

	// listing is the row of a lot: what a page that lists lots shows.
	listing struct {
		Title    string    `json:"title"`
		Price    int64     `json:"price"`
		Bids     int64     `json:"bids"`
		Bidder   string    `json:"bidder,omitempty"`
		Open     bool      `json:"open"`
		ClosesAt time.Time `json:"closes_at"`
	}
)

func (list) Decide(aggregate.Call, lot) (aggregate.Decision[lot], error) {
	return aggregate.Emit[lot](listed{})
}
func (listed) Apply(*lot) {}
func (bid) Apply(*lot)    {}

func (l *listing) list(e listed) {
	*l = listing{Title: e.Title, Price: e.Reserve, Open: true, ClosesAt: e.ClosesAt}
}

func (l *listing) bid(e bid) { l.Price, l.Bidder, l.Bids = e.Amount, e.Bidder, l.Bids+1 }

func defineLot(c *aggregate.Catalog) {
	aggregate.Define(c, aggregate.Type[lot]{
		Name:     "lot",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lot]{"list": list{}},
		Events:   aggregate.Events[lot]{"listed": listed{}, "bid": bid{}},
	})
}

// define returns a catalog with the same projection under each of the names.
// Another revision makes another build.
func define(revision int, names ...string) (*aggregate.Catalog, error) {
	c := new(aggregate.Catalog)
	defineLot(c)
	for _, name := range names {
		projection.Define(c, projection.Table[listing]{
			Name:     name,
			Revision: revision,
			On: projection.Handlers[listing]{
				projection.On(func(_ projection.At, e listed, l *listing) { l.list(e) }),
				projection.On(func(_ projection.At, e bid, l *listing) { l.bid(e) }),
			},
			Indexes: [][]string{{"open", "price"}},
		})
	}
	return c, c.Err()
}

// offer is a row of the experiments with live queries: a lot of a group.
type offer struct {
	Group int64 `json:"group"`
	Price int64 `json:"price"`
	Bids  int64 `json:"bids"`
}

// offersOfGroup asks for the lots of a group, the cheapest first.
type offersOfGroup struct {
	Group int64 `json:"group"`
}

// defineOffers returns a catalog with the projection offers and the query
// offers_of.
func defineOffers() (*aggregate.Catalog, error) {
	c := new(aggregate.Catalog)
	defineLot(c)
	group := func(at projection.At) (n int64) {
		_, _ = fmt.Sscanf(at.ID, "g%d-", &n) // other lots are of group 0
		return n
	}
	offers := projection.Define(c, projection.Table[offer]{
		Name: "offers",
		On: projection.Handlers[offer]{
			projection.On(func(at projection.At, e listed, o *offer) { *o = offer{Group: group(at), Price: e.Reserve} }),
			projection.On(func(_ projection.At, e bid, o *offer) { o.Price, o.Bids = e.Amount, o.Bids+1 }),
		},
		Indexes: [][]string{{"group", "price"}},
	})
	query.Define(c, query.Rows[offersOfGroup, offer]{
		Name: "offers_of", Access: aggregate.Anyone, From: offers,
		Where: func(_ query.Call, q offersOfGroup) query.Cond { return query.Is("group", q.Group) },
		Order: []string{"price"}, Limit: 1000,
	})
	return c, c.Err()
}
