package browser

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// The largest sizes, in bytes, of the program that "ganglion new" writes, and of
// its page with gzip.
const (
	maxProgram = 30 << 20
	maxPage    = 60 << 10
)

// TestNewProductIsBuiltTestedAndUsed follows the README of a new product: it writes it into an
// empty folder, runs its tests, builds its page and the program, orders dishes on the
// page, kills the program and continues. Where Docker runs it also builds the image.
func TestNewProductIsBuiltTestedAndUsed(t *testing.T) {
	if os.Getenv("GANGLION_FAULTS") != "long" {
		t.Skip("installs Vite and React, which takes a minute: the tests of cli/internal/scaffold are the short form, GANGLION_FAULTS=long the long one")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "diner")
	in := func(folder, name string, args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = folder
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	in(root, binary, "new", "diner", "--dir", dir, "--ganglion", ".")
	in(dir, "go", "test", "-race", "./...")
	in(dir, "./build.sh")
	program := filepath.Join(dir, "diner")
	checkSizes(t, program, filepath.Join(dir, "web", "dist"))
	if exec.Command("docker", "info").Run() == nil {
		in(dir, "docker", "build", "-t", "ganglion-new-product", ".")
	} else {
		t.Log("Docker does not run here: the image was not built")
	}

	t.Chdir(t.TempDir()) // for the folder diner-data
	listen := fmt.Sprint("127.0.0.1:", harness.FreePorts(t, 1))
	diner := harness.Start(t, program, 1, "dev", "--listen", listen)
	first := open(t, diner.URLs[0]+"/")
	order := func(p *page, dish string) {
		t.Helper()
		p.until("document.querySelector('.status')?.textContent === 'live'")
		// React notices the change of a value that is set like this, as it does typing.
		value[bool](p, fmt.Sprintf(`((i) => { Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(i, %q);
			i.dispatchEvent(new Event("input", { bubbles: true })); return true; })(document.querySelector("input"))`, dish))
		click(p, "form button")
		p.until("document.querySelector('input').value === ''")
	}
	shows := func(p *page, status, want string) {
		t.Helper()
		p.until(fmt.Sprintf("[...document.querySelectorAll('#%s li')].map((l) => l.firstChild.textContent).join() === %q", status, want))
	}
	click(first, "form button")
	first.until("document.querySelector('form [role=alert]').textContent === 'What would you like?'")
	for _, dish := range []string{"soup", "pie", "tea"} {
		order(first, dish)
	}
	shows(first, "cooking", "soup,pie")
	shows(first, "waiting", "tea")
	first.wantConsole()

	diner.Kill()
	diner = harness.Start(t, program, 1, "dev", "--listen", listen)
	second := open(t, diner.URLs[0]+"/")
	shows(second, "waiting", "tea")
	click(second, "#cooking button")
	for _, p := range []*page{first, second} { // the first has connected again by itself
		shows(p, "ready", "soup")
		shows(p, "cooking", "pie,tea")
		shows(p, "waiting", "")
	}
	second.wantConsole()
	second.screenshot("product")
	diner.Signal(syscall.SIGTERM)
	if code := diner.Wait(); code != 0 {
		t.Errorf("the program exits with status %d:\n%s", code, diner.Output())
	}
}

// checkSizes compares the sizes of the program and its page with their limits.
func checkSizes(t *testing.T, program, dist string) {
	t.Helper()
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	var page int64
	if err := filepath.WalkDir(dist, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var zipped bytes.Buffer
		w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := io.Copy(w, bytes.NewReader(text)); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		page += int64(zipped.Len())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("the program has %.1f MB, the page %.1f KB with gzip", float64(info.Size())/1e6, float64(page)/1e3)
	if info.Size() > maxProgram || page > maxPage {
		t.Errorf("the program may have %d bytes and the page %d: they have %d and %d", maxProgram, maxPage, info.Size(), page)
	}
}
