//go:build unix && !linux

package postgrestest

import "syscall"

// dieWithParent does nothing: only Linux can end the server with its parent. If
// the tests are killed, end the server by hand.
func dieWithParent(*syscall.SysProcAttr) {}
