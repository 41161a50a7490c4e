package processor

import (
	"encoding/json"
	"fmt"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// A model folds events into rows: a projection, or a process manager, whose rows are
// the states of its sequences.
type model interface {
	Segments() int
	// StreamType returns the aggregate type whose ids are the keys of all rows, if
	// there is one.
	StreamType() (typ string, ok bool)
	Reads(event aggregate.EventName) bool
	Decode(event aggregate.EventName, form int, data json.RawMessage) (any, error)
	// effects returns the rows that an event concerns.
	effects(at projection.At, name aggregate.EventName, event any) ([]effect, error)
	NewRow() any
	// apply makes an effect part of its row, and returns the commands that it causes.
	apply(at projection.At, e effect, event, row any) ([]process.Encoded, error)
	Gone(row any) bool
	EncodeRow(row any) (json.RawMessage, error)
	DecodeRow(raw json.RawMessage) (any, error)
	Values(row any) ([]any, error)
	// maxDepth returns how deep an event may be that causes commands.
	maxDepth() int
}

// An effect is one row that an event concerns.
type effect struct {
	key string
	k   int // its index among the rows that the event concerns
	of  any // what the model makes of it
}

// modelOf returns the model of a definition; one of the two is nil.
func modelOf(rows *projection.Definition, states *process.Definition) model {
	if states != nil {
		return stateModel{states}
	}
	return rowModel{rows}
}

// rowModel is a projection.
type rowModel struct{ *projection.Definition }

func (m rowModel) effects(at projection.At, name aggregate.EventName, event any) ([]effect, error) {
	found, err := m.Effects(at, name, event)
	list := make([]effect, len(found))
	for i, e := range found {
		list[i] = effect{key: e.Key, of: e}
	}
	return list, err
}

func (m rowModel) apply(at projection.At, e effect, event, row any) ([]process.Encoded, error) {
	m.Apply(at, e.of.(projection.Effect), event, row)
	return nil, nil
}

func (rowModel) maxDepth() int { return 0 }

// stateModel is a process manager.
type stateModel struct{ *process.Definition }

// StreamType reports false: a state also depends on the process manager's own stream.
func (stateModel) StreamType() (string, bool) { return "", false }

func (m stateModel) effects(at projection.At, name aggregate.EventName, event any) ([]effect, error) {
	found, err := m.Effects(at, name, event)
	list := make([]effect, len(found))
	for i, e := range found {
		list[i] = effect{key: e.Sequence, k: i, of: e}
	}
	return list, err
}

func (m stateModel) NewRow() any { return m.NewState() }

func (m stateModel) apply(at projection.At, e effect, event, row any) ([]process.Encoded, error) {
	return m.Handle(at, e.of.(process.Effect), event, row)
}

func (m stateModel) Gone(row any) bool { return m.Finished(row) }

func (m stateModel) EncodeRow(row any) (json.RawMessage, error) { return m.EncodeState(row) }

func (m stateModel) DecodeRow(raw json.RawMessage) (any, error) { return m.DecodeState(raw) }

func (m stateModel) Values(row any) ([]any, error) {
	due, err := m.Due(row)
	if err != nil || due.IsZero() {
		return []any{nil}, err
	}
	return []any{due.UnixMicro()}, nil
}

func (m stateModel) maxDepth() int { return m.MaxDepth() }

// SpecOfProcess describes the build of a process manager to a rows.Store.
func SpecOfProcess(d *process.Definition) rows.Spec {
	return rows.Spec{
		Projection: d.Name(), Fingerprint: d.Fingerprint(), Segments: d.Segments(), Columns: []rows.Column{rows.DueColumn},
		Process: true, FromTheBeginning: d.FromTheBeginning(),
	}
}

// tooDeep returns the error of an event that would cause commands beyond the bound
// on chains of causes.
func tooDeep(depth, most int) error {
	return fmt.Errorf("the event is the end of a chain of %d causes and would cause a command, at most %d are allowed: "+
		"look for aggregates and process managers that cause each other's events without an end; "+
		"a retry counts from 0, and MaxDepth raises the bound", depth, most)
}

// depthOf returns how many causes in a row have led to a commit, 0 for one that no
// process manager has caused.
func depthOf(c *eventstore.Commit) int { return c.Meta.Depth }
