package aggregate_test

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Data from a client is decoded and decided; the events are stored and applied to
// the state. Package engine does this.
func ExampleDefinition_Decide() {
	seat, _ := Catalog.Type("seat")
	state := seat.NewState()
	for _, data := range []string{`{"guest": "ada"}`, `{"guest": "bob"}`, `{"gast": "bob"}`} {
		cmd, err := seat.DecodeCommand("reserve", json.RawMessage(data))
		if err != nil {
			fmt.Println("bad request:", err)
			continue
		}
		events, err := seat.Decide(aggregate.Call{ID: "A12", Client: "box-office"}, state, cmd)
		if rejection, ok := errors.AsType[*aggregate.Rejection](err); ok {
			fmt.Println("rejected:", rejection.Code)
			continue
		}
		for _, event := range events {
			name, form, stored, _ := seat.EncodeEvent(event)
			fmt.Println("stored:", name, form, string(stored))
			seat.Apply(state, event)
		}
	}
	view, _ := seat.View(state)
	fmt.Println("clients see:", string(view))
	// Output:
	// stored: reserved 1 {"guest":"ada"}
	// rejected: seat_taken
	// bad request: data.gast: unknown member: use guest
	// clients see: {"Guest":"ada"}
}

// Err reports every problem of a definition.
func ExampleCatalog_Err() {
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[Seat]{
		Name:     "Seat",
		Access:   aggregate.Access{Read: aggregate.Anyone},
		Commands: aggregate.Commands[Seat]{"reserve": ReserveSeat{}},
		Events:   aggregate.Events[Seat]{"reserved": &SeatReserved{}},
	})
	fmt.Println(catalog.Err())
	// Output:
	// aggregate: type "Seat" (aggregate_test.Seat): the Name has the character 'S': use lower-case letters, digits, - and _
	// aggregate: type "Seat" (aggregate_test.Seat): Access.Send is missing: say who may send commands (aggregate.Anyone, Authenticated, Self, System or a RuleFunc)
	// aggregate: type "Seat" (aggregate_test.Seat): event "reserved" is registered as a pointer: register the value SeatReserved{}
}

// Scenarios are data. Package domaintest runs them all.
func ExampleDefinition_Scenarios() {
	seat, _ := Catalog.Type("seat")
	for _, scenario := range seat.Scenarios() {
		fmt.Println(scenario.Name, "-", scenario.Run())
	}
	// Output:
	// a free seat can be reserved - <nil>
	// a second request changes nothing - <nil>
	// a taken seat stays taken - <nil>
}

// An upcaster keeps an event readable after its form has changed.
func ExampleUpcast() {
	type bookedV1 struct {
		Seat int `json:"seat"`
	}
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[Booking]{
		Name:     "booking",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Booking]{"book": Book{}},
		Events:   aggregate.Events[Booking]{"booked": Booked{}},
		Upcasters: aggregate.Upcasters{"booked": {
			aggregate.Upcast(func(old bookedV1) Booked { return Booked{Seats: []int{old.Seat}} }),
		}},
		Scenarios: aggregate.Scenarios[Booking]{
			"a booking of form 1 has one seat": aggregate.Reads("booked", 1, `{"seat":12}`, Booked{Seats: []int{12}}),
		},
	})
	now, err := catalog.Show("booking", "booked", 1, json.RawMessage(`{"seat": 12}`))
	fmt.Println(string(now), err)
	// Output:
	// {"seats":[12]} <nil>
}

// Booking is some seats of one show.
type Booking struct{ Seats []int }

// Book asks for seats.
type Book struct {
	Seats []int `json:"seats"`
}

// Booked records that seats were booked.
type Booked struct {
	Seats []int `json:"seats"`
}

func (c Book) Decide(aggregate.Call, Booking) (aggregate.Decision[Booking], error) {
	return aggregate.Emit(Booked(c))
}

func (e Booked) Apply(s *Booking) { s.Seats = append(s.Seats, e.Seats...) }
