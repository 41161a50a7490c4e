package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// future returns the migrations of this program, and more of a later program.
func future(t *testing.T, more map[string]string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(postgres.Migrations, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		t.Fatalf("no migrations: %v", err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(postgres.Migrations, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	for name, sql := range more {
		files["migrations/"+name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + sql + "\n")}
	}
	return files
}

// TestMigrationsWhileOldNodesServe runs two migrations of later programs. The
// first adds a column while an old node appends. The second is not declared
// compatible, so the older program is refused.
func TestMigrationsWhileOldNodesServe(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cfg := postgres.Config{URL: postgrestest.URL(t), ConnectTimeout: stuckAfter / 6}
	one, two := postgres.NewestMigration+1, postgres.NewestMigration+2
	addFile, silentFile := fmt.Sprintf("%05d_add.sql", one), fmt.Sprintf("%05d_silent.sql", two)
	add := map[string]string{addFile: fmt.Sprintf(`alter table commit add column region text; insert into compatible values (%d, 1);`, one)}

	old := open(t, cfg)
	appending, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	first := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			if _, err := old.Append(ctx, unit("a", eventstore.Version(i), fmt.Sprint("old", i))); err != nil {
				done <- fmt.Errorf("append %d: %w", i, err)
				return
			}
			if i == 0 {
				close(first)
			}
			if appending.Err() != nil {
				done <- nil
				return
			}
		}
	}()
	<-first
	next, err := postgres.OpenAs(ctx, cfg, future(t, add), one)
	if err != nil {
		t.Fatalf("adding a column under a running node: %v", err)
	}
	defer next.Close()
	if _, err := next.Append(ctx, unit("b", 0, "next")); err != nil {
		t.Errorf("the new program: %v", err)
	}
	again := open(t, cfg) // an old node that restarts
	if _, err := again.Append(ctx, unit("c", 0, "again")); err != nil {
		t.Errorf("the old program, restarted on the new schema: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("the old node, during the migration: %v", err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}

	silent := map[string]string{addFile: add[addFile], silentFile: `alter table commit drop column region;`}
	newest, err := postgres.OpenAs(ctx, cfg, future(t, silent), two)
	if err != nil {
		t.Fatal(err)
	}
	defer newest.Close()
	if s, err := postgres.Open(ctx, cfg); !errors.Is(err, eventstore.ErrSchemaTooNew) {
		if err == nil {
			s.Close()
		}
		t.Errorf("the old program on schema %d: %v, want a refusal", two, err)
	}
}

// A crash cannot separate the rows of one transaction.
func TestCompatibilityRowsAreWrittenByTheirMigrations(t *testing.T) {
	t.Parallel()
	url := postgrestest.EmptyURL(t)
	s := open(t, postgres.Config{URL: url})
	defer s.Close()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var migrations, together int
	if err := conn.QueryRow(t.Context(), `select count(*), count(*) filter (where c.xmin::text = v.xmin::text)
		from schema_version v left join compatible c on c.schema = v.version_id where v.version_id > 0`).Scan(&migrations, &together); err != nil {
		t.Fatal(err)
	}
	if migrations == 0 || together != migrations {
		t.Errorf("%d of %d migrations have inserted their row of compatible", together, migrations)
	}
}

func TestDefaultSchemaEqualsItsName(t *testing.T) {
	t.Parallel()
	url := postgrestest.EmptyURL(t)
	var (
		starting sync.WaitGroup
		ids      = make([]string, 8)
	)
	for i := range ids {
		cfg := postgres.Config{URL: url, Schema: []string{"", "public"}[i%2], ConnectTimeout: stuckAfter / 6}
		starting.Go(func() {
			s, err := postgres.Open(t.Context(), cfg)
			if err != nil {
				t.Errorf("with the schema %q: %v", cfg.Schema, err)
				return
			}
			ids[i] = s.LogID()
			s.Close()
		})
	}
	starting.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("the nodes see the logs %q", ids)
		}
	}
}

// TestVacuumOfTheLogFreezesEachCommitOnce inserts more rows than autovacuum waits for, and
// waits until it has frozen all of them.
func TestVacuumOfTheLogFreezesEachCommitOnce(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{Settings: map[string]string{"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "0"}})
	s := openTo(t, postgres.Config{URL: server.URL("postgres")})
	size, err := s.Size(t.Context())
	if err != nil || size.Log == 0 || size.TransactionAge == 0 {
		t.Errorf("the size is %+v, %v", size, err)
	}
	exec(t, server.URL("postgres"), `insert into commit select i, i, now(), 1, '', 'counter', 'a', i::text, '{}', '[]' from generate_series(1, 600000) i`)
	until(t, server.URL("postgres"), `(select age(relfrozenxid) < 100 and relallvisible > 0 from pg_class where oid = 'commit'::regclass)`)
}
