package main

import (
	"fmt"
	"syscall"
)

// mount mounts an in-memory disk of mib MiB.
func mount(dir string, mib int) error {
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mib))
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
