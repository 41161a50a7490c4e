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

// Statuses returns the status of each code that has its own.
func Statuses() map[command.Code]int { return maps.Clone(statuses) }

// ReadsWaiting returns the number of reads of the log that wait for their turn.
func (g *Gateway) ReadsWaiting() int {
	return g.log.Waiting()
}
