//go:build unix

package node

import "syscall"

// descriptors returns the process's limit of open files: the soft one, which Go's
// runtime raises to the hard one.
func descriptors() (uint64, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), err
}
