//go:build unix

package driver

import (
	"net"
	"syscall"
)

// alive reports whether an idle connection is still open at the server. It
// neither waits nor consumes input. The check matters because the outcome of a
// statement that was sent on a dead connection is unknown.
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
	// Control instead of Read: pgx may have a read pending on the idle socket,
	// and Read would wait for it.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		// Between two statements a server sends nothing but a final error and the
		// end of the stream.
		quiet = err == syscall.EAGAIN || err == syscall.EINTR
	})
	return err == nil && quiet
}
