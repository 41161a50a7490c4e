package main

import (
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Status is how far an order is.
type Status string

const (
	Waiting Status = "waiting" // for a free stove
	Cooking Status = "cooking"
	Ready   Status = "ready"
)

// Values lists the statuses for the contract.
func (Status) Values() []string {
	return []string{string(Waiting), string(Cooking), string(Ready)}
}

// Order is one dish for one guest.
type Order struct {
	Dish   string `json:"dish"`
	Status Status `json:"status,omitzero"`
}

// Place orders a dish.
type Place struct {
	Dish string `json:"dish"`
}

// Cook starts to cook the dish. The kitchen sends it, in kitchen.go.
type Cook struct{}

// Finish says that the dish is ready.
type Finish struct{}

// Placed records that a guest ordered a dish.
type Placed struct {
	Dish string `json:"dish"`
}

// Started records that the dish is being cooked.
type Started struct{}

// Finished records that the dish is ready.
type Finished struct{}

var (
	// ErrNoDish rejects an order without a dish, or with a very long one.
	ErrNoDish = aggregate.Reject("no_dish", "a dish has 1 to 100 letters")

	// ErrPlaced rejects a second dish for one order.
	ErrPlaced = aggregate.Reject("placed", "this order has a dish already")

	// ErrNotCooking rejects Finish for an order that is not on a stove.
	ErrNotCooking = aggregate.Reject("not_cooking", "this order is not being cooked")
)

func (c Place) Decide(_ aggregate.Call, o Order) (aggregate.Decision[Order], error) {
	dish := strings.TrimSpace(c.Dish)
	switch {
	case o.Status != "":
		return nil, ErrPlaced
	case dish == "" || len(dish) > 100:
		return nil, ErrNoDish
	}
	return aggregate.Emit(Placed{Dish: dish})
}

func (Cook) Decide(_ aggregate.Call, o Order) (aggregate.Decision[Order], error) {
	if o.Status != Waiting {
		return aggregate.Emit[Order]() // started already
	}
	return aggregate.Emit(Started{})
}

func (Finish) Decide(_ aggregate.Call, o Order) (aggregate.Decision[Order], error) {
	if o.Status != Cooking {
		return nil, ErrNotCooking
	}
	return aggregate.Emit(Finished{})
}

func (e Placed) Apply(o *Order) { *o = Order{Dish: e.Dish, Status: Waiting} }
func (Started) Apply(o *Order)  { o.Status = Cooking }
func (Finished) Apply(o *Order) { o.Status = Ready }

var _ = aggregate.Define(&Catalog, aggregate.Type[Order]{
	Name: "order",
	Doc:  "A dish that a guest ordered.",
	Access: aggregate.Access{
		Send:     aggregate.Authenticated,
		Read:     aggregate.Authenticated,
		Commands: map[string]aggregate.Rule{"cook": aggregate.System},
	},
	Commands:   aggregate.Commands[Order]{"place": Place{}, "cook": Cook{}, "finish": Finish{}},
	Events:     aggregate.Events[Order]{"placed": Placed{}, "started": Started{}, "finished": Finished{}},
	Rejections: aggregate.Rejections{ErrNoDish, ErrPlaced, ErrNotCooking},
	Scenarios: aggregate.Scenarios[Order]{
		"an order waits for the kitchen": aggregate.
			When(Place{Dish: " soup "}).By("ada").
			Then(Placed{Dish: "soup"}).
			Shows(`{"dish": "soup", "status": "waiting"}`),
		"an order needs a dish": aggregate.
			When(Place{Dish: " "}).By("ada").
			Reject(ErrNoDish),
		"an order has one dish": aggregate.
			Given(Placed{Dish: "soup"}).
			When(Place{Dish: "pie"}).By("ada").
			Reject(ErrPlaced),
		"guests who are not known may not order": aggregate.
			When(Place{Dish: "soup"}).By("").
			Forbid(),
		"guests may not start to cook": aggregate.
			Given(Placed{Dish: "soup"}).
			When(Cook{}).By("ada").
			Forbid(),
		"the kitchen starts a dish that waits": aggregate.
			Given(Placed{Dish: "soup"}).
			When(Cook{}).By("~kitchen").
			Then(Started{}),
		"the kitchen starts a dish once": aggregate.
			Given(Placed{Dish: "soup"}, Started{}).
			When(Cook{}).By("~kitchen").
			Then(),
		"a dish that is cooked can be finished": aggregate.
			Given(Placed{Dish: "soup"}, Started{}).
			When(Finish{}).By("cook").
			Then(Finished{}).
			Shows(`{"dish": "soup", "status": "ready"}`),
		"a dish that waits can not be finished": aggregate.
			Given(Placed{Dish: "soup"}).
			When(Finish{}).By("cook").
			Reject(ErrNotCooking),
	},
})
