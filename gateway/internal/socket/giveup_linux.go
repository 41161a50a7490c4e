package socket

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func giveUpAfter(conn net.Conn, d time.Duration) {
	sc, ok := netConn(conn).(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // an optimization: the session works without it
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}
