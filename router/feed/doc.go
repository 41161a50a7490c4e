// Package feed carries committed events from the nodes that committed them to
// every node that wants them: all of them, once, in the order of the log.
//
// A Publisher is told of every batch that its node's store has stored and
// pushes it to whoever subscribed. A Subscriber takes what all publishers
// push, puts it in order and hands it to one function.
//
// # Why it is right
//
// Positions are dense and in commit order: a subscriber that has delivered
// everything up to its watermark W knows that the next event is W+1, and that
// nothing at or below W will ever appear. So a push may be lost, late, doubled
// or out of turn, and the subscriber sees it for what it is:
//
//   - a frame that ends at or below W is a repeat and is dropped;
//   - one that overlaps W is trimmed;
//   - one that begins at W+1 is delivered;
//   - one above W+1 is parked, and the hole before it is visible.
//
// Whatever leaves a hole is repaired the same way, by reading the log after W:
// at once after a SKIP or when a stream ended, and once the hole is 30 ms old
// otherwise, for the push that fills it may be under way.
// Pushing gives latency and nothing else; without it (Push = false, no network
// between nodes, a publisher that died between its commit and its push) the
// same events are delivered in the same order, only later. What is missing
// without leaving a hole, because nothing came after it, is found by asking
// the log for its head: when a stream opens, when one ends (at once, after 50
// and after 200 ms: an append that the dead node had sent may still be under
// way), and every 500 ms; every 50 ms while a live domain node has no healthy
// stream.
//
// Commits are whole everywhere: frames are split between commits, the log is
// read in commits, the head is the end of a commit. So W always stands between
// two commits, and trimming an overlap never cuts one.
//
// # What is believed
//
// Every batch names the incarnation of the log that its positions belong to.
// After a restored log's loss was accepted, positions are used again for other
// events; a subscriber takes only what belongs to its own incarnation, asks the
// log when it hears of another one, and changes only by Reset.
//
// Frames come from peers that proved who they are (or from a network that the
// operator declared safe), so what a frame says an event says is believed, as
// is that pushed commits are in the log. Positions are not taken on trust: a
// frame that is not dense inside, or that names impossible positions, is
// refused, and a position that the log turns out not to have, when it is
// asked after the position was heard of, is refused together with the frames
// that claimed it. A peer that sent such a thing is not listened to for 5 s.
//
// # Bounds
//
// The publisher's ring holds 4096 frames or 8 MiB, whichever is less, however
// many subscribers there are. A subscriber that falls out of the ring gets one
// SKIP in place of what it missed and reads that from the log; nobody else
// notices. A subscriber holds at most 32 batches that were received and not
// yet looked at and one more per stream (64 KiB each, or one frame; what is
// larger than 1 MiB is not received), 8192 parked events or 16 MiB, and one
// page of the log (256 commits: 48 MiB if all are as large as they may be).
// When what is received is not looked at, the streams stop reading,
// and the publishers' rings overrun; when what is parked does not fit, it is
// dropped and read from the log.
package feed

import "time"

// The times of the protocol. Measured: the longest silence between heartbeats
// of 100 ms was 108 ms on an idle machine, 271 ms on a badly loaded one.
const (
	heartbeat = 100 * time.Millisecond // a HEAD at least this often
	silence   = 500 * time.Millisecond // a stream that says nothing for longer is not healthy
	giveUp    = 5 * time.Second        // … and is opened anew after this
	distrust  = 5 * time.Second        // a peer that talks nonsense is left alone for this long

	patience   = 30 * time.Millisecond  // how long a hole may wait for a push that is under way
	tailEvery  = 50 * time.Millisecond  // the log is asked this often while a stream is missing
	headEvery  = 500 * time.Millisecond // … and this often while none is
	askTimeout = 5 * time.Second        // one question to the log

	retryMin = 50 * time.Millisecond // between attempts to reach a peer or the log
	retryMax = 500 * time.Millisecond
)

// lookAfterEnd says when the log is asked for its head after a stream ended.
var lookAfterEnd = [...]time.Duration{0, 50 * time.Millisecond, 200 * time.Millisecond}

// The bounds of the package comment.
const (
	ringFrames   = 4096
	ringBytes    = 8 << 20
	frameBytes   = 256 << 10
	batchFrames  = 64
	batchBytes   = 64 << 10
	receiveBytes = 1 << 20 // a message larger than this ends its stream

	arrivals     = 32
	parkedEvents = 8192
	parkedBytes  = 16 << 20
	pageCommits  = 256
)
