//go:build unix

package postgres

import (
	"net"
	"syscall"
)

// alive looks whether the server has closed an idle connection, without
// waiting and without reading. What was sent on a dead connection may or may
// not have arrived; what was not sent is known not to have.
func alive(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	// Control and not Read: the driver may have a read pending on the idle
	// socket, and Read would wait for it.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Anything to read is the end of the stream, or the server's last
		// words: between two calls it has nothing else to say.
		quiet = err == syscall.EAGAIN || err == syscall.EINTR
	})
	return err == nil && quiet
}
