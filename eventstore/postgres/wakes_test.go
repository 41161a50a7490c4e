package postgres_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/wakestest"
)

func TestWakes(t *testing.T) {
	t.Parallel()
	wakestest.Run(t, func(t *testing.T) wakestest.Log {
		t.Helper()
		return postgrestest.New(t)
	})
}
