//go:build linux || darwin || freebsd

package sqlite

import "syscall"

// freeOn returns the bytes that programs can still write to the disk of a directory, -1
// if they are not known.
func freeOn(dir string) int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
