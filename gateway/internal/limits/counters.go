package limits

import "sync/atomic"

// Kind is a kind of bound.
type Kind int

// The kinds that [Counters] counts.
const (
	FrameBytes Kind = iota
	HeaderBytes
	HelloTimeout
	Sessions
	SessionsPerClient
	AnonymousSessions
	Subscriptions
	LiveQueries
	Queries
	OpenRequests
	OutboundBytes
	CommandsPerSecond
	Reads
	Renewals
	kinds
)

var names = [kinds]string{
	FrameBytes: "frame_bytes", HeaderBytes: "header_bytes", HelloTimeout: "hello_timeout",
	Sessions: "sessions", SessionsPerClient: "sessions_per_client", Subscriptions: "subscriptions",
	LiveQueries: "live_queries", Queries: "queries",
	AnonymousSessions: "anonymous_sessions", Reads: "reads", Renewals: "renewals",
	OpenRequests: "open_requests", OutboundBytes: "outbound_bytes", CommandsPerSecond: "commands_per_second",
}

// Counters counts how often each bound was reached. It is safe for concurrent
// use.
type Counters struct{ reached [kinds]atomic.Uint64 }

// Reached counts that a bound was reached.
func (c *Counters) Reached(k Kind) { c.reached[k].Add(1) }

// ByName returns the counts by names such as frame_bytes.
func (c *Counters) ByName() map[string]uint64 {
	counts := make(map[string]uint64, kinds)
	for k, name := range names {
		counts[name] = c.reached[k].Load()
	}
	return counts
}
