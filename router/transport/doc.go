// Package transport carries messages between nodes.
//
// Every node has one [Server], at its address for peers, and one [Pool], which opens
// connections to the servers of others. Both sides authenticate with certificates of
// the cluster's authority, unless the operator has declared the network safe.
//
// # Streams
//
// A stream has a connection of its own, so it has the flow control of TCP, and a slow
// stream never delays another one. It begins as a request of HTTP/1.1 with
// "Upgrade: ganglion-peer". After the response each side sends frames: a byte with the
// kind of the frame, three bytes with the length of its content (big-endian, at most
// 1 MiB), and the content.
//
//	kind 0  a message of proto/peer, in the encoding of Protocol Buffers
//	kind 1  the end, by the server: JSON with the code and the message of an error, or
//	        nothing if the stream ended in order
//
// A connection that ends without a frame of kind 1 is broken: the client cannot know
// what the server has read.
//
// Messages are encoded by the goroutine that sends them, into a buffer that the stream
// keeps, and are written with one system call. They are read by the goroutine that
// receives them. So a message wakes one goroutine, the one that waits for it.
//
// # Calls
//
// Everything that is not on the path of commands and events is a POST with a JSON
// object, answered by a JSON object, or by several that follow each other. So an
// operator can make a call with curl and a certificate:
//
//	curl --cert op.pem --key op.key --cacert ca.pem --json '{}' https://node:7947/peer/vitals
//
// A failed call has a status from 400 on and a JSON object with code and message.
//
// # Bounds
//
// Each direction of a stream has 256 KiB of kernel buffers in each of the two kernels.
// A message of more than 1 MiB is refused, as is a header of more than 8 KiB. The kernel
// drops a connection when data sent on it has been unacknowledged for half of Silence
// (clients) or four times Silence (servers), see [PoolConfig].
package transport

import "time"

const (
	// MaxMessage bounds the encoding of a message, in bytes.
	MaxMessage = 1 << 20

	// DefaultSilence is how long a peer may send nothing before its streams are
	// abandoned, by default. The longest measured silence between heartbeats of 100 ms
	// was 108 ms on an idle machine and 271 ms on a badly loaded one.
	DefaultSilence = 500 * time.Millisecond

	upgrade   = "ganglion-peer"
	prefix    = "/peer/"
	maxHeader = 8 << 10

	// kernelBuffer is asked for each direction of a stream's socket, in bytes. It
	// bounds what a slow reader holds back, and how much can be in transit in a round
	// trip.
	kernelBuffer = 256 << 10
)
