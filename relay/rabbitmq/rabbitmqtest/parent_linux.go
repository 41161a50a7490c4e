package rabbitmqtest

import "syscall"

// dieWithParent ends the process when the tests are killed.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
