// Command mutants measures how well the tests of a package find faults. It plants
// one small fault at a time (a negated condition, an off-by-one bound, a dropped
// statement), runs the tests of the package, and lists the faults that they miss.
//
// Usage: go run ./tools/mutants -pkg ./router [-n 40] [-seed 1] [-limit 10m] [-run REGEXP]
//
// It does not change the working tree: the compiler reads a mutated file through
// -overlay. Each mutant costs one compilation of the package and one run of its
// tests, so the command tests a random sample and stops at -limit. The race
// detector and go vet are off. Survivors need judgement: many are equivalent to
// the original or affect only log lines. The exit status is 1 if the package could
// not be measured, and otherwise 0, with or without survivors.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type options struct {
	pkg, run string
	n        int // number of mutants to run
	seed     uint64
	limit    time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.pkg, "pkg", "", "package to mutate, such as ./router")
	flag.StringVar(&o.run, "run", "", "run only tests that match this regular `expression`")
	flag.IntVar(&o.n, "n", 40, "number of mutants to run")
	flag.Uint64Var(&o.seed, "seed", 1, "`seed` of the sample: the same seed selects the same mutants of the same code")
	flag.DurationVar(&o.limit, "limit", 10*time.Minute, "time after which no further mutant is run")
	flag.Parse()
	if o.pkg == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "mutants: name one package, such as -pkg ./router")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// source is the package under test.
type source struct {
	ImportPath, Dir string
	GoFiles         []string
}

// measure runs a sample of the package's mutants and writes a report to out.
func measure(ctx context.Context, o options, out io.Writer) error {
	src, err := load(ctx, o.pkg)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	profile := filepath.Join(dir, "cover")
	began := time.Now()
	if text, err := goTest(ctx, o, "-coverprofile="+profile, src.ImportPath); err != nil {
		return fmt.Errorf("the tests fail without any mutant: %w\n%s", err, text)
	}
	patience := max(20*time.Second, 4*time.Since(began))
	reached, err := readCover(profile, src.ImportPath)
	if err != nil {
		return err
	}
	all, err := src.mutants()
	if err != nil {
		return err
	}
	unreached := len(all)
	all = slices.DeleteFunc(all, func(m mutant) bool { return !reached.has(m.file, m.line) })
	unreached -= len(all)
	rand.New(rand.NewPCG(o.seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })

	fmt.Fprintf(out, "%s: %d possible mutants, %d more on lines that its tests do not reach; running up to %d within %v\n",
		o.pkg, len(all), unreached, o.n, o.limit)
	end := began.Add(o.limit)
	counts := map[verdict]int{}
	var survivors []mutant
	for _, m := range all {
		if ran := counts[killed] + counts[hung] + counts[survived]; ran == o.n || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		v, err := src.try(ctx, o, m, dir, patience)
		if err != nil {
			return err
		}
		counts[v]++
		if v == survived {
			survivors = append(survivors, m)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	slices.SortFunc(survivors, func(a, b mutant) int { return cmp.Or(strings.Compare(a.file, b.file), a.line-b.line) })
	for _, m := range survivors {
		fmt.Fprintf(out, "survived  %s:%d: %s\n", m.file, m.line, m.what)
	}
	fmt.Fprintf(out, "%d killed, %d timed out, %d survived\n", counts[killed], counts[hung], counts[survived])
	return nil
}

// load finds the files of the package.
func load(ctx context.Context, pkg string) (source, error) {
	var src source
	cmd := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,GoFiles", pkg)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return src, fmt.Errorf("go list %s: %w", pkg, err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	if err := decoder.Decode(&src); err != nil {
		return src, err
	}
	if decoder.More() {
		return src, fmt.Errorf("%s matches several packages: give one", pkg)
	}
	return src, nil
}

// goTest runs go test with the flags that all runs share.
func goTest(ctx context.Context, o options, args ...string) (string, error) {
	all := append([]string{"test", "-count=1", "-vet=off", "-failfast", "-run=" + cmp.Or(o.run, ".")}, args...)
	cmd := exec.CommandContext(ctx, "go", all...)
	cmd.WaitDelay = time.Second // a process that a test left behind may keep the pipe open
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// verdict is the result of the tests with a mutant.
type verdict int

const (
	killed   verdict = iota // a test failed
	hung                    // the tests exceeded their time limit
	survived                // all tests passed
	invalid                 // the mutant does not compile
)

// try runs the tests against one mutant.
func (src source) try(ctx context.Context, o options, m mutant, dir string, patience time.Duration) (verdict, error) {
	mutated, overlay := filepath.Join(dir, "mutated.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutated, m.text, 0o600); err != nil {
		return 0, err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(src.Dir, m.file): mutated}})
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return 0, err
	}
	text, err := goTest(ctx, o, "-overlay="+overlay, "-timeout="+patience.String(), src.ImportPath)
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return survived, nil
	case !errors.As(err, &exit):
		return 0, err
	case strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]"):
		return invalid, nil
	case strings.Contains(text, "panic: test timed out"):
		return hung, nil
	default:
		return killed, nil
	}
}
