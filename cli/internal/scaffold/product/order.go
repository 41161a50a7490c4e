package main

import (
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// OrderStatus is how far an order is.
type OrderStatus string

const (
	OrderWaiting OrderStatus = "waiting" // for a free stove
	OrderCooking OrderStatus = "cooking"
	OrderReady   OrderStatus = "ready"
)

// Values lists the statuses for the contract.
func (OrderStatus) Values() []string {
	return []string{string(OrderWaiting), string(OrderCooking), string(OrderReady)}
}

// Order is one dish for one guest.
type Order struct {
	Dish   string      `json:"dish"`
	Status OrderStatus `json:"status,omitzero"`
}

// PlaceOrder orders a dish.
type PlaceOrder struct {
	Dish string `json:"dish"`
}

// CookOrder starts to cook the dish. The kitchen sends it, in kitchen.go.
type CookOrder struct{}

// FinishOrder says that the dish is ready.
type FinishOrder struct{}

// OrderPlaced records that a guest ordered a dish.
type OrderPlaced struct {
	Dish string `json:"dish"`
}

// OrderStarted records that the dish is being cooked.
type OrderStarted struct{}

// OrderFinished records that the dish is ready.
type OrderFinished struct{}

var (
	// ErrNoDish rejects an order without a dish, or with a very long one.
	ErrNoDish = aggregate.Reject("no_dish", "a dish has 1 to 100 letters")

	// ErrOrderPlaced rejects a second dish for one order.
	ErrOrderPlaced = aggregate.Reject("placed", "this order has a dish already")

	// ErrNotCooking rejects FinishOrder for an order that is not on a stove.
	ErrNotCooking = aggregate.Reject("not_cooking", "this order is not being cooked")
)

func (c PlaceOrder) Decide(_ aggregate.Call, o Order) (aggregate.Decision[Order], error) {
	dish := strings.TrimSpace(c.Dish)
	switch {
	case o.Status != "":
		return nil, ErrOrderPlaced
	case dish == "" || len(dish) > 100:
		return nil, ErrNoDish
	}
	return aggregate.Emit(OrderPlaced{Dish: dish})
}

func (CookOrder) Decide(_ aggregate.Call, o Order) (aggregate.Decision[Order], error) {
	if o.Status != OrderWaiting {
		return aggregate.Emit[Order]() // started already
	}
	return aggregate.Emit(OrderStarted{})
}

func (FinishOrder) Decide(_ aggregate.Call, o Order) (aggregate.Decision[Order], error) {
	if o.Status != OrderCooking {
		return nil, ErrNotCooking
	}
	return aggregate.Emit(OrderFinished{})
}

func (e OrderPlaced) Apply(o *Order) { *o = Order{Dish: e.Dish, Status: OrderWaiting} }
func (OrderStarted) Apply(o *Order)  { o.Status = OrderCooking }
func (OrderFinished) Apply(o *Order) { o.Status = OrderReady }

var _ = aggregate.Define(&Catalog, aggregate.Type[Order]{
	Name: "order",
	Doc:  "A dish that a guest ordered.",
	Access: aggregate.Access{
		Send:     aggregate.Authenticated,
		Read:     aggregate.Authenticated,
		Commands: map[string]aggregate.Rule{"cook": aggregate.System},
	},
	Commands:   aggregate.Commands[Order]{"place": PlaceOrder{}, "cook": CookOrder{}, "finish": FinishOrder{}},
	Events:     aggregate.Events[Order]{"placed": OrderPlaced{}, "started": OrderStarted{}, "finished": OrderFinished{}},
	Rejections: aggregate.Rejections{ErrNoDish, ErrOrderPlaced, ErrNotCooking},
	Scenarios: aggregate.Scenarios[Order]{
		"an order waits for the kitchen": aggregate.
			When(PlaceOrder{Dish: " soup "}).By("ada").
			Then(OrderPlaced{Dish: "soup"}).
			Shows(`{"dish": "soup", "status": "waiting"}`),
		"an order needs a dish": aggregate.
			When(PlaceOrder{Dish: " "}).By("ada").
			Reject(ErrNoDish),
		"an order has one dish": aggregate.
			Given(OrderPlaced{Dish: "soup"}).
			When(PlaceOrder{Dish: "pie"}).By("ada").
			Reject(ErrOrderPlaced),
		"guests who are not known may not order": aggregate.
			When(PlaceOrder{Dish: "soup"}).By("").
			Forbid(),
		"guests may not start to cook": aggregate.
			Given(OrderPlaced{Dish: "soup"}).
			When(CookOrder{}).By("ada").
			Forbid(),
		"the kitchen starts a dish that waits": aggregate.
			Given(OrderPlaced{Dish: "soup"}).
			When(CookOrder{}).By("~kitchen").
			Then(OrderStarted{}),
		"the kitchen starts a dish once": aggregate.
			Given(OrderPlaced{Dish: "soup"}, OrderStarted{}).
			When(CookOrder{}).By("~kitchen").
			Then(),
		"a dish that is cooked can be finished": aggregate.
			Given(OrderPlaced{Dish: "soup"}, OrderStarted{}).
			When(FinishOrder{}).By("cook").
			Then(OrderFinished{}).
			Shows(`{"dish": "soup", "status": "ready"}`),
		"a dish that waits can not be finished": aggregate.
			Given(OrderPlaced{Dish: "soup"}).
			When(FinishOrder{}).By("cook").
			Reject(ErrNotCooking),
	},
})
