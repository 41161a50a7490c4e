package engine

import (
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
)

// Memories has the states of a node's projections in memory. Their Read methods
// take it. It is safe for concurrent use.
type Memories = projection.Memories

// newMemories returns the projections in memory of a catalog.
func newMemories(cfg ProjectionsConfig, tail *processor.Tail) *processor.Memories {
	var models []*projection.MemoryDefinition
	for _, m := range cfg.Catalog.Models(projection.MemoryKind) {
		models = append(models, m.(*projection.MemoryDefinition))
	}
	return processor.NewMemories(processor.MemoriesConfig{Models: models, Log: cfg.Store, Tail: tail, Logger: cfg.Logger})
}

// CaughtUp is closed once every projection in memory has been within a second of
// the head of the log, or has stopped because an event cannot be folded. A node
// waits for it before it is ready. Run must have been called.
func (p *Projections) CaughtUp() <-chan struct{} { return p.memories.Settled() }

// MemoryFigures are the figures of one projection in memory.
type MemoryFigures = processor.MemoryFigures

// Memory returns the figures of the projections in memory, sorted by name.
func (p *Projections) Memory() []MemoryFigures { return p.memories.Figures() }

// ReadMemory makes Projections a [projection.Memories].
func (p *Projections) ReadMemory(d *projection.MemoryDefinition, read func(state any, position uint64)) error {
	return p.memories.ReadMemory(d, read)
}
