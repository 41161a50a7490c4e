package postgres_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/groupstest"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func TestGroups(t *testing.T) {
	t.Parallel()
	groupstest.Run(t, func(t *testing.T) groupstest.Log {
		t.Helper()
		return postgrestest.New(t)
	})
}
