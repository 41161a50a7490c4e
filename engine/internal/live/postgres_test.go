package live

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func TestRowsOfClientsEqualTheAnswerOnPostgreSQL(t *testing.T) {
	t.Parallel()
	testModel(t, postgrestest.New(t).Rows(), 300, maxCache)
}
