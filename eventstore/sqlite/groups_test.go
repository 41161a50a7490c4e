package sqlite_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/groupstest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

func TestGroups(t *testing.T) {
	t.Parallel()
	groupstest.Run(t, func(t *testing.T) groupstest.Log {
		t.Helper()
		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}
