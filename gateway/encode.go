package gateway

import (
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// encode returns the function that encodes an event once for all sessions.
func encode(catalog Catalog) history.Encode {
	return func(c *eventstore.Commit, i int) *history.Entry {
		ev := &c.Events[i]
		e := &history.Entry{
			Stream:   c.Stream,
			Version:  c.FirstVersion() + eventstore.Version(i),
			Position: c.First() + eventstore.Position(i),
			Event:    ev.Type,
		}
		data, err := catalog.Show(c.Stream.Type, ev.Type, max(ev.Form, 1), ev.Data)
		if err != nil {
			e.Err = err
			return e
		}
		f := frame.Event{
			Stream: c.Stream, Version: e.Version, Position: e.Position,
			Event: ev.Type, Data: data, Time: c.At, Cause: c.Key,
		}
		if catalog.ShowsCaller(c.Stream.Type) {
			f.By = c.Meta.Client
		}
		e.Tail = f.AppendTail(make([]byte, 0, 192+len(data)+len(c.Key)+len(c.Stream.ID)))
		return e
	}
}
