//go:build !linux

package socket

import (
	"net"
	"time"
)

// giveUpAfter does nothing: TCP_USER_TIMEOUT exists only on Linux.
func giveUpAfter(net.Conn, time.Duration) {}
