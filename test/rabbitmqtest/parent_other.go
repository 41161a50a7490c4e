//go:build !linux

package rabbitmqtest

import "syscall"

func endWithParent(*syscall.SysProcAttr) {}
