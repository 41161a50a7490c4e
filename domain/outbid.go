package domain

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/inbox"
	"github.com/ganglion-es/ganglion/domain/process"
)

// Outbid is what a process manager knows of one auction.
type Outbid struct {
	Ends   time.Time `json:"ends"`
	Top    string    `json:"top"`             // the highest bidder
	Remind string    `json:"remind,omitzero"` // the bidder who was outbid last, until the reminder
	Over   bool      `json:"over"`
}

// reminder is when the bidder who was outbid last is told that the auction ends soon.
func (s Outbid) reminder() time.Time { return s.Ends.Add(-time.Hour) }

var _ = process.Define(&Catalog, process.Type[Outbid]{
	Name: "outbid",
	Doc:  "Tells bidders that they were outbid, and the last of them that an hour is left.",
	On: process.Handlers[Outbid]{
		process.On(func(_ process.At, e AuctionOpened, s *Outbid) process.Commands {
			s.Ends = e.ClosesAt
			return nil
		}),
		process.On(func(at process.At, e BidPlaced, s *Outbid) (c process.Commands) {
			if s.Top != "" && s.Top != e.Bidder {
				c = append(c, process.Send("client", s.Top, inbox.Notify{Text: "you were outbid in auction " + at.ID}))
				if at.Time.Before(s.reminder()) {
					s.Remind = s.Top
				}
			}
			s.Top = e.Bidder
			return c
		}),
		process.On(func(_ process.At, _ AuctionClosed, s *Outbid) process.Commands {
			s.Over = true
			return nil
		}),
	},
	Wake: func(s Outbid) time.Time {
		if s.Remind == "" {
			return time.Time{}
		}
		return s.reminder()
	},
	Woken: func(at process.At, s *Outbid) process.Commands {
		outbid := s.Remind
		s.Remind = ""
		return process.Commands{process.Send("client", outbid, inbox.Notify{Text: "an hour is left to bid in auction " + at.ID})}
	},
	Done: func(s Outbid) bool { return s.Over },
	Scenarios: process.Scenarios{
		"the bidder who was outbid is told": process.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When("auction/42", BidPlaced{Bidder: "eve", Amount: 1600}).
			Sends("client/bob", inbox.Notify{Text: "you were outbid in auction 42"}).
			Shows(`{"ends": "2026-05-01T12:00:00Z", "top": "eve", "remind": "bob", "over": false}`),
		"a first bid outbids no bidder": process.
			Given("auction/42", lamp).
			When("auction/42", BidPlaced{Bidder: "bob", Amount: 1500}).
			SendsNothing(),
		"bidders do not outbid themselves": process.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When("auction/42", BidPlaced{Bidder: "bob", Amount: 1600}).
			SendsNothing(),
		"an hour before the end the bidder who was outbid last is reminded": process.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}, BidPlaced{Bidder: "eve", Amount: 1600}).
			And("auction/42", BidPlaced{Bidder: "bob", Amount: 1700}).
			Woken(noon.Add(-time.Hour)).
			Sends("client/eve", inbox.Notify{Text: "an hour is left to bid in auction 42"}).
			Shows(`{"ends": "2026-05-01T12:00:00Z", "top": "bob", "over": false}`),
		"in the last hour no bidder is reminded": process.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When("auction/42", BidPlaced{Bidder: "eve", Amount: 1600}).At(noon.Add(-time.Hour)).
			Sends("client/bob", inbox.Notify{Text: "you were outbid in auction 42"}).
			Shows(`{"ends": "2026-05-01T12:00:00Z", "top": "eve", "over": false}`),
		"auctions do not disturb each other": process.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			And("auction/43", lamp).
			When("auction/43", BidPlaced{Bidder: "eve", Amount: 1600}).
			SendsNothing(),
		"nothing is kept of an auction that is over": process.
			Given("auction/42", lamp, BidPlaced{Bidder: "bob", Amount: 1500}).
			When("auction/42", AuctionClosed{Winner: "bob", Amount: 1500}).
			SendsNothing().
			Done(),
	},
})
