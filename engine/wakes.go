package engine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine/internal/waker"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
	"github.com/ganglion-es/ganglion/proto/command"
)

// WakesConfig configures Wakes. All fields but TakeAfter and Late are required.
type WakesConfig struct {
	Catalog *aggregate.Catalog
	Store   eventstore.Store
	Wakes   wakes.Store
	// Projections are those of the same node, whose newest commits are shared.
	Projections *Projections
	// Owns reports whether this node works on a segment of the table of wake-ups.
	Owns func(segment int) bool
	// TakeAfter is how long a segment of another node must stand still with work to do
	// before this node works on it too; 0: it never does. This costs questions, and
	// never a wrong wake-up.
	TakeAfter time.Duration
	// Send carries a question to the owner of its aggregate.
	Send command.SystemSender
	// Late, if set, is called with how late each wake-up was. It must not block.
	Late   func(time.Duration)
	Logger *slog.Logger
}

// Wakes wakes the aggregates of a catalog at the time for which their state asks, as
// far as the node owns segments of the table of wake-ups. Its methods are safe for
// concurrent use.
type Wakes struct {
	waker *waker.Waker // nil if no type has wake-ups
	begun <-chan struct{}
}

// WakeStats are the figures of the segments on which a node works.
type WakeStats = waker.Stats

// WakePlacement is the name under which the segments of the table of wake-ups are
// placed. No projection can have it.
const WakePlacement = "~wake"

// WakeFingerprint names what the table of wake-ups of a catalog depends on. It is "" if
// no type has wake-ups.
func WakeFingerprint(c *aggregate.Catalog) string { return waker.Fingerprint(waker.TypesOf(c)) }

// NewWakes returns the wake-ups of a catalog without problems. Call Run.
func NewWakes(cfg WakesConfig) *Wakes {
	types := waker.TypesOf(cfg.Catalog)
	w := &Wakes{begun: cfg.Projections.begun}
	if len(types) == 0 {
		return w
	}
	c := waker.Config{
		Types: types, Wakes: cfg.Wakes, Log: cfg.Store, Tail: cfg.Projections.tail,
		Owns: cfg.Owns, TakeAfter: cfg.TakeAfter, Send: cfg.Send, Late: cfg.Late, Logger: cfg.Logger,
	}
	if s, ok := cfg.Store.(eventstore.Busy); ok {
		c.Appending = s.Appending
	}
	w.waker = waker.New(c)
	return w
}

// Run works until ctx ends, from the first Begin of the projections on.
func (w *Wakes) Run(ctx context.Context) error {
	if w.waker == nil {
		return nil
	}
	select {
	case <-w.begun:
		return w.waker.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// Stats returns the figures of this node's segments.
func (w *Wakes) Stats() WakeStats {
	if w.waker == nil {
		return WakeStats{}
	}
	return w.waker.Stats()
}

// WakeOperations are what operators do with wake-ups, whether or not nodes run.
type WakeOperations struct {
	Wakes wakes.Store
	Rows  rows.Store
}

// A WakeRow is when an aggregate is asked whether it must be woken.
type WakeRow struct {
	Aggregate string             `json:"aggregate"`
	Version   eventstore.Version `json:"version"`
	// Due is by the database's clock, and absent for a row that was refused.
	Due     time.Time `json:"due,omitzero"`
	Refused string    `json:"refused,omitempty"`
}

// List returns at most limit rows, refused ones first, and then by their
// time; with a name only that of one aggregate.
func (o WakeOperations) List(ctx context.Context, name string, limit int) (list []WakeRow, paused bool, err error) {
	stream, err := optionalStream(name)
	if err != nil {
		return nil, false, err
	}
	found, paused, err := o.Wakes.List(ctx, stream, limit)
	list = []WakeRow{}
	for _, r := range found {
		list = append(list, WakeRow{Aggregate: r.Stream.String(), Version: r.Version, Due: r.Due, Refused: r.Refused})
	}
	return list, paused, err
}

// Pause stops or resumes all wake-ups of the log.
func (o WakeOperations) Pause(ctx context.Context, paused bool) error {
	return o.Rows.Pause(ctx, wakes.PauseName, paused)
}

// Retry makes refused rows due immediately, with a name only that of one aggregate, and
// returns how many.
func (o WakeOperations) Retry(ctx context.Context, name string) (int, error) {
	stream, err := optionalStream(name)
	if err != nil {
		return 0, err
	}
	n, err := o.Wakes.Retry(ctx, stream)
	if err == nil && n == 0 && stream != nil {
		err = fmt.Errorf("%s has no refused wake-up", stream)
	}
	return n, err
}

func optionalStream(name string) (*eventstore.StreamID, error) {
	if name == "" {
		return nil, nil
	}
	s, err := eventstore.ParseStreamID(name)
	return &s, err
}
