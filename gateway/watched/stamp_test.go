package watched_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
)

func TestStampNoticesWritesAndReplacedFiles(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "secret")
	write := func(content string, at time.Time) os.FileInfo {
		t.Helper()
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	now := time.Now()
	info := write("one", now.Add(-time.Minute))
	stamp := watched.NewStamp(now, info)
	if !stamp.IsSame(info) || !stamp.IsSettled() {
		t.Errorf("an unchanged file: same %v, settled %v", stamp.IsSame(info), stamp.IsSettled())
	}
	if stamp.IsSame(write("three", now.Add(-time.Minute))) {
		t.Error("a file of another size counts as the same")
	}
	if stamp.IsSame(write("two", now)) {
		t.Error("a file of another time counts as the same")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if stamp.IsSame(write("one", now.Add(-time.Minute)), info) || (watched.Stamp{}).IsSame(info) {
		t.Error("other files count as the same")
	}
	if watched.NewStamp(now, write("new", now)).IsSettled() {
		t.Error("a file that was written a moment ago counts as settled")
	}
}
