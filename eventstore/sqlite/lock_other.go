//go:build !unix

package sqlite

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
)

// lockFile locks by creating a file. After a crash, an operator must delete that
// file; the error of Open names its directory.
func lockFile(path string) (f *os.File, pid string, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if errors.Is(err, fs.ErrExist) {
		holder, _ := os.ReadFile(path)
		return nil, string(holder), errLocked
	}
	if err != nil {
		return nil, "", err
	}
	_, _ = f.WriteString(strconv.Itoa(os.Getpid()))
	return f, "", nil
}

func unlockFile(f *os.File) error {
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
