// Package e2e tests Ganglion as its users meet it: real processes, real
// sockets, a real PostgreSQL.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// binary is ganglion, built with the race detector.
var binary string

// long is whether tests take their long form.
var long = os.Getenv("GANGLION_FAULTS") == "long"

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ganglion-e2e")
	if err == nil {
		binary, err = harness.Build(dir, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	postgrestest.Main(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // the code is what matters now
		os.Exit(code)
	}))
}

// database makes a database of the test's own and returns its URL.
func database(t testing.TB) string { return postgrestest.URL(t) }
