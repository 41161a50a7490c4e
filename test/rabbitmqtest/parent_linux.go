package rabbitmqtest

import "syscall"

// endWithParent ends the process when its parent is killed. At SIGTERM, the server's
// script ends the server.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }
