package e2e

import (
	"bytes"
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
	"github.com/ganglion-es/ganglion/test/harness"
)

// filled makes an embedded log with a number of commits, and returns its folder.
func filled(t *testing.T, commits int) string {
	t.Helper()
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	const streams, atOnce = 10, 100
	versions := make([]eventstore.Version, streams)
	for from := 0; from < commits; from += atOnce {
		s := from / atOnce % streams
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "counter", ID: fmt.Sprint("c", s)}, Expected: versions[s]}
		for i := from; i < min(from+atOnce, commits); i++ {
			u.Commands = append(u.Commands, eventstore.Command{
				Key: fmt.Sprint("k", i), Hash: eventstore.Hash{byte(i)}, Meta: eventstore.Meta{Client: "ada"},
				At:     time.Date(2026, 3, 1, 12, 0, 0, i*1000, time.UTC),
				Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}, {Type: "added", Data: []byte(`{"by":2}`)}},
			})
			versions[s] += 2
		}
		if _, err := store.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// must runs a command that must succeed.
func must(t *testing.T, args ...string) (out, errs string) {
	t.Helper()
	out, errs, code := call(t, args...)
	if code != 0 {
		t.Fatalf("ganglion %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out, errs
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLogMovesBetweenStoresUnchanged exports and imports a log from SQLite to
// PostgreSQL and back. The exports are equal to the byte.
func TestLogMovesBetweenStoresUnchanged(t *testing.T) {
	t.Parallel()
	first, second, third := filled(t, 1500), database(t), filepath.Join(t.TempDir(), "new")
	file := filepath.Join(t.TempDir(), "log.jsonl")
	out, errs := must(t, "export", "--store", first, file)
	if !strings.Contains(out, "3000 events in 1500 commits") || !strings.Contains(errs, "100 %") {
		t.Errorf("export prints %q, %q", out, errs)
	}
	out, errs = must(t, "import", "--store", second, "--keep-id", file)
	if !strings.Contains(out, "3000 events in 1500 commits, up to position 3000") || !strings.Contains(errs, "100 %") {
		t.Errorf("import prints %q, %q", out, errs)
	}
	again, _ := must(t, "export", "--store", second)
	if again != read(t, file) {
		t.Error("the export of PostgreSQL differs from that of SQLite")
	}
	must(t, "import", "--store", third, "--keep-id", file)
	if again, _ = must(t, "export", "--store", third); again != read(t, file) {
		t.Error("the export of the last log differs from the first")
	}
	for _, store := range []string{first, second, third} {
		if out, errs := must(t, "verify", "--store", store); !strings.Contains(out, "3000 events") || !strings.Contains(errs, "verify keys") {
			t.Errorf("verify prints %q, %q", out, errs)
		}
	}

	_, errs, code := call(t, "export", "--store", first, file)
	if code != 2 || !strings.Contains(errs, "--resume") {
		t.Errorf("an existing file: exit %d, %q", code, errs)
	}
	if err := os.Truncate(file, 100_000); err != nil {
		t.Fatal(err)
	}
	must(t, "export", "--store", first, "--resume", file)
	if read(t, file) != again {
		t.Error("the resumed file differs")
	}
	if part, _ := must(t, "export", "--store", first, "--after", "2990"); strings.Count(part, "\n") != 7 {
		t.Errorf("after 2990 the export is\n%s", part)
	}
}

// TestInterruptedImportResumes kills an import, and starts it again.
func TestInterruptedImportResumes(t *testing.T) {
	t.Parallel()
	whole, _ := must(t, "export", "--store", filled(t, 5_000))
	file := filepath.Join(t.TempDir(), "log.jsonl")
	if err := os.WriteFile(file, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, store := range map[string]string{"postgres": database(t), "sqlite": t.TempDir()} {
		cmd := exec.CommandContext(t.Context(), binary, "import", "--store", store, "-")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A pipe buffers 64 KiB that were not read.
		if _, err := in.Write([]byte(whole[:len(whole)*2/3])); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the import was not interrupted")
		}
		out, _ := must(t, "verify", "--store", store)
		if strings.Contains(out, " 0 events") || strings.Contains(out, "10000 events") {
			t.Errorf("%s: the import was not cut in between: %s", name, out)
		}
		out, _ = must(t, "import", "--store", store, file)
		if strings.Contains(out, "5000 commits") || !strings.Contains(out, "up to position 10000") {
			t.Errorf("%s: it started from the beginning: %s", name, out)
		}
		again, _ := must(t, "export", "--store", store)
		if _, body, _ := strings.Cut(again, "\n"); !strings.HasSuffix(whole, body) || len(again) != len(whole) {
			t.Errorf("%s: the log differs from the file", name)
		}
	}
}

// TestImportRefusesWrongFiles imports wrong files. The import stores their correct
// beginning and names the error.
func TestImportRefusesWrongFiles(t *testing.T) {
	t.Parallel()
	whole, _ := must(t, "export", "--store", filled(t, 30))
	lines := strings.SplitAfter(whole, "\n")
	other := filled(t, 3) // an earlier part
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "log.jsonl")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, c := range []struct {
		name, file, store string
		code              int
		text              string
		verified          string // what verify prints of the log afterwards
	}{
		{"no file", filepath.Join(t.TempDir(), "none"), t.TempDir(), 2, "can't read", "no log exists"},
		{"another file", write("position,stream\n1,counter/a\n"), t.TempDir(), 1, "line 1: this is not an exported log", "0 commits"},
		{"a line cut off", write(strings.Join(lines[:11], "") + lines[11][:20]), t.TempDir(), 1, "cut off after position 20", "10 commits"},
		{"an invalid line", write(strings.Join(lines[:11], "") + "{\n" + lines[11]), t.TempDir(), 1, "line 12: not a commit", "10 commits"},
		{"a line left out", write(strings.Join(lines[:5], "") + strings.Join(lines[6:], "")), t.TempDir(), 1, "line 6: position 11 follows position 8", "4 commits"},
		{"a log that holds something else", write(strings.ReplaceAll(whole, "ada", "eve")), other, 1, "not a prefix", "3 commits"},
		{"a log that holds more", write(strings.Join(lines[:3], "") + `{"end":4,"commits":2}` + "\n"), other, 1, "continues to position 6", "3 commits"},
		{"an id for a log with events", write(whole), other, 1, "keeps that id", "3 commits"},
	} {
		args := []string{"import", "--store", c.store, c.file}
		if strings.HasPrefix(c.name, "an id") {
			args = append(args, "--keep-id")
		}
		_, errs, code := call(t, args...)
		if last := lastLine(errs); code != c.code || !strings.HasPrefix(last, "ganglion: ") || !strings.Contains(last, c.text) {
			t.Errorf("%s: exit %d, %q; want %d and %q", c.name, code, last, c.code, c.text)
		}
		if out, errs, _ := call(t, "verify", "--store", c.store); !strings.Contains(out+errs, c.verified) {
			t.Errorf("%s: verify prints %s%s, want %s", c.name, out, errs, c.verified)
		}
	}
}

// TestVerifyReportsDamagedLog verifies a damaged log and an unreachable database.
func TestVerifyReportsDamagedLog(t *testing.T) {
	t.Parallel()
	whole, _ := must(t, "export", "--store", filled(t, 30))
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, "import", "--store", dir, "-")
	cmd.Stdin = bytes.NewReader([]byte(whole))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	damage(t, dir, `delete from "commit" where pos = 8`)
	out, errs, code := call(t, "verify", "--store", dir)
	if code != 3 || !strings.Contains(out, "positions: at position 7: positions 7 to 8 are missing") {
		t.Errorf("exit %d, %q", code, out)
	}
	if last := lastLine(errs); !strings.Contains(last, "damaged, first at position 7") {
		t.Errorf("it prints %q", last)
	}
	away := fmt.Sprintf("postgres://reader@%s/none?connect_timeout=5", harness.FreeAddress(t))
	if out, errs, code := call(t, "verify", "--store", away); code != 1 || strings.Count(errs, "connection refused") != 1 {
		t.Errorf("an unreachable database: exit %d, %s%s", code, out, errs)
	}
}

// damage changes an embedded log without its store.
func damage(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{`drop trigger commit_delete`, statement} {
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
}
