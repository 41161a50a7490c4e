//go:build !linux

package transport

import (
	"net"
	"time"
)

// tune sets the bounds of a connection's kernel buffers. Only Linux also bounds how long
// data may be unacknowledged; elsewhere heartbeats alone notice a lost peer.
func tune(conn net.Conn, _ time.Duration) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetReadBuffer(kernelBuffer)
		_ = c.SetWriteBuffer(kernelBuffer)
	}
}
