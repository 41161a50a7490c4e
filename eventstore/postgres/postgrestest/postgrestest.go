package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

// Main is the TestMain of a package. It runs the tests, removes the shared server,
// and fails if a goroutine is left.
func Main(m *testing.M, options ...goleak.Option) {
	goleak.VerifyTestMain(runner{m, len(options) == 0}, options...)
}

// runner stops the shared server before goleak looks for goroutines, and waits for them
// as package leaks does.
type runner struct {
	m     *testing.M
	waits bool
}

func (r runner) Run() int {
	code := r.m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "postgrestest:", err)
		code = max(code, 1)
	}
	for end := time.Now().Add(30 * time.Second); r.waits && code == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return code
}

// shared is the server of the tests of this process. The first test starts it.
var shared cluster

type cluster struct {
	once     sync.Once
	err      error
	server   *Server // nil if DATABASE_URL names one
	admin    string
	template string
}

func (c *cluster) start() error {
	c.once.Do(func() { c.err = c.begin(context.Background()) })
	return c.err
}

func (c *cluster) begin(ctx context.Context) error {
	c.admin = os.Getenv("DATABASE_URL")
	if c.admin == "" {
		server, err := StartServer(ctx, Options{})
		if err != nil {
			return err
		}
		c.server, c.admin = server, server.URL("postgres")
	} else if _, err := url.Parse(c.admin); err != nil || !strings.Contains(c.admin, "://") {
		return errors.New("DATABASE_URL must have the form postgres://user:password@host:5432/database")
	}
	name := newName("template")
	if err := c.exec(ctx, "create database "+name); err != nil {
		return err
	}
	store, err := postgres.Open(ctx, postgres.Config{URL: c.url(name)})
	if err != nil {
		return err
	}
	c.template = name
	return store.Close()
}

func (c *cluster) close() error {
	switch {
	case c.server != nil:
		return c.server.Close()
	case c.template != "":
		return c.exec(context.Background(), "drop database if exists "+c.template+" with (force)")
	}
	return nil
}

func (c *cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.admin)
	if err != nil {
		return errors.New("postgrestest: can't connect to the server of DATABASE_URL, or to the one that was started")
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("postgrestest: %s: %w", sql, err)
	}
	return nil
}

// url returns the URL of another database of the server.
func (c *cluster) url(database string) string {
	u, err := url.Parse(c.admin)
	if err != nil {
		return ""
	}
	u.Path = "/" + database
	return u.String()
}

func newName(kind string) string {
	return "ganglion_" + kind + "_" + strings.ToLower(rand.Text()[:16])
}

// URL creates a database with an empty log, and drops it at the end of the test.
func URL(t testing.TB) string {
	t.Helper()
	u := create(t, true)
	conn, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	defer conn.Close(t.Context())
	// The database is a copy of the template. Its log needs its own incarnation.
	if _, err := conn.Exec(t.Context(), "update log set id = gen_random_uuid()"); err != nil {
		t.Fatalf("postgrestest: %v", err)
	}
	return u
}

// EmptyURL is URL without the log's tables.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return create(t, false)
}

func create(t testing.TB, migrated bool) string {
	t.Helper()
	if err := shared.start(); err != nil {
		t.Fatal(err)
	}
	name := newName("test")
	sql := "create database " + name
	if migrated {
		sql += " template " + shared.template
	}
	if err := shared.exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.exec(context.Background(), "drop database if exists "+name+" with (force)"); err != nil {
			t.Error(err)
		}
	})
	return shared.url(name)
}

// New opens a store on a new database, and closes it at the end of the test.
func New(t testing.TB) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Config{URL: URL(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
