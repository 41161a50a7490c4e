package postgres_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func open(t *testing.T, cfg postgres.Config) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// exec runs SQL on a connection of its own.
func exec(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// spoil changes tables behind the store's back, past the trigger and the
// revoked rights.
func spoil(t *testing.T, url string, statements ...string) {
	t.Helper()
	exec(t, url, append([]string{`alter table commit disable trigger user`, `grant all on commit to current_user`}, statements...)...)
}

const killOthers = `select pg_terminate_backend(pid) from pg_stat_activity
	where datname = current_database() and pid <> pg_backend_pid() and application_name = 'ganglion'`

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Log {
		url := postgrestest.URL(t)
		return storetest.Log{
			Open: func(t *testing.T, committed eventstore.Committed) storetest.Store {
				return open(t, postgres.Config{URL: url, Committed: committed})
			},
			Exec: func(t *testing.T, sql string) { spoil(t, url, sql) },
			Poison: func(t *testing.T) {
				exec(t, url, `alter table commit add constraint poison check (agg_id <> 'poison')`)
			},
			Unconstrain: func(t *testing.T) {
				exec(t, url, `alter table commit drop constraint commit_pos, drop constraint commit_version, drop constraint commit_key`)
			},
			SetBack: func(t *testing.T, to eventstore.Position) {
				// A server that is set back has no connections.
				spoil(t, url, fmt.Sprintf(`delete from commit where pos > %d`, to), killOthers)
			},
		}
	})
}
