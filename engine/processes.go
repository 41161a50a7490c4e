package engine

import (
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/engine/internal/outbox"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
)

// ProcessStats are the figures of one process manager on one node: those of its fold,
// and those of its outbox.
type ProcessStats struct {
	ProjectionStats
	Outbox OutboxStats
}

// OutboxStats are the figures of the outbox of a process manager.
type OutboxStats = outbox.Stats

// A processManager runs the builds of one process manager, as far as the node owns
// their segments.
type processManager struct {
	processor *processor.Processor
	outbox    *outbox.Outbox
}

// addProcesses adds the process managers of a catalog.
func (p *Projections) addProcesses(cfg ProjectionsConfig, shared processor.Config) {
	if cfg.Send == nil {
		return
	}
	var isBusy func() bool
	if s, ok := cfg.Store.(eventstore.Busy); ok {
		isBusy = func() bool { return processor.IsBusy(s.Appending()) }
	}
	slots := outbox.NewSlots(isBusy)
	for _, d := range process.All(cfg.Catalog) {
		one := shared
		one.Process = d
		one.Outbox = outbox.New(outbox.Config{
			Process: d, Rows: cfg.Rows, Send: cfg.Send, LogID: cfg.Store.LogID, Slots: slots, Logger: cfg.Logger,
		})
		one.Owns = func(segment int) bool { return cfg.Owns(d.Name(), segment) }
		p.processes = append(p.processes, processManager{processor.New(one), one.Outbox})
	}
}

// Processes returns the figures of each process manager that the node runs, sorted by
// name.
func (p *Projections) Processes() []ProcessStats {
	all := make([]ProcessStats, len(p.processes))
	for i, one := range p.processes {
		all[i] = ProcessStats{one.processor.Stats(), one.outbox.Stats()}
	}
	return all
}
