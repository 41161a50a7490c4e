//go:build !unix

package socket

import "net"

// nonblocking returns nil: every write may block and needs a goroutine.
func nonblocking(net.Conn) func([]byte) (int, error) { return nil }
