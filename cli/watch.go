package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// pollInterval is how often --watch looks for changed files. Polling also works
// where the system reports no changes, such as in a container's mounted folder.
const pollInterval = 500 * time.Millisecond

// watchProgram runs the program with the arguments of "dev --watch", but --watch, and
// builds and starts it again after each change of its files, until ctx ends.
func watchProgram(ctx context.Context, args []string, log *slog.Logger) error {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Path == "" || info.Path == "command-line-arguments" {
		return usagef("--watch does not know which package this program is: build it, or run it as 'go run PACKAGE dev --watch'")
	}
	dir, err := os.MkdirTemp("", "watch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &watcher{
		pkg: info.Path, flags: buildFlags(info), binary: filepath.Join(dir, "program"), args: childArguments(args),
		interval: pollInterval, out: os.Stdout, errs: os.Stderr, log: log,
	}
	return w.run(ctx)
}

// buildFlags returns the flags with which the program was built that change what
// it does.
func buildFlags(info *debug.BuildInfo) []string {
	var flags []string
	for _, s := range info.Settings {
		if s.Key == "-tags" || s.Key == "-race" && s.Value == "true" {
			flags = append(flags, s.Key+"="+s.Value)
		}
	}
	return flags
}

// childArguments replaces --watch by the flag that ends the program with its
// standard input.
func childArguments(args []string) []string {
	args = slices.DeleteFunc(slices.Clone(args), func(arg string) bool {
		return arg == "--watch" || strings.HasPrefix(arg, "--watch=")
	})
	return append(args, "--until-eof")
}

// watcher builds a program and keeps it running.
type watcher struct {
	pkg      string   // import path of the program's main package
	dir      string   // from which the package is built; "" is the current one
	env      []string // of the go command; nil is that of this process
	flags    []string // of go build
	binary   string   // where the builds go, without their number
	args     []string // of the program
	interval time.Duration
	out      io.Writer
	errs     io.Writer
	log      *slog.Logger

	builds  int
	sources []string // folders with Go files, and single files, of the newest list that worked
	child   *child
}

// child is a running program. It ends when its standard input does, so it also ends
// with this process.
type child struct {
	binary string
	stdin  io.Closer
	ended  chan error
}

// run builds and runs the program until ctx ends. It fails only if the program's
// files cannot be listed at the start.
func (w *watcher) run(ctx context.Context) error {
	defer w.stop()
	if err := w.list(ctx); err != nil {
		return err
	}
	seen := w.state()
	w.restart(ctx)
	tick := time.NewTicker(w.interval)
	defer tick.Stop()
	for {
		var ended chan error
		if w.child != nil {
			ended = w.child.ended
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			w.child = nil
			w.log.Warn("the program has ended; it starts again after a change", "err", err)
		case <-tick.C:
			if w.state() == seen {
				continue
			}
			_ = w.list(ctx)  // the build reports what is wrong
			seen = w.state() // before the build, so a change during the build is seen
			w.restart(ctx)
		}
	}
}

// list finds the files that make the program: those of packages in modules on this
// machine, which are the modules of the workspace and the replaced ones.
func (w *watcher) list(ctx context.Context) error {
	const format = `{{if and (not .Standard) .Module}}{{if or .Module.Main (and .Module.Replace (not .Module.Replace.Version))}}` +
		`{{.Dir}}{{"\n"}}{{range .EmbedFiles}}{{$.Dir}}/{{.}}{{"\n"}}{{end}}{{.Module.GoMod}}{{"\n"}}{{end}}{{end}}`
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"list", "-deps", "-f", format}, w.flags, []string{w.pkg})...)
	cmd.Dir, cmd.Env = w.dir, w.env
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return fmt.Errorf("the files of %s can't be listed: %s; run --watch in the folder of the program's module", w.pkg, strings.TrimSpace(string(exit.Stderr)))
	case err != nil:
		return fmt.Errorf("--watch needs the go command: %w", err)
	}
	sources := strings.Fields(string(out))
	slices.Sort(sources)
	w.sources = slices.Compact(sources)
	return nil
}

// state describes the files: it changes when one of them does.
func (w *watcher) state() string {
	var b strings.Builder
	add := func(name string, info fs.FileInfo, err error) {
		if err != nil {
			fmt.Fprintln(&b, name, "gone")
			return
		}
		fmt.Fprintln(&b, name, info.Size(), info.ModTime().UnixNano())
	}
	for _, source := range w.sources {
		entries, err := os.ReadDir(source)
		if err != nil {
			info, err := os.Stat(source)
			add(source, info, err)
			continue
		}
		for _, e := range entries {
			if name := e.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
				info, err := e.Info()
				add(filepath.Join(source, name), info, err)
			}
		}
	}
	return b.String()
}

// restart builds the program. If that works, it ends the old one and starts the new
// one.
func (w *watcher) restart(ctx context.Context) {
	w.builds++
	binary := fmt.Sprint(w.binary, w.builds)
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", binary}, w.flags, []string{w.pkg})...)
	cmd.Dir, cmd.Env = w.dir, w.env
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		_, _ = w.errs.Write(out)
		w.log.Warn("the program does not build", "err", err, "old_one_runs", w.child != nil)
		return
	}
	w.stop()
	if err := w.start(binary); err != nil {
		w.log.Warn("the program can't be started", "err", err)
	}
}

func (w *watcher) start(binary string) error {
	cmd := exec.Command(binary, w.args...)
	cmd.Stdout, cmd.Stderr = w.out, w.errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	w.child = &child{binary: binary, stdin: stdin, ended: make(chan error, 1)}
	go func(ended chan<- error) { ended <- cmd.Wait() }(w.child.ended)
	return nil
}

// stop ends the program, if one runs, and waits for it.
func (w *watcher) stop() {
	if w.child == nil {
		return
	}
	w.child.stdin.Close()
	<-w.child.ended
	if err := os.Remove(w.child.binary); err != nil {
		w.log.Warn("a build can't be removed", "err", err)
	}
	w.child = nil
}
