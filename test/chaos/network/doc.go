// Package network gives processes of a test hosts of their own, on a network
// that the test can cut and slow down.
//
// Each host is a Linux network namespace with one TUN device, and this process
// is the wire between them: it reads every IP packet, and passes it on, passes
// it on late, or drops it, by a rule for each direction of each pair. So a cut
// is one as machines know it (nothing comes back, no reset either), it hits
// TCP and UDP alike, and it needs no firewall. Namespaces and devices belong to
// threads of this process and end with it, however it ends.
//
// It needs root on Linux and the program ip.
package network

import "time"

// Rule is what happens to packets of one host to another. The zero value
// passes them on.
type Rule struct {
	// Drop loses all of them.
	Drop bool
	// Loss is the share of packets that are lost, from 0 to 1.
	Loss float64
	// Delay is how long a packet takes, Jitter by how much more at most.
	// Packets keep their order.
	Delay, Jitter time.Duration
}
