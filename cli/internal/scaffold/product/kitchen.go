package main

import (
	"slices"

	"github.com/ganglion-es/ganglion/domain/process"
)

// stoves is the number of dishes that are cooked at a time.
const stoves = 2

// Kitchen is what the process manager knows of the one kitchen.
type Kitchen struct {
	Cooking []string `json:"cooking,omitempty"` // ids of orders
	Waiting []string `json:"waiting,omitempty"` // the oldest first
}

// next starts orders while a stove is free.
func (k *Kitchen) next() (c process.Commands) {
	for len(k.Waiting) > 0 && len(k.Cooking) < stoves {
		id := k.Waiting[0]
		k.Waiting, k.Cooking = k.Waiting[1:], append(k.Cooking, id)
		c = append(c, process.Send("order", id, CookOrder{}))
	}
	return c
}

var _ = process.Define(&Catalog, process.Type[Kitchen]{
	Name: "kitchen",
	Doc:  "Starts to cook the oldest order when a stove is free.",
	On: process.Handlers[Kitchen]{
		// All orders have one state, that of the sequence "main".
		process.OnKey(
			func(process.At, OrderPlaced) string { return "main" },
			func(at process.At, _ OrderPlaced, k *Kitchen) process.Commands {
				k.Waiting = append(k.Waiting, at.ID)
				return k.next()
			}),
		process.OnKey(
			func(process.At, OrderFinished) string { return "main" },
			func(at process.At, _ OrderFinished, k *Kitchen) process.Commands {
				k.Cooking = slices.DeleteFunc(k.Cooking, func(id string) bool { return id == at.ID })
				return k.next()
			}),
	},
	Done: func(k Kitchen) bool { return len(k.Cooking)+len(k.Waiting) == 0 },
	Scenarios: process.Scenarios{
		"an order is started when a stove is free": process.
			When("order/1", OrderPlaced{Dish: "soup"}).
			Sends("order/1", CookOrder{}).
			Shows(`{"cooking": ["1"]}`),
		"a third order waits": process.
			Given("order/1", OrderPlaced{Dish: "soup"}).
			And("order/2", OrderPlaced{Dish: "pie"}).
			When("order/3", OrderPlaced{Dish: "tea"}).
			SendsNothing().
			Shows(`{"cooking": ["1", "2"], "waiting": ["3"]}`),
		"the oldest order gets the next free stove": process.
			Given("order/1", OrderPlaced{Dish: "soup"}).
			And("order/2", OrderPlaced{Dish: "pie"}).
			And("order/3", OrderPlaced{Dish: "tea"}).
			When("order/2", OrderFinished{}).
			Sends("order/3", CookOrder{}).
			Shows(`{"cooking": ["1", "3"]}`),
		"nothing is kept of a kitchen without orders": process.
			Given("order/1", OrderPlaced{Dish: "soup"}).
			When("order/1", OrderFinished{}).
			SendsNothing().
			Done(),
	},
})
