//go:build unix

package node

import "syscall"

// descriptors returns how many files the process may have open at a time: the
// soft limit, which Go's runtime has raised to the hard one.
func descriptors() (uint64, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), err
}
