package domain

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Auction sells one item to the highest bidder. Its seller opens it, anybody
// else bids until it closes, and the seller settles it by closing it. All
// amounts are integers in cents.
type Auction struct {
	Item     string    `json:"item"`
	Seller   string    `json:"seller"` // empty until it is opened
	Reserve  int64     `json:"reserve"`
	ClosesAt time.Time `json:"closes_at,omitzero"`
	Top      *TopBid   `json:"top"` // none before a bid
	Bids     int       `json:"bids"`
	Closed   bool      `json:"closed"`
}

// TopBid is the highest bid so far.
type TopBid struct {
	Bidder string `json:"bidder"`
	Amount int64  `json:"amount"`
}

// OpenAuction puts an item up for sale, with the sender as its seller. Bids
// below the reserve are not taken, and none once the time to close has come,
// which may be at once.
type OpenAuction struct {
	Item     string    `json:"item"`
	Reserve  int64     `json:"reserve"`
	ClosesAt time.Time `json:"closes_at"`
}

// PlaceBid offers an amount for the item.
type PlaceBid struct {
	Amount int64 `json:"amount"`
}

// CloseAuction ends the bidding, or settles an auction whose time is over.
type CloseAuction struct{}

// AuctionOpened records that an item is for sale.
type AuctionOpened struct {
	Item     string    `json:"item"`
	Seller   string    `json:"seller"`
	Reserve  int64     `json:"reserve"`
	ClosesAt time.Time `json:"closes_at"`
}

// BidPlaced records a bid above all before it.
type BidPlaced struct {
	Bidder string `json:"bidder"`
	Amount int64  `json:"amount"`
}

// AuctionClosed records who bought the item, and for how much; without a bid
// the winner is empty and the amount 0.
type AuctionClosed struct {
	Winner string `json:"winner"`
	Amount int64  `json:"amount"`
}

var (
	// ErrAlreadyOpen rejects opening an auction twice, also after it closed.
	ErrAlreadyOpen = aggregate.Reject("already_open", "this auction has been opened before")
	// ErrNotOpen rejects a bid on, or the end of, what never began.
	ErrNotOpen = aggregate.Reject("not_open", "this auction has not been opened")
	// ErrClosed rejects what comes too late.
	ErrClosed = aggregate.Reject("closed", "this auction is over")
	// ErrNotSeller rejects that somebody else than the seller ends it.
	ErrNotSeller = aggregate.Reject("not_seller", "only its seller may close this auction")
	// ErrOwnAuction rejects a seller's bid.
	ErrOwnAuction = aggregate.Reject("own_auction", "sellers may not bid in their own auctions")

	// ErrTooLow rejects a bid below the reserve, or not above the top bid.
	ErrTooLow = aggregate.Reject("too_low", "a bid is at least the reserve and more than the top bid")
	// ErrTooHigh rejects a bid that not every client could read exactly.
	ErrTooHigh = aggregate.Reject("too_high", "an amount is at most 2^53 cents")

	// ErrInvalidItem and ErrInvalidReserve reject an auction that makes no
	// sense.
	ErrInvalidItem    = aggregate.Reject("invalid_item", "an item has 1 byte to 4 KiB")
	ErrInvalidReserve = aggregate.Reject("invalid_reserve", "a reserve is from 1 to 2^53 cents")
)

// The rules ask in one order everywhere: is there an auction, may this client
// do this at all, is it the time, and only then, is it a good offer. So who
// may never bid is not told to bid more.

func (c OpenAuction) Decide(call aggregate.Call, s Auction) (aggregate.Decision[Auction], error) {
	switch {
	case s.Seller != "":
		return nil, ErrAlreadyOpen
	case len(c.Item) < 1 || len(c.Item) > longest:
		return nil, ErrInvalidItem
	case c.Reserve < 1 || c.Reserve > exact:
		return nil, ErrInvalidReserve
	}
	return aggregate.Emit(AuctionOpened{
		Item:     c.Item,
		Seller:   call.Client,
		Reserve:  c.Reserve,
		ClosesAt: c.ClosesAt.UTC(),
	})
}

func (c PlaceBid) Decide(call aggregate.Call, s Auction) (aggregate.Decision[Auction], error) {
	switch {
	case s.Seller == "":
		return nil, ErrNotOpen
	case s.Seller == call.Client:
		return nil, ErrOwnAuction
	case s.Closed || !call.Time.Before(s.ClosesAt):
		return nil, ErrClosed
	case c.Amount < s.Reserve:
		return nil, ErrTooLow.Because("a bid is at least the reserve, %d cents", s.Reserve)
	case s.Top != nil && c.Amount <= s.Top.Amount:
		return nil, ErrTooLow.Because("a bid is more than the top bid, %d cents", s.Top.Amount)
	case c.Amount > exact:
		return nil, ErrTooHigh
	}
	return aggregate.Emit(BidPlaced{Bidder: call.Client, Amount: c.Amount})
}

// Decide grants the end also after ClosesAt: that is when an auction that ran
// its time gets its winner.
func (c CloseAuction) Decide(call aggregate.Call, s Auction) (aggregate.Decision[Auction], error) {
	switch {
	case s.Seller == "":
		return nil, ErrNotOpen
	case s.Seller != call.Client:
		return nil, ErrNotSeller
	case s.Closed:
		return nil, ErrClosed
	case s.Top == nil:
		return aggregate.Emit(AuctionClosed{})
	}
	return aggregate.Emit(AuctionClosed{Winner: s.Top.Bidder, Amount: s.Top.Amount})
}

func (e AuctionOpened) Apply(s *Auction) {
	s.Item, s.Seller, s.Reserve, s.ClosesAt = e.Item, e.Seller, e.Reserve, e.ClosesAt
}

func (e BidPlaced) Apply(s *Auction) {
	s.Top = &TopBid{Bidder: e.Bidder, Amount: e.Amount}
	s.Bids++
}

func (e AuctionClosed) Apply(s *Auction) { s.Closed = true }

// A lamp of Ada's, for sale until noon: what most scenarios begin with.
var (
	noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	lamp = AuctionOpened{Item: "lamp", Seller: "ada", Reserve: 1000, ClosesAt: noon}
)

var _ = aggregate.Define(&Catalog, aggregate.Type[Auction]{
	Name: "auction",
	Doc:  "One item, sold to the highest bidder.",
	Access: aggregate.Access{
		Send: aggregate.Authenticated,
		Read: aggregate.Anyone,
	},
	Commands: aggregate.Commands[Auction]{
		"open":  OpenAuction{},
		"bid":   PlaceBid{},
		"close": CloseAuction{},
	},
	Events: aggregate.Events[Auction]{
		"opened":     AuctionOpened{},
		"bid_placed": BidPlaced{},
		"closed":     AuctionClosed{},
	},
	ShowsCaller: true,
	Scenarios: aggregate.Scenarios[Auction]{
		"who opens an auction is its seller": aggregate.
			When(OpenAuction{Item: "lamp", Reserve: 1000, ClosesAt: noon}).By("ada").
			Then(lamp).
			Shows(`{"item": "lamp", "seller": "ada", "reserve": 1000, "closes_at": "2026-05-01T12:00:00Z",
				"top": null, "bids": 0, "closed": false}`),
		"an auction needs a seller": aggregate.
			When(OpenAuction{Item: "lamp", Reserve: 1000, ClosesAt: noon}).By("").
			Forbid(),
		"an auction opens once": aggregate.
			Given(lamp).
			When(OpenAuction{Item: "lamp", Reserve: 2000, ClosesAt: noon}).By("ada").
			Reject(ErrAlreadyOpen),
		"and not again once closed": aggregate.
			Given(lamp, AuctionClosed{}).
			When(OpenAuction{Item: "lamp", Reserve: 2000, ClosesAt: noon}).By("bob").
			Reject(ErrAlreadyOpen),
		"an auction is of something": aggregate.
			When(OpenAuction{Item: "", Reserve: 1000, ClosesAt: noon}).By("ada").
			Reject(ErrInvalidItem),
		"nothing is sold for nothing": aggregate.
			When(OpenAuction{Item: "lamp", Reserve: 0, ClosesAt: noon}).By("ada").
			Reject(ErrInvalidReserve),
		"its time may be over when it opens": aggregate.
			When(OpenAuction{Item: "lamp", Reserve: 1000, ClosesAt: noon}).By("ada").At(noon).
			Then(lamp),

		"a bid of the reserve is taken": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1000}).By("bob").
			Then(BidPlaced{Bidder: "bob", Amount: 1000}).
			Shows(`{"item": "lamp", "seller": "ada", "reserve": 1000, "closes_at": "2026-05-01T12:00:00Z",
				"top": {"bidder": "bob", "amount": 1000}, "bids": 1, "closed": false}`),
		"a bid below it is not": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 999}).By("bob").
			Reject(ErrTooLow),
		"a bid tops the one before": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(PlaceBid{Amount: 1501}).By("eve").
			Then(BidPlaced{Bidder: "eve", Amount: 1501}),
		"or is too low": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(PlaceBid{Amount: 1500}).By("eve").
			Reject(ErrTooLow),
		"a bid is a number that everybody can read": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: exact + 1}).By("bob").
			Reject(ErrTooHigh),
		"sellers don't bid": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1500}).By("ada").
			Reject(ErrOwnAuction),
		"nobody bids before the opening": aggregate.
			When(PlaceBid{Amount: 1500}).By("bob").
			Reject(ErrNotOpen),
		"the last moment is early enough": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1500}).By("bob").At(noon.Add(-time.Microsecond)).
			Then(BidPlaced{Bidder: "bob", Amount: 1500}),
		"the closing time is too late": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1500}).By("bob").At(noon).
			Reject(ErrClosed),
		"and so is any time after the end": aggregate.
			Given(lamp, AuctionClosed{}).
			When(PlaceBid{Amount: 1500}).By("bob").
			Reject(ErrClosed),

		"the top bidder wins": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(CloseAuction{}).By("ada").
			Then(AuctionClosed{Winner: "bob", Amount: 1500}).
			Shows(`{"item": "lamp", "seller": "ada", "reserve": 1000, "closes_at": "2026-05-01T12:00:00Z",
				"top": {"bidder": "bob", "amount": 1500}, "bids": 1, "closed": true}`),
		"also when the time was over": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(CloseAuction{}).By("ada").At(noon.Add(time.Hour)).
			Then(AuctionClosed{Winner: "bob", Amount: 1500}),
		"without a bid nobody wins": aggregate.
			Given(lamp).
			When(CloseAuction{}).By("ada").
			Then(AuctionClosed{Winner: "", Amount: 0}),
		"only the seller closes": aggregate.
			Given(lamp).
			When(CloseAuction{}).By("bob").
			Reject(ErrNotSeller),
		"an auction closes once": aggregate.
			Given(lamp, AuctionClosed{}).
			When(CloseAuction{}).By("ada").
			Reject(ErrClosed),
		"what is not open can't be closed": aggregate.
			When(CloseAuction{}).By("ada").
			Reject(ErrNotOpen),
	},
})
