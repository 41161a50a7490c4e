//go:build !unix

package postgrestest

import (
	"os"
	"os/exec"
)

var quit = os.Kill

func (s *Server) own(string) error { return nil }

func (s *Server) asServer(*exec.Cmd) {}
