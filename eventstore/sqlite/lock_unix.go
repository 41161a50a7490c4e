//go:build unix

package sqlite

import (
	"errors"
	"os"
	"strconv"
	"syscall"
)

// lockFile locks a file until it is closed. The system releases the lock when the
// process ends, even after a crash. pid is the holder's process id, if the file
// contains it.
func lockFile(path string) (f *os.File, pid string, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, "", err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 20)
		n, _ := f.Read(holder)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, string(holder[:n]), errLocked
		}
		return nil, "", err
	}
	// The process id is only for the error message above. The lock does not
	// depend on it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	return f, "", nil
}

func unlockFile(f *os.File) error { return f.Close() }
