// Package link connects a node to its peers.
//
// A node has one gRPC server (NewServer) and one Pool, which holds one
// connection per peer address; command links and feeds share it.
//
// A Link is this node's stream of commands to one domain node. It is opened as
// soon as there is an address and kept up for ever: a stream that ends is
// opened again, a peer that was away is found within half a second of its
// return. Requests are multiplexed by id. What is handed in while a batch is
// on its way into gRPC travels together in the next one, at most 64 requests
// or 64 KiB; nothing waits for company.
//
// # What a broken link tells
//
// Send's callback is called exactly once, with the reply or with what is known
// about the request without one:
//
//   - NotExecuted: the peer certainly did not begin it. It was still in our
//     own queue, or the peer ended the stream in good order, which it does
//     only after it has answered everything that it took.
//   - Unknown: it was handed to gRPC, and the stream broke.
//
// gRPC itself tells neither apart, so the line is drawn at our own queue:
// whatever was passed to gRPC is Unknown.
//
// # Signs of life
//
// Both sides send a batch at least every 100 ms, an empty one if there is
// nothing to say, and either side gives a stream up when it has heard nothing
// for 500 ms. The link opens another one, which is up only once the peer has
// spoken on it. Silence is counted in ticks of our own clock, so that a pause
// of this process is not taken for one of every peer.
//
// A link that was silent is on trial until the peer has answered a request, or
// has had none to answer and was heard without a gap for ten times the silence
// (5 s). A silence before the peer's first word on a stream is none: the peer
// may be starting. On trial a link is trusted with one at a time, and takes more only from callers who have
// nobody else to ask (Trust). So a peer that comes and goes, or whose
// heartbeats get through and whose work does not, holds up one command and not
// everybody's.
//
// What comes after such a silence is not begun. A receiver drops a batch that
// it had to wait for too long, and one that it finds when it could itself not
// speak for that long (it was stopped, or its machine was): its peer has given
// the stream up, and what waited on it has been answered elsewhere. So a
// frozen owner that wakes up, or the far end of a mended cable, starts nothing
// old. It is a courtesy that saves conflicts; what makes a command's effect
// happen once is its key.
//
// # Bounds
//
// A link queues at most 4,096 requests or 4 MiB and has at most 16,384
// unanswered; past that Send refuses (ErrFull). The receiving half stops
// reading a stream with 16,384 unanswered requests. A message of more than
// MaxMessage bytes is refused before gRPC would break the stream over it.
package link

import (
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
)

const (
	// MaxMessage bounds one request or reply, in encoded bytes: gRPC's receive
	// limit less room for the batch around it.
	MaxMessage = receiveLimit - 4<<10

	// Heartbeat is how often each side of a stream sends something.
	Heartbeat = 100 * time.Millisecond

	// DefaultSilence is how long a link may hear nothing before it is given
	// up. The longest silence measured between heartbeats was 108 ms on an
	// idle machine and 271 ms on a badly loaded one.
	DefaultSilence = 500 * time.Millisecond

	// trialSilences is after how many times Config.Silence without a gap a trial
	// ends that no request has decided.
	trialSilences = 10

	receiveLimit  = 1 << 20
	batchMessages = 64
	batchBytes    = 64 << 10
	maxQueued     = 4096
	maxQueuedSize = 4 << 20
	maxUnanswered = 16384
)

// Fate is what became of a request.
type Fate uint8

const (
	// Answered requests come with a reply.
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

// Trust is what a link is good for.
type Trust uint8

const (
	// Unusable links take nothing: the peer is not heard, or drains.
	Unusable Trust = iota
	// Doubted links were silent and have a request under way that will tell
	// whether they are well again.
	Doubted
	// Trusted links take requests. One that is on trial and has nothing under
	// way is Trusted with the next one.
	Trusted
)

// Done is told what became of a request. The reply is nil unless the fate is
// Answered. It is called on a goroutine of the link and must not block.
type Done func(reply *peer.Reply, fate Fate)

// Status is a link as an operator wants to see it.
type Status struct {
	Node string `json:"node"`
	Addr string `json:"addr"`
	// Up says that the peer has spoken on the current stream and has not been
	// silent since.
	Up bool `json:"up"`
	// Draining says that the peer takes no more requests.
	Draining bool `json:"draining"`
	// Doubted says that the link is on trial, since the peer was silent: it gets
	// one request at a time, if there is another node to ask.
	Doubted bool `json:"doubted"`
	// HeardMS is how long ago the peer last gave a sign of life, in
	// milliseconds; -1 if it never did.
	HeardMS    int64 `json:"heard_ms"`
	Queued     int   `json:"queued"`
	Unanswered int   `json:"unanswered"`
}
