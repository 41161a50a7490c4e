package transport

import (
	"crypto/tls"
	"net"
	"time"
)

// The kernel drops a connection when data sent on it has been unacknowledged for this
// time (TCP_USER_TIMEOUT). Otherwise it would retransmit for minutes.
//
// Both bounds follow the silence that an operator allows: a slow network that needs a
// longer silence also needs a longer wait for acknowledgements. The client, which sends
// the commands, waits half a silence. If only the data that it sends is lost, the peer's
// data still arrives for a while, until the peer's kernel stops sending because it gets
// no acknowledgements. Without the shorter wait, a client would notice such a loss only
// after 700 to 800 ms, at the default silence. Linux counts from the first
// retransmission, which it makes after 200 ms at the earliest.
func clientUnacknowledged(silence time.Duration) time.Duration { return silence / 2 }
func serverUnacknowledged(silence time.Duration) time.Duration { return 4 * silence }

// abandon closes a connection without the end of TLS, for which Close would wait while
// the peer does not read.
func abandon(conn net.Conn) error {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	return conn.Close()
}
