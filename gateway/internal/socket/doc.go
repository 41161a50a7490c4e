// Package socket is a client's network connection below the WebSocket library:
// the library reads from it, and the gateway writes to it.
//
// A [Conn] writes what the kernel takes without blocking ([Conn.Try]). A
// goroutine writes the rest of the message ([Conn.WriteAll]); the peer must take
// some of it within each grace period. The library writes nothing but control
// frames. The Conn passes them to [Options.OnControl], so that they are written
// between two messages.
//
// [Ping], [Pong], [Close] and [Text] make the frames of a server (RFC 6455, 5):
// unmasked, in one fragment.
//
// Try, WriteAll and WriteLast must not be called concurrently. All other
// methods are safe for concurrent use, except where they say otherwise.
package socket
