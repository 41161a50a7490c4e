package node

import (
	"encoding/json"
	"fmt"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/console"
)

// ownerOf returns the member that owns an aggregate, "" if none does.
func (n *node) ownerOf(s eventstore.StreamID) string {
	owner, _ := n.router.Ring().Owner(s)
	return owner
}

// folds makes states with the application's aggregates, for the console.
type folds struct{ catalog *aggregate.Catalog }

// Start implements [console.Folds].
func (f folds) Start(typ string) (console.Fold, error) {
	d, ok := f.catalog.Type(typ)
	if !ok {
		return nil, fmt.Errorf("this program has no aggregates of type %q, so it cannot make their states", typ)
	}
	return &fold{d, d.NewState()}, nil
}

// Restore implements [console.Folds].
func (f folds) Restore(typ string, kept json.RawMessage) (console.Fold, error) {
	d, ok := f.catalog.Type(typ)
	if !ok {
		return nil, fmt.Errorf("this program has no aggregates of type %q", typ)
	}
	state, err := d.DecodeState(kept)
	if err != nil {
		return nil, err
	}
	return &fold{d, state}, nil
}

// Fingerprint implements [console.Folds].
func (f folds) Fingerprint(typ string) string {
	if d, ok := f.catalog.Type(typ); ok && d.SnapshotEvery() > 0 {
		return d.Fingerprint()
	}
	return ""
}

// fold is the state of an aggregate.
type fold struct {
	*aggregate.Definition
	state any
}

// Apply implements [console.Fold].
func (f *fold) Apply(e eventstore.Event) error {
	event, err := f.DecodeEvent(e.Type, e.Form, e.Data)
	if err == nil {
		f.Definition.Apply(f.state, event)
	}
	return err
}

// View implements [console.Fold].
func (f *fold) View() (json.RawMessage, error) { return f.Definition.View(f.state) }

// Keep implements [console.Fold]. States of a type without snapshots may not survive
// their encoding.
func (f *fold) Keep() (json.RawMessage, error) {
	if f.SnapshotEvery() == 0 {
		return nil, nil
	}
	return f.EncodeState(f.state)
}
