package main

import (
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
		args := []string{"build", "-race", flag} // as these tests are built, so the dependencies are compiled already
		for _, e := range p.edits {
			args = append(args, "github.com/ganglion-es/ganglion/"+path.Dir(e.file))
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", p.name, err, out)
		}
	}
}
