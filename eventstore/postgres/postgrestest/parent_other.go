//go:build unix && !linux

package postgrestest

import "syscall"

// dieWithParent does nothing: only Linux can. A server outlives tests that are
// killed, and has to be ended by hand.
func dieWithParent(*syscall.SysProcAttr) {}
