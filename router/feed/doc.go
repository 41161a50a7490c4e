// Package feed delivers committed events to every node that subscribes: all
// events, once each, in the order of the log.
//
// A [Publisher] gets every batch that its node has committed and pushes it to
// its subscribers. A [Subscriber] receives from all publishers, puts the events
// in order and passes them to one function.
//
// # Why no event is lost or repeated
//
// Positions are dense and in commit order. A subscriber that has delivered
// everything up to its watermark W knows that the next event is W+1, and that no
// event will appear at or below W. So a push may be lost, late, repeated or out
// of order, and the subscriber can tell:
//
//   - a frame that ends at or below W is a repeat and is dropped;
//   - a frame that overlaps W is trimmed;
//   - a frame that begins at W+1 is delivered;
//   - a frame above W+1 is parked, and the hole before it is visible.
//
// Every hole is filled the same way, by reading the log after W: immediately
// after a SKIP or the end of a stream, else when the hole is 30 ms old, since the
// push that fills it may be in transit.
//
// So pushing affects only latency. Without it (Push is false, the network is
// cut, a publisher died between commit and push) the same events are delivered
// in the same order, but later. If the newest events are missing, no later event
// shows a hole. The subscriber finds them by asking the log for its head: when a
// stream opens; when one ends (immediately, after 50 ms and after 200 ms, since
// an append that a dead node had sent may still commit); every 500 ms; and every
// 50 ms while a live domain node has no healthy stream.
//
// Commits stay whole: frames are cut between commits, the log is read in whole
// commits, and the head is the end of a commit. So W is always between two
// commits, and trimming never cuts one.
//
// # What a subscriber believes
//
// Every batch names the incarnation of the log that its positions belong to. If
// a log is restored without its newest events and the operator accepts the loss,
// new events get the positions of the lost ones, under a new incarnation. A
// subscriber delivers only its own incarnation, asks the log when it receives
// another one, and changes only by Reset.
//
// Frames come from peers that proved their identity, or from a network that the
// operator declared safe. So a subscriber believes the content of events, and
// believes that pushed commits are in the log. It checks positions. It refuses a
// frame that is not dense or names impossible positions. It also refuses a
// position, and the frames that claimed it, if the log does not have the
// position when asked afterwards. It ignores a peer for 5 s after refusing one
// of its frames.
//
// # Bounds
//
// A publisher's ring holds 4096 frames or 8 MiB, whichever is less, for any
// number of subscribers. A subscriber that falls out of the ring gets one SKIP
// and reads the missed events from the log; other subscribers are not affected.
//
// A subscriber holds at most:
//
//   - 32 received batches that are not processed, and one more per stream (64 KiB
//     each, or one frame; a batch of more than 1 MiB is not received);
//   - 8192 parked events or 16 MiB; events past the bound are dropped and read
//     from the log;
//   - one page of the log (256 commits: 48 MiB if all have the largest size).
//
// If it processes too slowly, its streams are not read, and the publishers'
// rings overrun.
package feed

import "time"

// The times of the protocol. The longest measured silence between heartbeats of
// 100 ms was 108 ms on an idle machine and 271 ms on a badly loaded one.
const (
	heartbeat = 100 * time.Millisecond // the longest time between two HEADs
	silence   = 500 * time.Millisecond // a stream that is silent for longer is unhealthy
	giveUp    = 5 * time.Second        // a stream that is silent for this long is opened again
	distrust  = 5 * time.Second        // how long a peer is ignored after a refused frame

	patience   = 30 * time.Millisecond  // how long a hole may wait for a push
	pollEvery  = 50 * time.Millisecond  // between questions to the log while a stream is missing
	headEvery  = 500 * time.Millisecond // between questions to the log while no stream is missing
	askTimeout = 5 * time.Second        // of one question to the log

	retryMin = 50 * time.Millisecond // between attempts to reach a peer or the log
	retryMax = 500 * time.Millisecond
)

// headChecksAfterEnd are the times after the end of a stream at which the log is
// asked for its head.
var headChecksAfterEnd = [...]time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond}

// The bounds of the package comment.
const (
	ringFrames  = 4096
	ringBytes   = 8 << 20
	frameBytes  = 256 << 10
	batchFrames = 64
	batchBytes  = 64 << 10

	arrivals     = 32
	parkedEvents = 8192
	parkedBytes  = 16 << 20
	pageCommits  = 256
)
