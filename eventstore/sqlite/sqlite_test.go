package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("GANGLION_TEST_OPEN"); dir != "" { // the second process of TestSecondProcessCannotWrite
		s, err := sqlite.Open(context.Background(), sqlite.Config{Dir: dir, ReadOnly: os.Getenv("GANGLION_TEST_READ") != ""})
		if err != nil {
			fmt.Print(err)
			os.Exit(1)
		}
		commits, err := s.Read(context.Background(), 0, 100)
		fmt.Print(len(commits), " commits ", err)
		s.Close()
		os.Exit(0)
	}
	leaks.Main(m)
}

func open(t *testing.T, dir string, committed eventstore.Committed) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Committed: committed})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// spoil changes the tables without the store, after it has dropped the triggers.
func spoil(t *testing.T, dir string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "log.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	statements = append([]string{`drop trigger if exists commit_update`, `drop trigger if exists commit_delete`}, statements...)
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Log {
		dir := t.TempDir()
		return storetest.Log{
			Open: func(t *testing.T, committed eventstore.Committed) storetest.Store { return open(t, dir, committed) },
			Exec: func(t *testing.T, sql string) { spoil(t, dir, sql) },
			Poison: func(t *testing.T) {
				spoil(t, dir, `create trigger poison before insert on "commit" when new.agg_id = 'poison' begin select raise(abort, 'poison'); end`)
			},
			Unconstrain: func(t *testing.T) {
				spoil(t, dir, `pragma legacy_alter_table = on`, `create table copy as select * from "commit"`,
					`drop table "commit"`, `alter table copy rename to "commit"`)
			},
			SetBack: func(t *testing.T, to eventstore.Position) {
				spoil(t, dir, fmt.Sprintf(`delete from "commit" where pos > %d`, to))
			},
		}
	})
}

func TestCommitsAreNeverChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, nil)
	defer s.Close()
	if _, err := s.Append(t.Context(), eventstore.Unit{
		Stream:   eventstore.StreamID{Type: "counter", ID: "a"},
		Commands: []eventstore.Command{{Key: "k", Events: []eventstore.Event{{Type: "added", Data: []byte("1")}}}},
	}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{`update "commit" set key = 'other'`, `delete from "commit"`} {
		if _, err := db.ExecContext(t.Context(), query); err == nil || !strings.Contains(err.Error(), "commits are never") {
			t.Errorf("%s: %v, want a refusal", query, err)
		}
	}
}

func TestSecondProcessCannotWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	second := func() (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "GANGLION_TEST_OPEN="+dir)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	s := open(t, dir, nil)
	same := open(t, dir, nil) // allowed in the same process
	out, err := second()
	if err == nil || !strings.Contains(out, dir) || !strings.Contains(out, fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a second process got %v: %q; want an error with the directory and this process", err, out)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := second(); err == nil {
		t.Errorf("a second process opened the log while a store was open: %q", out)
	}
	if err := same.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := second(); err != nil {
		t.Errorf("after all stores were closed, a second process got %v: %q", err, out)
	}
}

// TestReadersDoNotNeedTheWritersLock reads a log that this process writes, from a
// second process and from this one. Readers cannot change it.
func TestReadersDoNotNeedTheWritersLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	readOnly := sqlite.Config{Dir: dir, ReadOnly: true}
	if _, err := sqlite.Open(t.Context(), readOnly); err == nil || !strings.Contains(err.Error(), "no log exists in "+dir) {
		t.Errorf("a folder without a log: %v", err)
	}
	writer := open(t, dir, nil)
	defer writer.Close()
	add := func(s *sqlite.Store, version eventstore.Version) error {
		_, err := s.Append(t.Context(), eventstore.Unit{
			Stream: eventstore.StreamID{Type: "counter", ID: "a"}, Expected: version,
			Commands: []eventstore.Command{{Key: fmt.Sprint("k", version), At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}}}},
		})
		return err
	}
	for version := range eventstore.Version(3) {
		if err := add(writer, version); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "GANGLION_TEST_OPEN="+dir, "GANGLION_TEST_READ=1")
		out, err := cmd.CombinedOutput()
		if want := fmt.Sprint(version+1, " commits <nil>"); err != nil || string(out) != want {
			t.Errorf("a second process got %v: %q, want %q", err, out, want)
		}
	}
	reader, err := sqlite.Open(t.Context(), readOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := add(reader, 3); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("a reader appended: %v", err)
	}
	if _, err := reader.AcceptLoss(t.Context()); err == nil || reader.LogID() != writer.LogID() {
		t.Errorf("a reader accepted a loss: %v", err)
	}
	if err := add(writer, 3); err != nil { // readers do not block the writer
		t.Fatal(err)
	}
	if commits, err := reader.Read(t.Context(), 0, 100); err != nil || len(commits) != 4 {
		t.Errorf("the reader sees %d commits, %v; want 4", len(commits), err)
	}
}

func TestNewerSchemaIsRefusedUnlessCompatible(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := open(t, dir, nil).Close(); err != nil {
		t.Fatal(err)
	}
	spoil(t, dir, `insert into schema_version (version_id, is_applied) values (99, 1)`)
	_, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), eventstore.ErrSchemaTooNew.Error()) || !strings.Contains(err.Error(), "99") {
		t.Errorf("got %v, want a schema that is too new", err)
	}
	spoil(t, dir, `insert into compatible values (99, 1)`)
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatalf("a schema that is declared compatible: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestInvalidDirectoryIsNamed(t *testing.T) {
	t.Parallel()
	_, err := sqlite.Open(t.Context(), sqlite.Config{})
	if err == nil || !strings.Contains(err.Error(), "Dir is required") {
		t.Errorf("got %v, want an error for the missing directory", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error with the path", err)
	}
}
