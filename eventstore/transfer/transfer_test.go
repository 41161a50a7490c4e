package transfer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/transfer"
	"github.com/ganglion-es/ganglion/eventstore/verify"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func onSQLite(t testing.TB) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
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

var odd = []string{
	`{"by":1}`, `null`, `12345678901234567890.10`, `{ "spaces" : [ 1,	2 ] }`, `"<&> é \u00e9 \\ \" 😀"`,
	"{\n  \"on\": \"several\",\r\n  \"lines\": true\n}",
}

// fill appends the commits from, …, to-1 to seven streams.
func fill(t testing.TB, log eventstore.Store, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		s := eventstore.StreamID{Type: "counter", ID: fmt.Sprint("c", i%7)}
		head, err := log.StreamHead(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		c := eventstore.Command{
			Key: fmt.Sprint("k", i), Hash: eventstore.Hash{byte(i), 15: 7}, Meta: eventstore.Meta{Client: "<o'hara> \\"},
			At: time.Date(2026, 1, 2, 3, 4, 5, 123456000, time.UTC).Add(time.Duration(i) * 1001 * time.Microsecond),
		}
		if i%4 == 3 {
			c.Meta.Depth, c.Meta.Wake = i, eventstore.Wake{Known: true, Micros: int64(i) << 40, Revision: i % 3}
		}
		for j := range i%3 + 1 {
			c.Events = append(c.Events, eventstore.Event{Type: "added", Form: j + 1, Data: json.RawMessage(odd[(i+j)%len(odd)])})
		}
		if _, err := log.Append(t.Context(), eventstore.Unit{Stream: s, Expected: head.Version, Commands: []eventstore.Command{c}}); err != nil {
			t.Fatal(err)
		}
	}
}

func export(t testing.TB, log eventstore.Mover, e transfer.Export) string {
	t.Helper()
	var file strings.Builder
	if _, err := e.Run(t.Context(), log, &file); err != nil {
		t.Fatal(err)
	}
	return file.String()
}

func imported(t testing.TB, log eventstore.Mover, m transfer.Import, file string) transfer.Result {
	t.Helper()
	res, err := m.Run(t.Context(), log, strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// body returns a file without its first line, which has the id of the log.
func body(file string) string {
	_, rest, _ := strings.Cut(file, "\n")
	return rest
}

func sound(t testing.TB, log verify.Source) {
	t.Helper()
	report, err := verify.Log(t.Context(), log)
	if err != nil || len(report.Faults) > 0 {
		t.Errorf("verify: %v, %v", report.Faults, err)
	}
}

func TestLogIsUnchangedThereAndBack(t *testing.T) {
	t.Parallel()
	first, second, third := postgrestest.New(t), onSQLite(t), postgrestest.New(t)
	fill(t, first, 0, 100)
	file := export(t, first, transfer.Export{})
	if n := strings.Count(file, "\n"); n != 102 {
		t.Errorf("the file has %d lines, want 102", n)
	}
	for line := range strings.Lines(file) {
		if !json.Valid([]byte(line)) {
			t.Fatalf("not JSON: %s", line)
		}
	}
	if res := imported(t, second, transfer.Import{}, file); res.Commits != 100 || res.Events != 199 || res.Head != 199 || res.Log != second.LogID() {
		t.Errorf("%+v", res)
	}
	sound(t, second)
	again := export(t, second, transfer.Export{})
	if body(again) != body(file) {
		t.Error("the file changed on its way through SQLite")
	}
	imported(t, third, transfer.Import{KeepID: true}, file)
	sound(t, third)
	if third.LogID() != first.LogID() || second.LogID() == first.LogID() {
		t.Errorf("the logs are %s, %s, %s", first.LogID(), second.LogID(), third.LogID())
	}
	if export(t, third, transfer.Export{}) != file {
		t.Error("the log that kept its id exports another file")
	}
	// All logs continue.
	for _, log := range []eventstore.Store{second, third} {
		fill(t, log, 100, 103)
	}
}

func TestEmptyLogIsExportedAndImported(t *testing.T) {
	t.Parallel()
	from, to := onSQLite(t), onSQLite(t)
	file := export(t, from, transfer.Export{})
	if res := imported(t, to, transfer.Import{}, file); res.Commits != 0 || res.Head != 0 {
		t.Errorf("%+v", res)
	}
}

func TestCopyOfALogStartsPaused(t *testing.T) {
	t.Parallel()
	from := onSQLite(t)
	fill(t, from, 0, 5)
	file := export(t, from, transfer.Export{})
	paused := func(log *sqlite.Store) bool {
		t.Helper()
		_, paused, err := log.Wakes().List(t.Context(), nil, 1)
		if err != nil {
			t.Fatal(err)
		}
		return paused
	}
	moved, copied := onSQLite(t), onSQLite(t)
	imported(t, moved, transfer.Import{KeepID: true}, file)
	imported(t, copied, transfer.Import{}, file)
	if paused(moved) || !paused(copied) {
		t.Errorf("wake-ups are paused in the moved log: %t, in the copy: %t; want only the copy", paused(moved), paused(copied))
	}
	group, err := copied.Groups().Ensure(t.Context(), "mailer", 1)
	if err != nil || !group.Paused {
		t.Errorf("a group of the copy is %+v, %v; want a paused one", group, err)
	}
	if group, err = moved.Groups().Ensure(t.Context(), "mailer", 1); err != nil || group.Paused {
		t.Errorf("a group of the moved log is %+v, %v; want one that is not paused", group, err)
	}
	if err := copied.Rows().Pause(t.Context(), wakes.PauseName, false); err != nil {
		t.Fatal(err)
	}
	imported(t, copied, transfer.Import{}, file) // has nothing to add
	if paused(copied) {
		t.Error("an import that changed nothing has paused the copy again")
	}
}

func TestInterruptedImportContinues(t *testing.T) {
	t.Parallel()
	from := onSQLite(t)
	fill(t, from, 0, 60)
	file := export(t, from, transfer.Export{})
	to := postgrestest.New(t)
	var last eventstore.Position
	for _, cut := range []int{1, 20, 21, len(file) / 3, len(file) / 2, len(file) - 20, len(file) - 1} {
		res, err := transfer.Import{}.Run(t.Context(), to, strings.NewReader(file[:cut]))
		var wrong *transfer.FileError
		if !errors.As(err, &wrong) {
			t.Fatalf("cut at byte %d: %v", cut, err)
		}
		// The log has exactly the complete lines.
		complete := max(strings.Count(file[:cut], "\n")-1, 0)
		if head, err := to.Head(t.Context()); err != nil || complete > 0 && head != res.Head {
			t.Errorf("cut at byte %d: the log ends at %d, %v, the import says %d", cut, head, err, res.Head)
		}
		if got := strings.Count(export(t, to, transfer.Export{}), "\n") - 2; got != complete {
			t.Errorf("cut at byte %d: the log has %d commits, the file %d", cut, got, complete)
		}
	}
	imported(t, to, transfer.Import{Progress: func(at eventstore.Position) { last = at }}, file)
	if got := export(t, to, transfer.Export{}); body(got) != body(file) || last == 0 {
		t.Errorf("the log differs from the file (progress %d)", last)
	}
	if res := imported(t, to, transfer.Import{}, file); res.Commits != 0 {
		t.Errorf("a second import stored %d commits again", res.Commits)
	}
}

// disk is a file on a disk with limited room.
type disk struct {
	*os.File
	room int64
}

var errFull = errors.New("no space left")

func (d disk) Write(p []byte) (int, error) {
	at, err := d.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	n, err := d.File.Write(p[:min(int64(len(p)), d.room-at)])
	if err == nil && n < len(p) {
		err = errFull
	}
	return n, err
}

// content reads the file from its start, and leaves the offset there.
func (d disk) content(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(d.Name())
	if err == nil {
		_, err = d.Seek(0, io.SeekStart)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// newDisk creates a file with the given content.
func newDisk(t *testing.T, content string) disk {
	t.Helper()
	name := filepath.Join(t.TempDir(), "log.jsonl")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return disk{file, math.MaxInt64}
}

func TestInterruptedExportContinues(t *testing.T) {
	t.Parallel()
	log := onSQLite(t)
	fill(t, log, 0, 50)
	whole := export(t, log, transfer.Export{})
	for room := strings.IndexByte(whole, '\n') + 1; room < len(whole); room += 997 {
		file := newDisk(t, "")
		file.room = int64(room)
		if _, err := (transfer.Export{}).Run(t.Context(), log, file); !errors.Is(err, errFull) {
			t.Fatalf("with room for %d bytes: %v", room, err)
		}
		file.content(t)
		file.room = int64(len(whole))
		if _, err := (transfer.Export{}).Resume(t.Context(), log, file); err != nil {
			t.Fatalf("with room for %d bytes: %v", room, err)
		}
		if file.content(t) != whole {
			t.Fatalf("with room for %d bytes, the continued file differs", room)
		}
	}
	// A complete file is continued with later commits.
	fill(t, log, 50, 55)
	file := newDisk(t, whole)
	if _, err := (transfer.Export{}).Resume(t.Context(), log, file); err != nil {
		t.Fatal(err)
	}
	if file.content(t) != export(t, log, transfer.Export{}) {
		t.Error("a file that was continued differs from a new one")
	}
	if _, err := (transfer.Export{}).Resume(t.Context(), onSQLite(t), file); err == nil {
		t.Error("a file was continued with another log")
	}
	var invalid *transfer.FileError
	if _, err := (transfer.Export{}).Resume(t.Context(), log, newDisk(t, "hello\n")); !errors.As(err, &invalid) {
		t.Errorf("a file that is not an exported log: %v", err)
	}
}

func TestPartsOfLogAreImportedInOrder(t *testing.T) {
	t.Parallel()
	from, to := onSQLite(t), onSQLite(t)
	fill(t, from, 0, 30)
	first := export(t, from, transfer.Export{})
	head, err := from.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fill(t, from, 30, 40)
	rest := export(t, from, transfer.Export{After: head})
	inside := export(t, from, transfer.Export{After: head - 1}) // within a commit of three events
	if _, err := (transfer.Import{}).Run(t.Context(), to, strings.NewReader(rest)); err == nil || !strings.Contains(err.Error(), "what lies between") {
		t.Errorf("the second part first: %v", err)
	}
	imported(t, to, transfer.Import{}, first)
	imported(t, to, transfer.Import{}, inside)
	if res := imported(t, to, transfer.Import{}, rest); res.Commits != 0 {
		t.Errorf("%+v", res)
	}
	if export(t, to, transfer.Export{After: head}) == "" || body(export(t, to, transfer.Export{})) != body(export(t, from, transfer.Export{})) {
		t.Error("the parts are not the log")
	}
	if _, err := (transfer.Export{After: 1000}).Run(t.Context(), from, io.Discard); err == nil {
		t.Error("an export after the head did not fail")
	}
	other := onSQLite(t)
	fill(t, other, 1, 60)
	if _, err := (transfer.Import{}).Run(t.Context(), other, strings.NewReader(rest)); !errors.Is(err, transfer.ErrOtherHistory) {
		t.Errorf("a part of another log: %v", err)
	}
}

func TestImportIntoOtherHistoryIsRefused(t *testing.T) {
	t.Parallel()
	from := onSQLite(t)
	fill(t, from, 0, 20)
	file := export(t, from, transfer.Export{})
	for name, prepare := range map[string]func(*sqlite.Store){
		"another beginning": func(s *sqlite.Store) { fill(t, s, 1, 5) },
		"another end": func(s *sqlite.Store) {
			cut := strings.Join(strings.SplitAfter(file, "\n")[:11], "")
			if _, err := (transfer.Import{}).Run(t.Context(), s, strings.NewReader(cut)); err == nil {
				t.Error("a file that is cut off was imported as a whole")
			}
			fill(t, s, 15, 16)
		},
		"more": func(s *sqlite.Store) { imported(t, s, transfer.Import{}, file); fill(t, s, 20, 21) },
	} {
		to := onSQLite(t)
		prepare(to)
		before := export(t, to, transfer.Export{})
		_, err := transfer.Import{}.Run(t.Context(), to, strings.NewReader(file))
		if !errors.Is(err, transfer.ErrOtherHistory) {
			t.Errorf("%s: got %v", name, err)
		}
		if export(t, to, transfer.Export{}) != before {
			t.Errorf("%s: the log was changed", name)
		}
	}
	to := onSQLite(t)
	fill(t, to, 0, 3)
	var refused *eventstore.RestoreError
	if _, err := (transfer.Import{KeepID: true}).Run(t.Context(), to, strings.NewReader(file)); !errors.As(err, &refused) {
		t.Errorf("a log with a history took another id: %v", err)
	}
}

func TestInvalidFilesAreRefusedByLine(t *testing.T) {
	t.Parallel()
	from := onSQLite(t)
	fill(t, from, 0, 6)
	lines := strings.SplitAfter(export(t, from, transfer.Export{}), "\n")
	lines = lines[:len(lines)-1]
	change := func(i int, old, text string) string {
		l := append([]string(nil), lines...)
		if !strings.Contains(l[i], old) {
			t.Fatalf("line %d has no %s: %s", i, old, l[i])
		}
		l[i] = strings.Replace(l[i], old, text, 1)
		return strings.Join(l, "")
	}
	without := func(i int) string {
		return strings.Join(append(append([]string(nil), lines[:i]...), lines[i+1:]...), "")
	}
	for name, c := range map[string]struct {
		file string
		line int64
		says string
	}{
		"nothing":            {"", 1, "not an exported log"},
		"text":               {"hello\nworld\n", 1, "not an exported log"},
		"other JSON":         {`{"position":1,"stream":"a/b"}` + "\n", 1, "not an exported log"},
		"no end of line":     {strings.Repeat("x", 20<<20), 1, "not an exported log"},
		"a newer form":       {change(0, `"form":1`, `"form":2`), 1, "newer"},
		"an invalid id":      {change(0, `"log":"`, `"log":"x`), 1, "id"},
		"no end":             {without(7), 8, "cut off"},
		"half a line":        {strings.Join(lines[:3], "") + lines[3][:10], 4, "cut off"},
		"half a line inside": {change(3, `"events"`, "\n"), 4, "not a commit"},
		"a line less":        {without(3), 4, "missing"},
		"an early end":       {strings.Join(lines[:4], "") + lines[7], 5, "should have 6 commits"},
		"a line after it":    {strings.Join(lines, "") + lines[1], 9, "follows"},
		"an unknown member":  {change(3, `{"pos"`, `{"x":1,"pos"`), 4, "unknown field"},
		"unknown meta data":  {change(3, `"meta":{`, `"meta":{"x":1,`), 4, "unknown field"},
		"no hash":            {change(3, `"hash":"`, `"hash":"0`), 4, "hash"},
		"other events":       {change(3, `"n":3`, `"n":2`), 4, "counts 2 events"},
		"a wrong stream":     {change(3, `counter/`, `Counter/`), 4, "character"},
		"a wrong position":   {change(3, `"pos":`, `"pos":-`), 4, "not a commit"},
	} {
		to := onSQLite(t)
		_, err := transfer.Import{}.Run(t.Context(), to, strings.NewReader(c.file))
		var wrong *transfer.FileError
		if !errors.As(err, &wrong) || wrong.Line != c.line || !strings.Contains(wrong.Reason, c.says) {
			t.Errorf("%s: got %v, want line %d and %q", name, err, c.line, c.says)
		}
		sound(t, to)
	}
	// Only the log can find a version that does not follow.
	to := onSQLite(t)
	_, err := transfer.Import{}.Run(t.Context(), to, strings.NewReader(change(6, `"version":3`, `"version":4`)))
	var refused *eventstore.RestoreError
	if !errors.As(err, &refused) || refused.Position != 12 {
		t.Errorf("a missing version: %v", err)
	}
}

func TestImportEndsWithItsContext(t *testing.T) {
	t.Parallel()
	from, to := onSQLite(t), onSQLite(t)
	fill(t, from, 0, 6)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (transfer.Import{}).Run(ctx, to, strings.NewReader(export(t, from, transfer.Export{}))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
