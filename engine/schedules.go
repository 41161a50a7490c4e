package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
)

// Kinds returns what the names of this program's projections and process managers are:
// "projection", "SQL projection", "process manager" or "schedule".
func (o *Operations) Kinds() map[string]string {
	kinds := map[string]string{}
	for kind, title := range map[string]string{
		"projection": "projection", sqlprojection.Kind: "SQL projection", process.Kind: "process manager", process.ScheduleKind: "schedule",
	} {
		for _, m := range o.cfg.Catalog.Models(kind) {
			kinds[m.Name()] = title
		}
	}
	return kinds
}

// A ScheduleState is when a schedule of this program runs.
type ScheduleState struct {
	Name string `json:"name"`
	When string `json:"when"` // its cron expression and zone, or its interval
	// Last is the last planned time that was recorded, absent before the first, and Next
	// the one after it, or after now.
	Last   time.Time `json:"last,omitzero"`
	Next   time.Time `json:"next,omitzero"`
	Paused bool      `json:"paused,omitempty"`
}

// Schedules returns when the schedules of this program run, sorted by name.
func (o *Operations) Schedules(ctx context.Context, now time.Time) (list []ScheduleState, err error) {
	paused := map[string]bool{}
	for _, d := range process.All(o.cfg.Catalog) {
		s, ok := d.Schedule()
		if !ok {
			continue
		}
		if list == nil {
			builds, err := o.cfg.Rows.Overviews(ctx)
			if err != nil {
				return nil, err
			}
			for _, b := range builds {
				paused[b.Projection] = b.Checkpoints[0].Paused
			}
		}
		one := ScheduleState{Name: d.Name(), When: cmp.Or(s.Cron, "every "+s.Interval.String()), Paused: paused[d.Name()]}
		if s.Cron != "" {
			one.When += " " + s.Zone
		}
		if one.Last, err = o.lastPlanned(ctx, d.Name()); err != nil {
			return nil, err
		}
		after := now
		if !one.Last.IsZero() {
			after = one.Last
		}
		if next := s.Next(after); !next.IsZero() {
			one.Next = next.UTC()
		}
		list = append(list, one)
	}
	return list, nil
}

// lastPlanned returns the last planned time of a schedule that was recorded, zero if
// none was.
func (o *Operations) lastPlanned(ctx context.Context, name string) (time.Time, error) {
	stream := eventstore.StreamID{Type: name, ID: process.TickSequence}
	head, err := o.cfg.Store.StreamHead(ctx, stream)
	if err != nil || head.Version == 0 {
		return time.Time{}, err
	}
	commits, err := o.cfg.Store.ReadStream(ctx, stream, head.Version-1, 1)
	if err != nil || len(commits) == 0 {
		return time.Time{}, err
	}
	var ticked struct {
		At time.Time `json:"at"`
	}
	events := commits[0].Events
	_ = json.Unmarshal(events[len(events)-1].Data, &ticked) // without a time, none is shown
	return ticked.At, nil
}
