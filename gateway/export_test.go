package gateway

import (
	"maps"

	"github.com/ganglion-es/ganglion/proto/command"
)

// Routes returns the patterns that a gateway serves.
func (g *Gateway) Routes() []string {
	var patterns []string
	for _, r := range g.routes() {
		patterns = append(patterns, r.pattern)
	}
	return patterns
}

// Statuses returns the status for each code that has one of its own.
func Statuses() map[command.Code]int { return maps.Clone(statuses) }

// ReadsWaiting returns how many reads of the log wait for a place.
func (g *Gateway) ReadsWaiting() int {
	g.reads.mu.Lock()
	defer g.reads.mu.Unlock()
	return g.reads.waiting.len()
}
