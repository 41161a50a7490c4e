//go:build !linux

package rabbitmqtest

import "syscall"

func dieWithParent(*syscall.SysProcAttr) {}
