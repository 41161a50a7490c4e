package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// countCommits and countPositions bound one read of Handles.
const countCommits, countPositions = 1000, 20_000

// Handles returns the number of events up to the head of the log that the handlers of a
// projection or a process manager of this program get, and that position: what a
// rebuild does. It reads the streams of their types. If ctx ends first, the error says
// how far it has come.
func (o *Operations) Handles(ctx context.Context, name string) (events uint64, head eventstore.Position, err error) {
	d, err := o.definition(name)
	if err != nil {
		return 0, 0, err
	}
	if head, err = o.cfg.Store.Head(ctx); err != nil {
		return 0, 0, err
	}
	var types []string
	for _, typ := range o.cfg.Catalog.Types() {
		if slices.ContainsFunc(typ.Events(), func(event string) bool { return d.reads(aggregate.EventName{Type: typ.Name(), Event: event}) }) {
			types = append(types, typ.Name())
		}
	}
	if d.process != nil { // it also handles what its own streams record
		types = append(types, name)
	}
	for _, typ := range types {
		for after := eventstore.Position(0); after < head; {
			commits, upTo, err := o.cfg.Store.ReadType(ctx, typ, after, countCommits, countPositions)
			switch {
			case err != nil && ctx.Err() != nil:
				return events, head, fmt.Errorf("the events were not all counted in time: %d up to position %d of %d", events, after, head)
			case err != nil:
				return events, head, err
			case upTo <= after:
				return events, head, fmt.Errorf("the log ends at %d, before its head %d", after, head)
			}
			for _, c := range commits {
				for i, e := range c.Events {
					if p := c.First() + eventstore.Position(i); p > after && p <= min(upTo, head) && d.reads(aggregate.EventName{Type: typ, Event: e.Type}) {
						events++
					}
				}
			}
			after = upTo
		}
	}
	return events, head, nil
}

// reads reports whether the handlers get an event.
func (d defined) reads(event aggregate.EventName) bool {
	switch {
	case d.sql != nil:
		return d.sql.Reads(event)
	case d.process != nil:
		return d.process.Reads(event)
	}
	return d.rows.Reads(event)
}
