//go:build unix

package postgrestest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// quit makes the server end immediately, as in a crash.
const quit = syscall.SIGQUIT

// serverUser returns the user that runs the server, because initdb refuses root.
// nil means the user that runs the tests.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup(`nobody`); err != nil {
			return nil, fmt.Errorf("PostgreSQL refuses to run as root, and the users `postgres` and `nobody` do not exist: %w", err)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// own gives a directory and all its files to the server's user.
func (s *Server) own(dir string) error {
	u, err := serverUser()
	if err != nil || u == nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(u.Uid), int(u.Gid))
	})
}

func (s *Server) asServer(cmd *exec.Cmd) {
	u, err := serverUser()
	if err != nil {
		cmd.Err = err
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u}
	dieWithParent(cmd.SysProcAttr)
}
