package domain

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Auction sells one item to the highest bidder. The seller opens it, and other
// clients bid until its closing time, at which it ends by itself; the seller may close
// it before. All amounts are integers in cents.
type Auction struct {
	Item     string    `json:"item"`
	Seller   string    `json:"seller"` // empty before it is opened
	Reserve  int64     `json:"reserve"`
	ClosesAt time.Time `json:"closes_at,omitzero"`
	Top      *TopBid   `json:"top"` // null before the first bid
	Bids     int       `json:"bids"`
	Closed   bool      `json:"closed"`
}

// TopBid is the highest bid so far.
type TopBid struct {
	Bidder string `json:"bidder"`
	Amount int64  `json:"amount"`
}

// OpenAuction puts an item up for sale. The sender becomes its seller. Bids below
// the reserve are rejected, and so are bids from the closing time on. The closing
// time may be in the past; the auction then ends immediately.
type OpenAuction struct {
	Item     string    `json:"item"`
	Reserve  int64     `json:"reserve"`
	ClosesAt time.Time `json:"closes_at"`
}

// PlaceBid offers an amount for the item.
type PlaceBid struct {
	Amount int64 `json:"amount"`
}

// CloseAuction ends the auction and names the winner, before its closing time or in
// the moment after it.
type CloseAuction struct{}

// EndAuction ends the auction at its closing time and names the winner. No client can
// send it.
type EndAuction struct{}

// AuctionOpened records that an item is for sale.
type AuctionOpened struct {
	Item     string    `json:"item"`
	Seller   string    `json:"seller"`
	Reserve  int64     `json:"reserve"`
	ClosesAt time.Time `json:"closes_at"`
}

// BidPlaced records a bid that is higher than all earlier bids.
type BidPlaced struct {
	Bidder string `json:"bidder"`
	Amount int64  `json:"amount"`
}

// AuctionClosed records who bought the item and for how much. Without a bid the
// winner is empty and the amount 0.
type AuctionClosed struct {
	Winner string `json:"winner"`
	Amount int64  `json:"amount"`
}

var (
	// ErrAlreadyOpen rejects opening an auction again, even after it has closed.
	ErrAlreadyOpen = aggregate.Reject("already_open", "this auction has been opened before")
	// ErrNotOpen rejects a bid on an auction that was never opened, and closing it.
	ErrNotOpen = aggregate.Reject("not_open", "this auction has not been opened")
	// ErrClosed rejects a bid after the closing time, and closing twice.
	ErrClosed = aggregate.Reject("closed", "this auction is over")
	// ErrNotSeller rejects closing by a client that is not the seller.
	ErrNotSeller = aggregate.Reject("not_seller", "only its seller may close this auction")
	// ErrOwnAuction rejects a seller's bid.
	ErrOwnAuction = aggregate.Reject("own_auction", "sellers may not bid in their own auctions")

	// ErrTooLow rejects a bid below the reserve, or not above the top bid.
	ErrTooLow = aggregate.Reject("too_low", "a bid is at least the reserve and more than the top bid")
	// ErrTooHigh rejects a bid that some clients could not read exactly.
	ErrTooHigh = aggregate.Reject("too_high", "an amount is at most 2^53 cents")

	// ErrInvalidItem and ErrInvalidReserve reject an auction without a valid
	// item or reserve.
	ErrInvalidItem    = aggregate.Reject("invalid_item", "an item has 1 byte to 4 KiB")
	ErrInvalidReserve = aggregate.Reject("invalid_reserve", "a reserve is from 1 to 2^53 cents")
)

// Each Decide checks in the same order: whether the auction exists, whether this
// client may do this, whether it is in time, and then the amount. So a client that
// may never bid is not told to bid more.

func (c OpenAuction) Decide(call aggregate.Call, s Auction) (aggregate.Decision[Auction], error) {
	switch {
	case s.Seller != "":
		return nil, ErrAlreadyOpen
	case len(c.Item) < 1 || len(c.Item) > maxText:
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

// Decide also allows closing after ClosesAt, when an auction that ran its full time
// gets its winner.
func (c CloseAuction) Decide(call aggregate.Call, s Auction) (aggregate.Decision[Auction], error) {
	switch {
	case s.Seller == "":
		return nil, ErrNotOpen
	case s.Seller != call.Client:
		return nil, ErrNotSeller
	case s.Closed:
		return nil, ErrClosed
	}
	return aggregate.Emit(s.settled())
}

// Decide does nothing for an auction that is over, or whose closing time is later.
func (EndAuction) Decide(call aggregate.Call, s Auction) (aggregate.Decision[Auction], error) {
	if s.Seller == "" || s.Closed || call.Time.Before(s.ClosesAt) {
		return aggregate.Emit[Auction]()
	}
	return aggregate.Emit(s.settled())
}

// settled is how the auction ends: the top bidder wins.
func (s Auction) settled() aggregate.Event[Auction] {
	if s.Top == nil {
		return AuctionClosed{}
	}
	return AuctionClosed{Winner: s.Top.Bidder, Amount: s.Top.Amount}
}

func (e AuctionOpened) Apply(s *Auction) {
	s.Item, s.Seller, s.Reserve, s.ClosesAt = e.Item, e.Seller, e.Reserve, e.ClosesAt
}

func (e BidPlaced) Apply(s *Auction) {
	s.Top = &TopBid{Bidder: e.Bidder, Amount: e.Amount}
	s.Bids++
}

func (e AuctionClosed) Apply(s *Auction) { s.Closed = true }

// Most scenarios begin with a lamp that Ada sells until noon.
var (
	noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	lamp = AuctionOpened{Item: "lamp", Seller: "ada", Reserve: 1000, ClosesAt: noon}
)

var _ = aggregate.Define(&Catalog, aggregate.Type[Auction]{
	Name: "auction",
	Doc:  "An auction sells one item to the highest bidder.",
	Access: aggregate.Access{
		Send: aggregate.Authenticated,
		Read: aggregate.Anyone,

		Commands: map[string]aggregate.Rule{"end": aggregate.System},
	},
	Commands: aggregate.Commands[Auction]{
		"open":  OpenAuction{},
		"bid":   PlaceBid{},
		"close": CloseAuction{},
		"end":   EndAuction{},
	},
	Wake: func(s Auction) (time.Time, aggregate.Command[Auction]) {
		if s.Seller == "" || s.Closed {
			return time.Time{}, nil
		}
		return s.ClosesAt, EndAuction{}
	},
	Events: aggregate.Events[Auction]{
		"opened":     AuctionOpened{},
		"bid_placed": BidPlaced{},
		"closed":     AuctionClosed{},
	},
	Rejections: aggregate.Rejections{
		ErrAlreadyOpen, ErrNotOpen, ErrClosed, ErrNotSeller, ErrOwnAuction, ErrTooLow, ErrTooHigh, ErrInvalidItem, ErrInvalidReserve,
	},
	ShowsCaller: true,
	Scenarios: aggregate.Scenarios[Auction]{
		"the client that opens an auction is its seller": aggregate.
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
		"a closed auction does not open again": aggregate.
			Given(lamp, AuctionClosed{}).
			When(OpenAuction{Item: "lamp", Reserve: 2000, ClosesAt: noon}).By("bob").
			Reject(ErrAlreadyOpen),
		"an auction needs an item": aggregate.
			When(OpenAuction{Item: "", Reserve: 1000, ClosesAt: noon}).By("ada").
			Reject(ErrInvalidItem),
		"a reserve is at least 1 cent": aggregate.
			When(OpenAuction{Item: "lamp", Reserve: 0, ClosesAt: noon}).By("ada").
			Reject(ErrInvalidReserve),
		"the closing time may be in the past": aggregate.
			When(OpenAuction{Item: "lamp", Reserve: 1000, ClosesAt: noon}).By("ada").At(noon).
			Then(lamp),

		"a bid may equal the reserve": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1000}).By("bob").
			Then(BidPlaced{Bidder: "bob", Amount: 1000}).
			Shows(`{"item": "lamp", "seller": "ada", "reserve": 1000, "closes_at": "2026-05-01T12:00:00Z",
				"top": {"bidder": "bob", "amount": 1000}, "bids": 1, "closed": false}`),
		"a bid below the reserve is rejected": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 999}).By("bob").
			Reject(ErrTooLow),
		"a bid must exceed the top bid": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(PlaceBid{Amount: 1501}).By("eve").
			Then(BidPlaced{Bidder: "eve", Amount: 1501}),
		"a bid equal to the top bid is rejected": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(PlaceBid{Amount: 1500}).By("eve").
			Reject(ErrTooLow),
		"a bid may not exceed 2^53": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: exact + 1}).By("bob").
			Reject(ErrTooHigh),
		"a seller may not bid": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1500}).By("ada").
			Reject(ErrOwnAuction),
		"an auction takes no bid before it opens": aggregate.
			When(PlaceBid{Amount: 1500}).By("bob").
			Reject(ErrNotOpen),
		"a bid may arrive just before the closing time": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1500}).By("bob").At(noon.Add(-time.Microsecond)).
			Then(BidPlaced{Bidder: "bob", Amount: 1500}),
		"a bid at the closing time is rejected": aggregate.
			Given(lamp).
			When(PlaceBid{Amount: 1500}).By("bob").At(noon).
			Reject(ErrClosed),
		"a closed auction takes no bid": aggregate.
			Given(lamp, AuctionClosed{}).
			When(PlaceBid{Amount: 1500}).By("bob").
			Reject(ErrClosed),

		"the top bidder wins": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(CloseAuction{}).By("ada").
			Then(AuctionClosed{Winner: "bob", Amount: 1500}).
			Shows(`{"item": "lamp", "seller": "ada", "reserve": 1000, "closes_at": "2026-05-01T12:00:00Z",
				"top": {"bidder": "bob", "amount": 1500}, "bids": 1, "closed": true}`),
		"an auction may be closed after its closing time": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When(CloseAuction{}).By("ada").At(noon.Add(time.Hour)).
			Then(AuctionClosed{Winner: "bob", Amount: 1500}),
		"without a bid there is no winner": aggregate.
			Given(lamp).
			When(CloseAuction{}).By("ada").
			Then(AuctionClosed{Winner: "", Amount: 0}),
		"only the seller may close an auction": aggregate.
			Given(lamp).
			When(CloseAuction{}).By("bob").
			Reject(ErrNotSeller),
		"an auction closes once": aggregate.
			Given(lamp, AuctionClosed{}).
			When(CloseAuction{}).By("ada").
			Reject(ErrClosed),

		"an auction ends at its closing time": aggregate.
			Given(lamp).
			Wakes(noon),
		"the top bidder wins when it ends": aggregate.
			Given(lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			Woken().
			Then(AuctionClosed{Winner: "bob", Amount: 1500}).
			Shows(`{"item": "lamp", "seller": "ada", "reserve": 1000, "closes_at": "2026-05-01T12:00:00Z",
				"top": {"bidder": "bob", "amount": 1500}, "bids": 1, "closed": true}`),
		"without a bid it ends without a winner": aggregate.
			Given(lamp).
			Woken().At(noon.Add(time.Hour)).
			Then(AuctionClosed{}),
		"an auction that was closed does not end again": aggregate.
			Given(lamp, AuctionClosed{}).
			Wakes(time.Time{}),
		"no client can end an auction": aggregate.
			Given(lamp).
			When(EndAuction{}).By("ada").At(noon).
			Forbid(),
		"an auction does not end before its closing time": aggregate.
			Given(lamp).
			When(EndAuction{}).By("~wake").At(noon.Add(-time.Microsecond)).
			Then(),
		"an auction that was never opened cannot be closed": aggregate.
			When(CloseAuction{}).By("ada").
			Reject(ErrNotOpen),
	},
})
