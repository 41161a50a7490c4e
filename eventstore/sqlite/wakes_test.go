package sqlite_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/wakestest"
)

func TestWakes(t *testing.T) {
	t.Parallel()
	wakestest.Run(t, func(t *testing.T) wakestest.Log {
		t.Helper()
		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}
