package domaintest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
)

type note struct{ Text string }

type write struct {
	Text string `json:"text"`
}

type written struct {
	Text string `json:"text"`
}

// Later forms of written, as a project may define them.
type (
	writtenWithTime struct {
		Text string    `json:"text"`
		At   time.Time `json:"at"`
	}
	writtenRenamed struct {
		Body string `json:"body"`
	}
	writtenRetyped struct {
		Text []string `json:"text"`
	}
	writtenShort struct {
		Size int8 `json:"size"`
	}
	writtenLong struct {
		Size int64 `json:"size"`
	}
	burnt struct{}
)

func (c write) Decide(aggregate.Call, note) (aggregate.Decision[note], error) {
	return aggregate.Emit(written(c))
}

func (e written) Apply(s *note)         { s.Text = e.Text }
func (e writtenWithTime) Apply(s *note) { s.Text = e.Text }
func (e writtenRenamed) Apply(s *note)  { s.Text = e.Body }
func (e writtenRetyped) Apply(s *note)  { s.Text = strings.Join(e.Text, "\n") }
func (e writtenShort) Apply(*note)      {}
func (e writtenLong) Apply(*note)       {}
func (e burnt) Apply(s *note)           { *s = note{} }

func catalog(t *testing.T, name string, events aggregate.Events[note], up ...aggregate.Upcaster) *aggregate.Catalog {
	t.Helper()
	var c aggregate.Catalog
	typ := aggregate.Type[note]{
		Name:     name,
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[note]{"write": write{}},
		Events:   events,
	}
	if len(up) > 0 {
		typ.Upcasters = aggregate.Upcasters{"written": up}
	}
	aggregate.Define(&c, typ)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return &c
}

func one(event aggregate.Event[note]) aggregate.Events[note] {
	return aggregate.Events[note]{"written": event}
}

func rename(old written) writtenRenamed { return writtenRenamed{Body: old.Text} }

// Each case writes golden files of one catalog and checks another against them.
func TestGoldenFilesCatchFormsThatBreakHistory(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before, after *aggregate.Catalog
		want          string // without -update; "" passes
		wantUpdate    string // with -update
	}{
		"no change": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(written{})), "", "",
		},
		"a new event": {
			catalog(t, "note", one(written{})),
			catalog(t, "note", aggregate.Events[note]{"written": written{}, "burnt": burnt{}}),
			`event "burnt" of note, form 1: it has no golden file: run 'go test -update'`, "",
		},
		"a new member": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(writtenWithTime{})),
			`"data.at" is new, or has a wider type: run 'go test -update'`, "",
		},
		"a removed member": {
			catalog(t, "note", one(writtenWithTime{})), catalog(t, "note", one(written{})),
			`loses "data.at"`, `loses "data.at"`,
		},
		"a renamed member": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(writtenRenamed{})),
			`loses "data.text"`, `loses "data.text"`,
		},
		"a member of another type": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(writtenRetyped{})),
			"makes stored events unreadable", "makes stored events unreadable",
		},
		"a narrower number": {
			catalog(t, "note", one(writtenLong{})), catalog(t, "note", one(writtenShort{})),
			"makes stored events unreadable", "makes stored events unreadable",
		},
		"a wider number": {
			catalog(t, "note", one(writtenShort{})), catalog(t, "note", one(writtenLong{})),
			`"data.size" is new, or has a wider type: run`, "",
		},
		"a removed event": {
			catalog(t, "note", aggregate.Events[note]{"written": written{}, "burnt": burnt{}}),
			catalog(t, "note", one(written{})),
			`no longer has event "burnt"`, `no longer has event "burnt"`,
		},
		"a renamed type": {
			catalog(t, "note", one(written{})), catalog(t, "memo", one(written{})),
			`the catalog no longer has type "note"`, `the catalog no longer has type "note"`,
		},
		"a new form with an upcaster": {
			catalog(t, "note", one(written{})),
			catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename)),
			"form 2: it has no golden file", "",
		},
		"an upcaster that cannot read the old form": {
			catalog(t, "note", one(writtenRetyped{})),
			catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename)),
			"form 1: this change makes stored events unreadable", "form 1: this change makes stored events unreadable",
		},
		"a removed upcaster": {
			catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(func(old writtenRenamed) writtenRenamed { return old })),
			catalog(t, "note", one(writtenRenamed{})),
			"is back at form 1", "is back at form 1",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "events")
			writeAll(t, test.before, dir)
			expect(t, checkAll(test.after, dir, off), test.want)
			expect(t, checkAll(test.after, dir, on), test.wantUpdate)
			if test.wantUpdate == "" {
				expect(t, checkAll(test.after, dir, off), "")
			}
		})
	}
}

// checkAll checks the golden files of all events of a catalog.
func checkAll(c *aggregate.Catalog, dir string, w writing) []error {
	errs := orphans(c, dir)
	for _, d := range c.Types() {
		errs = append(errs, checkGolden(d, dir, w)...)
	}
	return errs
}

// writeAll writes the golden files of a catalog, those of older forms included.
func writeAll(t *testing.T, c *aggregate.Catalog, dir string) {
	t.Helper()
	for _, d := range c.Types() {
		for _, event := range d.Events() {
			for form := 1; form <= d.Form(event); form++ {
				g := golden{d: d, event: event, path: filepath.Join(dir, d.Name(), event+"."+string(rune('0'+form))+".json")}
				if err := g.write(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	expect(t, checkAll(c, dir, off), "")
}

func expect(t *testing.T, errs []error, want string) {
	t.Helper()
	err := errors.Join(errs...)
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

func TestUpdateNeverWritesGoldenFilesOfOldForms(t *testing.T) {
	t.Parallel()
	c := catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename))
	dir := t.TempDir()
	expect(t, checkAll(c, dir, on), "form 1: the golden file")
}

func TestForeignFilesAmongGoldenFilesAreReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := catalog(t, "note", one(written{}))
	expect(t, checkAll(c, dir, on), "")
	if err := os.WriteFile(filepath.Join(dir, "note", "README.md"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, checkAll(c, dir, on), "README.md is not a golden file")
}

func TestCommandsAndEventsWithoutScenarioAreReported(t *testing.T) {
	t.Parallel()
	d, _ := catalog(t, "note", one(written{})).Type("note")
	expect(t, checkForms(d), `command "write" of note is in no scenario`)
	expect(t, checkForms(d), `event "written" of note is in no scenario: add one to`)
	d, _ = catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename)).Type("note")
	expect(t, checkForms(d), `form 1 of event "written" of note is in no scenario: add aggregate.Reads to`)
}

// length is a projection in memory of the number of notes, counted in steps.
func length(t *testing.T, step, revision int) *projection.MemoryDefinition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[note]{
		Name: "note", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[note]{"write": write{}}, Events: one(written{}),
	})
	d := projection.DefineMemory(c, projection.Memory[int]{
		Name: "length", Revision: revision,
		On:        projection.Handlers[int]{projection.On(func(_ projection.At, _ written, n *int) { *n += step })},
		Scenarios: projection.Scenarios{"two": projection.Given("note/a", written{}, written{}).Becomes("2")},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return d.MemoryDefinition
}

func TestChangedOutcomeOfMemoryNeedsAnotherRevision(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check := func(f folded[projection.Outcome], w writing) []error {
		return []error{checkOutcomes(f, ofProjections, dir, w)}
	}
	expect(t, check(length(t, 1, 0), off), "the golden file of its outcomes is missing")
	expect(t, check(length(t, 1, 0), on), "")
	expect(t, check(length(t, 1, 0), off), "")
	expect(t, check(length(t, 3, 0), on), `scenario "two" has another outcome than in`)
	expect(t, check(length(t, 3, 1), off), "is of an older build")
	expect(t, check(length(t, 3, 1), on), "")
	expect(t, check(length(t, 3, 1), off), "")
}

// echo is a process manager that counts notes in steps and writes another one with
// each.
func echo(t *testing.T, step, revision int, target string) *process.Definition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[note]{
		Name: "note", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[note]{"write": write{}}, Events: one(written{}),
	})
	type count struct {
		Notes int `json:"notes"`
	}
	d := process.Define(c, process.Type[count]{
		Name: "echo", Revision: revision,
		On: process.Handlers[count]{process.On(func(_ process.At, _ written, n *count) process.Commands {
			n.Notes += step
			return process.Commands{process.Send("note", target, write{})}
		})},
		Scenarios: process.Scenarios{"one": process.When("note/a", written{}).Shows(`{"notes": 1}`)},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestChangedStateOfProcessNeedsAnotherRevision(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check := func(d *process.Definition, w writing) []error {
		return []error{checkOutcomes(d, ofProcesses, dir, w)}
	}
	expect(t, check(echo(t, 1, 0, "b"), off), "the golden file of its outcomes is missing")
	expect(t, check(echo(t, 1, 0, "b"), on), "")
	expect(t, check(echo(t, 1, 0, "b"), off), "")
	expect(t, check(echo(t, 2, 0, "b"), on), "states of both kinds would be mixed in one build; raise Revision")
	expect(t, check(echo(t, 2, 1, "b"), on), "")
	// Other commands need no other build.
	expect(t, check(echo(t, 2, 1, "c"), off), "has scenarios with other outcomes: run 'go test -update'")
	expect(t, check(echo(t, 2, 1, "c"), on), "")
	expect(t, check(echo(t, 2, 1, "c"), off), "")
}

// catalogs are run in another process, since [Run] can fail its test.
var catalogs = map[string]func(*aggregate.Catalog){
	"without models":       func(c *aggregate.Catalog) { defineNote(c, written{Text: "hello"}) },
	"with models":          func(c *aggregate.Catalog) { defineAll(c, "hello", 1) },
	"with wrong scenarios": func(c *aggregate.Catalog) { defineAll(c, "hi", 2) },
}

// defineAll defines a note, a projection and a process manager whose scenarios expect
// a text and a number of notes.
func defineAll(c *aggregate.Catalog, text string, notes int) {
	defineNote(c, written{Text: text})
	projection.DefineMemory(c, projection.Memory[int]{
		Name:      "length",
		On:        projection.Handlers[int]{projection.On(func(_ projection.At, _ written, n *int) { *n++ })},
		Scenarios: projection.Scenarios{"one": projection.Given("note/a", written{}).Becomes(strconv.Itoa(notes))},
	})
	type count struct {
		Notes int `json:"notes"`
	}
	process.Define(c, process.Type[count]{
		Name: "reader",
		On: process.Handlers[count]{process.On(func(_ process.At, _ written, n *count) process.Commands {
			n.Notes++
			return nil
		})},
		Scenarios: process.Scenarios{"one": process.When("note/a", written{}).Shows(fmt.Sprintf(`{"notes": %d}`, notes))},
	})
}

// defineNote defines a note whose scenario expects an event.
func defineNote(c *aggregate.Catalog, want aggregate.Event[note]) {
	aggregate.Define(c, aggregate.Type[note]{
		Name: "note", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands:  aggregate.Commands[note]{"write": write{}},
		Events:    one(written{}),
		Scenarios: aggregate.Scenarios[note]{"a note": aggregate.When(write{Text: "hello"}).By("ada").Then(want)},
	})
}

// TestRunOfOtherProcess is the test in the process that [run] starts.
func TestRunOfOtherProcess(t *testing.T) {
	if define := catalogs[os.Getenv("DOMAINTEST_CATALOG")]; define != nil {
		var c aggregate.Catalog
		define(&c)
		Run(t, &c)
	}
}

// run runs a catalog's test in a folder, and returns whether it passes and what it
// prints.
func run(t *testing.T, dir, catalog string, flags ...string) (bool, string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, append(flags, "-test.run=^TestRunOfOtherProcess$")...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "DOMAINTEST_CATALOG="+catalog)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return err == nil, string(out)
}

// files returns the paths of the files in a folder.
func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestGoldenFilesOfDeletedModelsAreReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if ok, out := run(t, dir, "with models", "-update"); !ok {
		t.Fatal(out)
	}
	const event, foreign = "testdata/events/note/written.1.json", "testdata/projections/orders.json"
	const ofProjection, ofProcess = "testdata/projections/length.json", "testdata/processes/reader.json"
	if err := os.WriteFile(filepath.Join(dir, foreign), []byte(`[{"fingerprint": "of the program"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, out := run(t, dir, "with models"); !ok {
		t.Error(out)
	}
	ok, out := run(t, dir, "without models")
	for _, want := range []string{
		ofProjection + `: the catalog no longer has projection "length"`,
		ofProcess + `: the catalog no longer has process manager "reader"`,
	} {
		if ok || !strings.Contains(out, want) {
			t.Errorf("it prints %q, want %q", out, want)
		}
	}
	if got, want := files(t, dir), []string{event, ofProcess, ofProjection, foreign}; !slices.Equal(got, want) {
		t.Errorf("it leaves %v, want %v", got, want)
	}
	if ok, out := run(t, dir, "without models", "-update"); !ok {
		t.Error(out)
	}
	if got, want := files(t, dir), []string{event, foreign}; !slices.Equal(got, want) {
		t.Errorf("-update leaves %v, want %v", got, want)
	}
}

func TestUpdateWritesNoGoldenFileWhileScenarioFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ok, out := run(t, dir, "with wrong scenarios", "-update")
	for _, path := range []string{"events/note/written.1.json", "projections/length.json", "processes/reader.json"} {
		want := "-update does not write it while this test fails: correct the other errors, run 'go test -update' again and commit testdata/" + path
		if ok || !strings.Contains(out, want) {
			t.Errorf("it prints %s, want %q", out, want)
		}
	}
	if written := files(t, dir); len(written) > 0 {
		t.Errorf("it writes %v", written)
	}
	if ok, out := run(t, dir, "with models", "-update"); !ok {
		t.Error(out)
	}
	if ok, out := run(t, dir, "with models"); !ok {
		t.Error(out)
	}
}
