package sqlite_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/rowstest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

func TestRows(t *testing.T) {
	t.Parallel()
	rowstest.Run(t, func(t *testing.T) rows.Store {
		t.Helper()
		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s.Rows()
	})
}
