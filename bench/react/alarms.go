package main

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// An alarm rings once, at the time to which it was set.
type (
	alarm struct {
		Rings time.Time `json:"rings,omitzero"`
	}

	setAlarm struct {
		Rings time.Time `json:"rings"`
	}
	alarmSet setAlarm

	ring struct{}
	rung struct{}
)

func (c setAlarm) Decide(aggregate.Call, alarm) (aggregate.Decision[alarm], error) {
	return aggregate.Emit(alarmSet(c))
}

func (ring) Decide(aggregate.Call, alarm) (aggregate.Decision[alarm], error) {
	return aggregate.Emit(rung{})
}

func (e alarmSet) Apply(a *alarm) { a.Rings = e.Rings }
func (rung) Apply(a *alarm)       { a.Rings = time.Time{} }

func defineAlarms() (*aggregate.Catalog, error) {
	c := new(aggregate.Catalog)
	access := anyone
	access.Commands = map[string]aggregate.Rule{"ring": aggregate.System}
	aggregate.Define(c, aggregate.Type[alarm]{
		Name: "alarm", Access: access,
		Commands: aggregate.Commands[alarm]{"set": setAlarm{}, "ring": ring{}},
		Events:   aggregate.Events[alarm]{"set": alarmSet{}, "rung": rung{}},
		Wake:     func(a alarm) (time.Time, aggregate.Command[alarm]) { return a.Rings, ring{} },
	})
	return c, c.Err()
}
