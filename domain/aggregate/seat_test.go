package aggregate_test

import "github.com/ganglion-es/ganglion/domain/aggregate"

// Seat is one numbered seat at one show. At most one guest holds it.
type Seat struct {
	Guest string // empty while the seat is free
}

// ReserveSeat asks for the seat in a guest's name.
type ReserveSeat struct {
	Guest string `json:"guest"`
}

// SeatReserved records that a guest holds the seat.
type SeatReserved struct {
	Guest string `json:"guest"`
}

// ErrSeatTaken rejects a reservation of a seat that another guest holds.
var ErrSeatTaken = aggregate.Reject("seat_taken", "another guest holds this seat")

func (c ReserveSeat) Decide(_ aggregate.Call, s Seat) (aggregate.Decision[Seat], error) {
	switch s.Guest {
	case "":
		return aggregate.Emit(SeatReserved{Guest: c.Guest})
	case c.Guest:
		return aggregate.Emit[Seat]() // a second request changes nothing
	}
	return nil, ErrSeatTaken
}

func (e SeatReserved) Apply(s *Seat) { s.Guest = e.Guest }

// Catalog is the catalog of these tests.
var Catalog aggregate.Catalog

var _ = aggregate.Define(&Catalog, aggregate.Type[Seat]{
	Name:       "seat",
	Access:     aggregate.Access{Send: aggregate.Authenticated, Read: aggregate.Anyone},
	Commands:   aggregate.Commands[Seat]{"reserve": ReserveSeat{}},
	Events:     aggregate.Events[Seat]{"reserved": SeatReserved{}},
	Rejections: aggregate.Rejections{ErrSeatTaken},
	Scenarios: aggregate.Scenarios[Seat]{
		"a free seat can be reserved": aggregate.
			When(ReserveSeat{Guest: "ada"}).
			Then(SeatReserved{Guest: "ada"}),
		"a taken seat stays taken": aggregate.
			Given(SeatReserved{Guest: "ada"}).
			When(ReserveSeat{Guest: "bob"}).
			Reject(ErrSeatTaken),
		"a second request changes nothing": aggregate.
			Given(SeatReserved{Guest: "ada"}).
			When(ReserveSeat{Guest: "ada"}).
			Then(),
	},
})
