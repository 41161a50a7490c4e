//go:build unix

package sqlite

import (
	"errors"
	"os"
	"strconv"
	"syscall"
)

// lockFile takes the lock for as long as the file is open: the system gives
// it back however the process ends. pid is the holder's, if it can be read.
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
	// Only for the error above; the lock does not depend on it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	return f, "", nil
}

func unlockFile(f *os.File) error { return f.Close() }
