// Package network gives each process of a test its own host, on a network that the
// test can cut and slow down.
//
// Each host is a Linux network namespace with one TUN device. This process is the
// wire between them: it reads every IP packet, and forwards, delays or drops it by
// a rule for each direction of each pair. A cut is like a cut between machines: no
// packet returns, not even a reset. It affects TCP and UDP alike, and needs no
// firewall. Namespaces and devices belong to threads of this process, and vanish
// when it ends, even after a crash.
//
// It needs root on Linux and the program ip.
package network

import "time"

// Rule determines what happens to packets from one host to another. The zero value
// forwards them.
type Rule struct {
	// Drop drops all packets.
	Drop bool
	// Loss is the share of dropped packets, from 0 to 1.
	Loss float64
	// Delay is the least delay of a packet, and Jitter the most that is added to it.
	// Packets keep their order.
	Delay, Jitter time.Duration
}
