//go:build !linux && !darwin && !freebsd

package sqlite

// freeOn returns -1: the free space is not known on this system.
func freeOn(string) int64 { return -1 }
