// Package e2e tests Ganglion as its users run it: with real processes, real
// sockets and a real PostgreSQL.
package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// binary is ganglion, built with the race detector.
var binary string

// long reports whether tests run in their long form.
var long = os.Getenv("GANGLION_FAULTS") == "long"

func TestMain(m *testing.M) {
	runProgram()
	dir, err := os.MkdirTemp("", "ganglion-e2e")
	if err == nil {
		err = errors.Join(
			flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))), // tests mostly wait for processes
			os.Setenv("GORACE", harness.RaceOptions),                         // for commands
		)
	}
	if err == nil {
		binary, err = harness.Build(dir, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	postgrestest.Main(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // the exit code matters more
		os.Exit(code)
	}))
}

// database creates a database for the test and returns its URL.
func database(t testing.TB) string { return postgrestest.URL(t) }
