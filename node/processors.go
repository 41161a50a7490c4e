package node

import (
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
)

// Types of the operations on projections.
type (
	Processors    = engine.Operations
	SegmentState  = engine.SegmentState
	BlockedRow    = engine.BlockedRow
	OutboxState   = engine.OutboxState
	HeldCommand   = engine.HeldCommand
	Resumed       = engine.Resumed
	RowDifference = engine.Difference
	RowsVerified  = engine.Verified
)

// MostHeld bounds the held commands that operations read together.
const MostHeld = engine.MostHeld

// OperateProcessors returns the operations on the projections of a log, whether or
// not nodes run. The error is what is wrong with the catalog.
func OperateProcessors(store Store, catalog *aggregate.Catalog) (*Processors, error) {
	if err := catalog.Err(); err != nil {
		return nil, err
	}
	return engine.NewOperations(engine.OperationsConfig{Catalog: catalog, Store: store, Rows: store.Rows()}), nil
}

// Types of the operations on wake-ups.
type (
	WakeOperations = engine.WakeOperations
	WakeRow        = engine.WakeRow
)

// OperateWakes returns the operations on the wake-ups of a log, whether or not nodes
// run.
func OperateWakes(store Store) WakeOperations {
	return WakeOperations{Wakes: store.Wakes(), Rows: store.Rows()}
}
