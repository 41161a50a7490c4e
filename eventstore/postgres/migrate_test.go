package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

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

// TestMigrationsWhileOldNodesServe plants two migrations, as later programs
// could have them. The first adds a column under a node that appends without a
// break. The second takes away what that node's program could use: it is
// refused while the node runs, and done once it has stopped.
func TestMigrationsWhileOldNodesServe(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	cfg := postgres.Config{URL: postgrestest.URL(t)}
	add := map[string]string{"00002_add.sql": `alter table commit add column region text;`}
	take := map[string]string{"00002_add.sql": add["00002_add.sql"], "00003_take.sql": `alter table commit drop column region;`}

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
	next, err := postgres.OpenAs(ctx, cfg, future(t, add), 2, 1)
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

	if s, err := postgres.OpenAs(ctx, cfg, future(t, take), 3, 2); !errors.Is(err, eventstore.ErrSchemaInUse) {
		if err == nil {
			s.Close()
		}
		t.Errorf("taking away what a running node uses: %v, want a refusal", err)
	} else if !strings.Contains(err.Error(), "know only schema 1") || !strings.Contains(err.Error(), "stop them first") {
		t.Errorf("the refusal says %q", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("the old node, while others migrated: %v", err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}

	newest, err := postgres.OpenAs(ctx, cfg, future(t, take), 3, 2)
	if err != nil {
		t.Fatalf("after the old nodes have stopped: %v", err)
	}
	defer newest.Close()
	for i, s := range []*postgres.Store{next, newest} { // side by side
		if _, err := s.Append(ctx, unit("d", eventstore.Version(i), fmt.Sprint("both", i))); err != nil {
			t.Errorf("program %d on schema 3: %v", i+2, err)
		}
	}
	if s, err := postgres.Open(ctx, cfg); !errors.Is(err, eventstore.ErrSchemaTooNew) {
		if err == nil {
			s.Close()
		}
		t.Errorf("the old program on schema 3: %v, want a refusal", err)
	}
}
