package postgres_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// sqlTable is a build that writes with SQL.
type sqlTable interface {
	rows.Table
	Prepare(ctx context.Context, statements []string) error
	WriteWith(ctx context.Context, b rows.Batch, do func(context.Context, pgx.Tx) error) error
}

// sqlBuild opens the build of a spec.
func sqlBuild(t *testing.T, s *postgres.Store, spec rows.Spec, statements ...string) sqlTable {
	t.Helper()
	b, err := s.Rows().Ensure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	table, err := s.Rows().Open(t.Context(), spec, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	prepared := table.(sqlTable)
	if err := prepared.Prepare(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
	return prepared
}

func TestSchemaOfABuildIsDroppedWithIt(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	s := open(t, postgres.Config{URL: url})
	defer s.Close()
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.WithoutCancel(t.Context()))
	left := func(want ...rows.Table) {
		t.Helper()
		var names []string
		for _, table := range want {
			names = append(names, fmt.Sprint("public_prices_", table.Build().ID))
		}
		list, err := admin.Query(t.Context(), `select nspname from pg_namespace where nspname like 'public\_%' order by oid`)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pgx.CollectRows(list, pgx.RowTo[string]); err != nil || fmt.Sprint(got) != fmt.Sprint(names) {
			t.Errorf("the schemas are %v, want %v; %v", got, names, err)
		}
	}
	var builds []rows.Table
	for _, fingerprint := range []string{"one", "two", "three"} {
		builds = append(builds, sqlBuild(t, s, rows.Spec{Projection: "prices", Fingerprint: fingerprint, Segments: 1},
			`create table price (cents bigint)`, `create view cheap as select from price where cents < 100`))
	}
	left(builds...)
	if err := s.Rows().Drop(t.Context(), builds[0].Build().ID); err != nil {
		t.Fatal(err)
	}
	left(builds[1:]...)
	if err := s.Rows().SetState(t.Context(), builds[2].Build().ID, rows.Active); err != nil {
		t.Fatal(err)
	}
	if expired, err := s.Rows().Expire(t.Context(), "prices", 0); err != nil || len(expired) != 1 {
		t.Errorf("expired %v, %v", expired, err)
	}
	left(builds[2])
}
