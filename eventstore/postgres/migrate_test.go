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

// future are this program's migrations and some that there could be.
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

// TestMigrationsWhileOldNodesServe plants migrations as later programs could
// have them. One adds a column under a node that appends without a break. One
// does not say that older programs work with it, and keeps them out.
func TestMigrationsWhileOldNodesServe(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cfg := postgres.Config{URL: postgrestest.URL(t)}
	add := map[string]string{"00002_add.sql": `alter table commit add column region text; insert into compatible values (2, 1);`}

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
	next, err := postgres.OpenAs(ctx, cfg, future(t, add), 2)
	if err != nil {
		t.Fatalf("adding a column under a running node: %v", err)
	}
	defer next.Close()
	if _, err := next.Append(ctx, unit("b", 0, "next")); err != nil {
		t.Errorf("the new program: %v", err)
	}
	again := open(t, cfg) // an old node that is started again
	if _, err := again.Append(ctx, unit("c", 0, "again")); err != nil {
		t.Errorf("the old program, started on the new schema: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("the old node, while another migrated: %v", err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}

	silent := map[string]string{"00002_add.sql": add["00002_add.sql"], "00003_silent.sql": `alter table commit drop column region;`}
	newest, err := postgres.OpenAs(ctx, cfg, future(t, silent), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer newest.Close()
	if s, err := postgres.Open(ctx, cfg); !errors.Is(err, eventstore.ErrSchemaTooNew) {
		if err == nil {
			s.Close()
		}
		t.Errorf("the old program on schema 3: %v, want a refusal", err)
	}
}

// A crash can't part what one transaction has written.
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
		t.Errorf("%d of %d migrations have written which programs work with them", together, migrations)
	}
}

func TestDefaultSchemaAndItsNameAreOne(t *testing.T) {
	t.Parallel()
	url := postgrestest.EmptyURL(t)
	var (
		starting sync.WaitGroup
		ids      = make([]string, 8)
	)
	for i := range ids {
		cfg := postgres.Config{URL: url, Schema: []string{"", "public"}[i%2], ConnectTimeout: stuck / 6}
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
