package transport

import (
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tune sets the options of a connection: the bounds of its kernel buffers, and how long
// data may be unacknowledged.
func tune(conn net.Conn, unacknowledged time.Duration) {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = c.SetReadBuffer(kernelBuffer)
	_ = c.SetWriteBuffer(kernelBuffer)
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
	})
}
