//go:build unix

package socket

import (
	"net"
	"syscall"
)

// nonblocking returns a function that writes what the kernel takes without
// blocking: nothing if the socket is full. It returns nil for connections that
// are not a bare socket, such as TLS. The function is not safe for concurrent
// use. It fails once a write deadline has passed.
func nonblocking(conn net.Conn) func([]byte) (int, error) {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	var (
		p    []byte
		n    int
		werr error
	)
	write := func(fd uintptr) bool {
		for {
			n, werr = syscall.Write(int(fd), p)
			if werr != syscall.EINTR {
				return true // do not wait until the socket is writable
			}
		}
	}
	return func(b []byte) (int, error) {
		p = b
		err := raw.Write(write)
		p = nil
		switch {
		case err != nil:
			return 0, err
		case werr == syscall.EAGAIN:
			return 0, nil
		case werr != nil:
			return 0, werr
		}
		return n, nil
	}
}
