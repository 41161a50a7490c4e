package main

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

// BoardLine is an order on the board of the kitchen.
type BoardLine struct {
	Dish   string      `json:"dish"`
	Status OrderStatus `json:"status"`
	Since  time.Time   `json:"since"` // when it was placed
}

// Board has every order, by its id.
var Board = projection.Define(&Catalog, projection.Table[BoardLine]{
	Name: "board",
	Doc:  "The orders, as the kitchen sees them.",
	On: projection.Handlers[BoardLine]{
		projection.On(func(at projection.At, e OrderPlaced, l *BoardLine) {
			*l = BoardLine{Dish: e.Dish, Status: OrderWaiting, Since: at.Time}
		}),
		projection.On(func(_ projection.At, _ OrderStarted, l *BoardLine) { l.Status = OrderCooking }),
		projection.On(func(_ projection.At, _ OrderFinished, l *BoardLine) { l.Status = OrderReady }),
	},
	Indexes: [][]string{{"status", "since"}},
	Scenarios: projection.Scenarios{
		"an order is on the board from the start": projection.
			Given("order/1", OrderPlaced{Dish: "soup"}).At(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)).
			Shows("1", `{"dish": "soup", "status": "waiting", "since": "2026-05-01T12:00:00Z"}`),
		"the board shows how far an order is": projection.
			Given("order/1", OrderPlaced{Dish: "soup"}, OrderStarted{}).At(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)).
			Shows("1", `{"dish": "soup", "status": "cooking", "since": "2026-05-01T12:00:00Z"}`),
		"a dish that is ready stays on the board": projection.
			Given("order/1", OrderPlaced{Dish: "soup"}, OrderStarted{}, OrderFinished{}).At(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)).
			Shows("1", `{"dish": "soup", "status": "ready", "since": "2026-05-01T12:00:00Z"}`),
	},
})

// Orders asks for the orders with a status, the oldest first.
type Orders struct {
	Status OrderStatus `json:"status"`
}

var _ = query.Define(&Catalog, query.Rows[Orders, BoardLine]{
	Name:   "orders",
	Doc:    "The orders with a status, the oldest first.",
	Access: aggregate.Authenticated,
	From:   Board,
	Where:  func(_ query.Call, q Orders) query.Cond { return query.Is("status", q.Status) },
	Order:  []string{"since"},
	Limit:  50,
	Scenarios: query.Scenarios[Orders]{
		"the oldest first": query.
			Ask(Orders{Status: OrderWaiting}, query.Among(
				BoardLine{Status: OrderWaiting, Since: time.Unix(2, 0)}, BoardLine{Status: OrderWaiting, Since: time.Unix(1, 0)}, BoardLine{Status: OrderReady})).
			By("ada").Answers("2", "1"),
		"guests who are not known see nothing": query.
			Ask(Orders{Status: OrderWaiting}).
			Forbid(),
	},
})
