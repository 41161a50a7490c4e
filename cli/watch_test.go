package cli

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tiny is a program that prints a text when it starts and ends with its input.
const tiny = `package main

import ("fmt"; "io"; "os")

func main() {
	fmt.Println("begin", text, os.Args[1:])
	io.Copy(io.Discard, os.Stdin)
	fmt.Println("end", text)
}
`

// TestWatchRestartsProgramAfterChange edits a program while watch runs it.
func TestWatchRestartsProgramAfterChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	edit := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit("go.mod", "module example.com/tiny\n\ngo 1.26\n")
	edit("main.go", tiny)
	edit("text.go", `package main; const text = "one"`)
	out, in := io.Pipe()
	w := &watcher{
		pkg: "example.com/tiny", dir: dir, binary: filepath.Join(t.TempDir(), "tiny"), args: []string{"dev"},
		interval: 10 * time.Millisecond, out: in, errs: in, log: slog.New(slog.NewTextHandler(in, nil)),
	}
	w.env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.run(ctx); in.Close() }()
	lines := bufio.NewScanner(out)
	until := func(want string) {
		t.Helper()
		var seen []string
		for lines.Scan() {
			if seen = append(seen, lines.Text()); strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("no line has %q: %q", want, seen)
	}
	until("begin one [dev]")
	edit("text.go", `package main; const text = "two"`)
	until("end one")
	until("begin two")
	edit("text.go", `package main; const text = missing`)
	until("undefined: missing")
	until("old_one_runs=true")
	edit("more.go", `package main; const missing = "three"`)
	until("end two")
	until("begin three")
	edit("main.go", strings.Replace(tiny, "io.Copy", `panic("burnt"); io.Copy`, 1))
	until("end three")
	until("panic: burnt")
	until("it starts again after a change")
	edit("main.go", tiny)
	until("begin three")
	cancel()
	until("end three")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWatchPassesOtherArguments(t *testing.T) {
	t.Parallel()
	args := []string{"dev", "--watch", "--listen", "127.0.0.1:9", "--watch=true"}
	if got, want := childArguments(args), []string{"dev", "--listen", "127.0.0.1:9", "--until-eof"}; !slices.Equal(got, want) || len(args) != 5 {
		t.Errorf("got %q, want %q", got, want)
	}
}
