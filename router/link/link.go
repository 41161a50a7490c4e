// Package link connects a node to its peers.
//
// A [Link] is this node's stream of commands to one domain node, and an
// [Inbound] is the receiving half. Run opens a Link's stream, and opens it again
// whenever it ends, so a peer that returns is found within half a second.
// Requests are multiplexed by id. Requests that are queued while a batch is
// written form the next one, of at most 64 requests or 64 KiB. No request waits
// for a batch to fill.
//
// # The fate of a request
//
// Send's callback is called exactly once. Its fate is Answered, with the reply,
// or one of these, without:
//
//   - NotExecuted: the peer certainly did not begin the request. It was still in
//     this node's queue, or the peer ended the stream cleanly, which it does only
//     after it has answered every request that it accepted.
//   - Unknown: the request was written, and the stream broke. What was written
//     may or may not have been sent.
//
// # Signs of life
//
// Both sides send a batch at least every 100 ms, an empty one if they have
// nothing to send. Either side abandons a stream on which it has received
// nothing for 500 ms. The link then opens another stream, and is up when the
// first batch arrives on it. Silence is counted in ticks of a local timer, so a
// pause of this process does not look like the silence of all peers.
//
// After a silence a link is on trial. The trial ends when the peer answers a
// request, or when the link has no request and receives batches for ten times
// the silence (5 s) without a gap. A silence before the first batch of a stream
// begins no trial, since the peer may be starting. On trial, a link accepts one
// request at a time, and more only from callers without another candidate
// ([Trust]). So a peer that keeps falling silent, or that sends heartbeats but no
// replies, delays only one command.
//
// After a silence, a receiver begins no requests of the old stream. It drops a
// batch if it waited for it longer than the silence, or if it has itself sent
// nothing for that long because its process or machine was stopped. By then the
// peer has abandoned the stream and asked other nodes. So a frozen owner that
// thaws executes no old requests. This only saves version conflicts: that a
// command takes effect once is ensured by its key.
//
// # Bounds
//
// A link queues at most 4,096 requests or 4 MiB, and has at most 16,384
// unanswered ones; past that Send returns ErrFull. An Inbound stops reading at
// 16,384 unanswered requests. A message of more than MaxMessage bytes is
// refused, because it would break the stream.
package link

import (
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// MaxMessage bounds one request or reply, in encoded bytes: the receive limit
	// of 1 MiB less 4 KiB for the batch around it.
	MaxMessage = transport.MaxMessage - 4<<10

	// Heartbeat is how often each side of a stream sends something.
	Heartbeat = 100 * time.Millisecond

	// DefaultSilence is how long a peer may send nothing before its stream is
	// abandoned, 500 ms.
	DefaultSilence = transport.DefaultSilence

	// trialSilences is the length of a trial without requests, in multiples of
	// Config.Silence.
	trialSilences = 10

	batchMessages = 64
	batchBytes    = 64 << 10
	maxQueued     = 4096
	maxQueuedSize = 4 << 20
	maxUnanswered = 16384
)

// Fate is what is known about the execution of a request.
type Fate uint8

const (
	// Answered requests have a reply.
	Answered Fate = iota
	// NotExecuted requests were certainly not begun by the peer.
	NotExecuted
	// Unknown requests may or may not have been executed.
	Unknown
)

// String returns "answered", "not executed" or "unknown".
func (f Fate) String() string {
	switch f {
	case Answered:
		return "answered"
	case NotExecuted:
		return "not executed"
	}
	return "unknown"
}

// Trust is how far a link can be used.
type Trust uint8

const (
	// Unusable links accept no request: the peer is silent or draining.
	Unusable Trust = iota
	// Doubted links are on trial and have an unanswered request.
	Doubted
	// Trusted links accept requests. A link on trial is Trusted while it has no
	// unanswered request.
	Trusted
)

// Done receives the fate of a request. The reply is nil unless the fate is
// Answered. A goroutine of the link calls it; it must not block.
type Done func(reply *peer.Reply, fate Fate)

// Status describes a link to an operator.
type Status struct {
	Node string `json:"node"`
	Addr string `json:"addr"`
	// Up reports whether the peer has sent a batch on the current stream and has
	// not been silent since.
	Up bool `json:"up"`
	// Draining reports whether the peer accepts no more requests.
	Draining bool `json:"draining"`
	// Doubted reports whether the link is on trial after a silence: it gets one
	// request at a time if another candidate exists.
	Doubted bool `json:"doubted"`
	// HeardMS is the time since the last batch from the peer, in milliseconds; -1
	// if it has sent none.
	HeardMS    int64 `json:"heard_ms"`
	Queued     int   `json:"queued"`
	Unanswered int   `json:"unanswered"`
}
