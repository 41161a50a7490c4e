//go:build !unix

package gateway

import "net"

// nonblocking returns nil: every write may block, and has a goroutine.
func nonblocking(net.Conn) func([]byte) (int, error) { return nil }
