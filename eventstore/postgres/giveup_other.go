//go:build !linux

package postgres

import (
	"net"
	"time"
)

// giveUpAfter leaves it to the kernel how long it sends to a server that does
// not acknowledge it.
func giveUpAfter(net.Conn, time.Duration) {}
