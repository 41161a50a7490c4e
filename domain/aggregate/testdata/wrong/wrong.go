// Package wrong does not compile: a command of Seat emits an event of Show.
package wrong

import "github.com/ganglion-es/ganglion/domain/aggregate"

type (
	Seat     struct{}
	Show     struct{}
	ShowOver struct{}
	Reserve  struct{}
)

func (ShowOver) Apply(*Show) {}

func (Reserve) Decide(aggregate.Call, Seat) (aggregate.Decision[Seat], error) {
	return aggregate.Emit(ShowOver{})
}
