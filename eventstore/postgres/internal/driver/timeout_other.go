//go:build !linux

package driver

import (
	"net"
	"time"
)

// limitUnacknowledged does nothing: only Linux has the option.
func limitUnacknowledged(net.Conn, time.Duration) {}
