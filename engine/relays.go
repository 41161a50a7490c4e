package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// RelayPlacement returns the name under which a relay is placed, and stored as a build
// of one segment.
func RelayPlacement(name string) string { return processor.RelayPrefix + name }

// IsRelay reports whether a name of a build is that of a relay.
func IsRelay(projection string) bool { return strings.HasPrefix(projection, processor.RelayPrefix) }

// takeRelaysAfter is how long another node's relay must stand still, in times of
// TakeAfter. A broker that is away stops a relay too, and then all nodes would dial it.
const takeRelaysAfter = 6

// RelayStats are the figures of one relay on one node: those of its checkpoint, and those
// of its broker.
type RelayStats struct {
	Relay string
	ProjectionStats
	Broker processor.RelayStats
}

type relayProcessor struct {
	name      string
	processor *processor.Processor
}

// addRelays adds the relays. The streams of process managers are closed to them too,
// unless a relay names them.
func (p *Projections) addRelays(cfg ProjectionsConfig, shared processor.Config) {
	closed := map[string]bool{}
	for _, typ := range cfg.Closed {
		closed[typ] = true
	}
	for _, d := range process.All(cfg.Catalog) {
		closed[d.Name()] = true
	}
	for i := range cfg.Relays {
		r := &cfg.Relays[i]
		one := shared
		one.Relay = r
		one.TakeAfter = takeRelaysAfter * cfg.TakeAfter
		one.Owns = func(segment int) bool { return cfg.Owns(RelayPlacement(r.Name), segment) }
		one.RelayReads = func(typ string) bool { return !closed[typ] }
		if len(r.Categories) > 0 {
			one.RelayReads = func(typ string) bool { return slices.Contains(r.Categories, typ) }
		}
		p.relays = append(p.relays, relayProcessor{r.Name, processor.New(one)})
	}
}

// Relays returns the figures of each relay, in the order of the configuration.
func (p *Projections) Relays() []RelayStats {
	all := make([]RelayStats, len(p.relays))
	for i, one := range p.relays {
		all[i] = RelayStats{one.name, one.processor.Stats(), one.processor.RelayStats()}
	}
	return all
}

// RelayOperations are what operators do with the relays of a log, whether or not nodes
// run. Its methods are safe for concurrent use, also by several programs.
type RelayOperations struct {
	Store eventstore.Store
	Rows  rows.Store
}

// A RelayState is how a relay stands.
type RelayState struct {
	Relay    string              `json:"relay"`
	Position eventstore.Position `json:"position"` // up to here, the broker has confirmed all events
	Lag      uint64              `json:"lag"`      // events behind the head of the log
	Moved    time.Time           `json:"moved"`    // when the position last changed, by the database's clock
	Paused   bool                `json:"paused"`   // by an operator
	// Blocked is the position of the event that the broker does not take over, and
	// Problem why; both are zero if there is none.
	Blocked eventstore.Position `json:"blocked,omitzero"`
	Problem string              `json:"problem,omitempty"`
	// OtherLog reports that the log was restored or imported, or has lost events.
	OtherLog bool `json:"other_log,omitempty"`
}

// Describe returns the state of the relay in words.
func (s RelayState) Describe() string {
	switch {
	case s.OtherLog:
		return "stopped: other log"
	case s.Blocked > 0:
		return fmt.Sprintf("stopped at position %d: %s", s.Blocked, s.Problem)
	case s.Paused:
		return "paused"
	}
	return "active"
}

// List returns all relays that have run on the log, sorted by name.
func (o RelayOperations) List(ctx context.Context) ([]RelayState, error) {
	found, err := o.find(ctx, "")
	if err != nil {
		return nil, err
	}
	head, err := o.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	list := []RelayState{}
	for _, b := range found {
		s, err := o.state(ctx, b, head)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

func (o RelayOperations) state(ctx context.Context, b rows.Overview, head eventstore.Position) (RelayState, error) {
	c := b.Checkpoints[0]
	s := RelayState{
		Relay: strings.TrimPrefix(b.Projection, processor.RelayPrefix), Position: c.Position, Moved: c.At, Paused: c.Paused,
		OtherLog: b.LogID != o.Store.LogID() || c.Position > head,
	}
	if head > c.Position {
		s.Lag = uint64(head - c.Position)
	}
	blocked, err := o.Rows.Blocked(ctx, []int64{b.ID}, 1)
	if err == nil && len(blocked) > 0 {
		s.Blocked, s.Problem = blocked[0].Position, blocked[0].Error
	}
	return s, err
}

// find returns the builds of relays, or of the one with a name.
func (o RelayOperations) find(ctx context.Context, name string) (found []rows.Overview, err error) {
	list, err := o.Rows.Overviews(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, b := range list {
		if !IsRelay(b.Projection) {
			continue
		}
		names = append(names, strings.TrimPrefix(b.Projection, processor.RelayPrefix))
		if name == "" || b.Projection == RelayPlacement(name) {
			found = append(found, b)
		}
	}
	switch {
	case name == "" || len(found) > 0:
		return found, nil
	case len(names) == 0:
		return nil, fmt.Errorf("the log has no relay %q: it has none; a node stores those of its configuration when it starts", name)
	}
	return nil, fmt.Errorf("the log has no relay %q: use %s", name, strings.Join(names, ", "))
}

func (o RelayOperations) one(ctx context.Context, name string) (rows.Overview, error) {
	if name == "" {
		return rows.Overview{}, errors.New("the name of the relay is empty")
	}
	found, err := o.find(ctx, name)
	if err != nil {
		return rows.Overview{}, err
	}
	return found[0], nil
}

// Pause stops a relay before its next event.
func (o RelayOperations) Pause(ctx context.Context, name string) error {
	if _, err := o.one(ctx, name); err != nil {
		return err
	}
	return o.Rows.Pause(ctx, RelayPlacement(name), true)
}

// Resume ends a pause. A relay that has stopped at an event tries it again.
func (o RelayOperations) Resume(ctx context.Context, name string) error {
	b, err := o.one(ctx, name)
	if err != nil {
		return err
	}
	if b.LogID != o.Store.LogID() {
		return fmt.Errorf("relay %q stands at position %d of a log that this one is not: decide from where on consumers get events, and use `ganglion relay rewind`", name, b.Checkpoints[0].Position)
	}
	if b.Blocked[0] > 0 {
		if err := o.decide(ctx, b, rows.Batch{Unblock: []string{processor.RelayKey}}); err != nil {
			return err
		}
	}
	if err := o.Rows.Pause(ctx, RelayPlacement(name), false); err != nil {
		return err
	}
	// This log is no copy any more from which nothing may be sent.
	return o.Rows.Pause(ctx, rows.PauseProcesses, false)
}

// Rewind makes a relay publish again all events after a position, or leave out those up
// to it, and returns the end of the last commit at or before the position, after which it
// begins. It accepts a log that was restored.
func (o RelayOperations) Rewind(ctx context.Context, name string, to eventstore.Position) (eventstore.Position, error) {
	b, err := o.one(ctx, name)
	if err != nil {
		return 0, err
	}
	at, err := o.Rows.Rewind(ctx, b.ID, to)
	if !errors.Is(err, rows.ErrAhead) {
		return at, err
	}
	head, err := o.Store.Head(ctx)
	if err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("the log ends at %d: use a position from 0 to %d", head, head)
}

// Skip excludes one event from a relay, permanently, and resumes the relay if it has
// stopped there.
func (o RelayOperations) Skip(ctx context.Context, name string, position eventstore.Position) error {
	b, err := o.one(ctx, name)
	if err != nil {
		return err
	}
	head, err := o.Store.Head(ctx)
	if err != nil {
		return err
	}
	if at := b.Checkpoints[0].Position; position <= at || position > head {
		return fmt.Errorf("relay %q has published the events up to %d, and the log ends at %d: use a position between them", name, at, head)
	}
	batch := rows.Batch{Skip: []rows.Skip{{Key: processor.RelayKey, Position: position}}}
	blocked, err := o.Rows.Blocked(ctx, []int64{b.ID}, 1)
	if err == nil && len(blocked) > 0 && blocked[0].Position == position {
		batch.Unblock = []string{processor.RelayKey}
	}
	if err != nil {
		return err
	}
	return o.decide(ctx, b, batch)
}

// decide writes a batch that stays at the checkpoint, and fences the relay's writer.
func (o RelayOperations) decide(ctx context.Context, b rows.Overview, batch rows.Batch) error {
	table, err := o.Rows.Open(ctx, processor.SpecOfRelay(strings.TrimPrefix(b.Projection, processor.RelayPrefix)), b.ID)
	if err != nil {
		return err
	}
	const tries = 10 // a relay that is busy moves its checkpoint meanwhile
	for range tries {
		// The writer reads the checkpoint again and needs longer for that than this.
		if err = table.Interrupt(ctx, 0); err != nil {
			return err
		}
		var list []rows.Checkpoint
		if list, err = table.Checkpoints(ctx); err != nil {
			return err
		}
		c := list[0]
		batch.From, batch.To, batch.Mends, batch.Key = c.Position, c.Position, c.Mends, c.Key
		if err = table.Write(ctx, batch); !errors.Is(err, rows.ErrFenced) {
			return err
		}
	}
	return err
}

// Drop forgets a relay and its checkpoint. A node that has it in its configuration
// stores it again, and publishes from the beginning.
func (o RelayOperations) Drop(ctx context.Context, name string) error {
	b, err := o.one(ctx, name)
	if err != nil {
		return err
	}
	return errors.Join(o.Rows.Pause(ctx, RelayPlacement(name), false), o.Rows.Drop(ctx, b.ID))
}
