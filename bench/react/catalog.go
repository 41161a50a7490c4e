package main

import (
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
)

// A shop has orders. The process manager relay tells the ledger of the same id about
// each of them. The number of an order identifies it in the whole run.
type (
	shop   struct{}
	ledger struct{}

	place struct {
		N int64 `json:"n"`
	}
	placed place

	note struct {
		N int64 `json:"n"`
	}
	noted note

	// relayed is the state of the process manager for one shop.
	relayed struct {
		Orders int64 `json:"orders"`
	}
)

func (c place) Decide(aggregate.Call, shop) (aggregate.Decision[shop], error) {
	return aggregate.Emit(placed(c))
}

func (c note) Decide(aggregate.Call, ledger) (aggregate.Decision[ledger], error) {
	return aggregate.Emit(noted(c))
}

func (placed) Apply(*shop)  {}
func (noted) Apply(*ledger) {}

// anyone lets all clients send and read.
var anyone = aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone}

func defineRelay() (*aggregate.Catalog, error) {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[shop]{
		Name: "shop", Access: anyone,
		Commands: aggregate.Commands[shop]{"place": place{}}, Events: aggregate.Events[shop]{"placed": placed{}},
	})
	aggregate.Define(c, aggregate.Type[ledger]{
		Name: "ledger", Access: anyone,
		Commands: aggregate.Commands[ledger]{"note": note{}}, Events: aggregate.Events[ledger]{"noted": noted{}},
	})
	process.Define(c, process.Type[relayed]{
		Name: "relay",
		On: process.Handlers[relayed]{process.On(func(at process.At, e placed, s *relayed) process.Commands {
			s.Orders++
			return process.Commands{process.Send("ledger", at.ID, note(e))}
		})},
	})
	return c, c.Err()
}
