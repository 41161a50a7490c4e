package main

import (
	"os"
	"os/exec"
	"path"
	"testing"
)

// TestPlantedFaultsCompile compiles the packages of every planted fault. "chaos -plant all"
// runs each until it is found.
func TestPlantedFaultsCompile(t *testing.T) {
	t.Parallel()
	for _, p := range plants {
		if len(p.edits) == 0 || len(p.breaks) == 0 {
			t.Errorf("%s changes nothing or breaks nothing", p.name)
		}
		flag, err := p.overlay(t.TempDir())
		if err != nil {
			t.Error(err)
			continue
		}
		args := []string{"build", flag}
		for _, e := range p.edits {
			args = append(args, "github.com/ganglion-es/ganglion/"+path.Dir(e.file))
		}
		build := exec.Command("go", args...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-tags=grpcnotrace,nopgxregisterdefaulttypes") // as scripts/chaos.sh, so most is built
		if out, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", p.name, err, out)
		}
	}
}
