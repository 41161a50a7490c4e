package aggregatetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

type note struct{ Text string }

type write struct {
	Text string `json:"text"`
}

type written struct {
	Text string `json:"text"`
}

// The next forms of written, as a project might have them in time.
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

// TestGolden changes an aggregate whose first form is golden, and expects to
// be let through or told what is wrong.
func TestGolden(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		before, after *aggregate.Catalog
		want          string // without -update; "" passes
		wantUpdate    string // with it
	}{
		"nothing changed": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(written{})), "", "",
		},
		"a new event": {
			catalog(t, "note", one(written{})),
			catalog(t, "note", aggregate.Events[note]{"written": written{}, "burnt": burnt{}}),
			`event "burnt" of note, form 1: there is no golden file yet: run 'go test -update'`, "",
		},
		"a new member": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(writtenWithTime{})),
			`"data.at" is new, or holds more than it did: run 'go test -update'`, "",
		},
		"a member went": {
			catalog(t, "note", one(writtenWithTime{})), catalog(t, "note", one(written{})),
			`loses "data.at"`, `loses "data.at"`,
		},
		"a member has another name": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(writtenRenamed{})),
			`loses "data.text"`, `loses "data.text"`,
		},
		"a member has another type": {
			catalog(t, "note", one(written{})), catalog(t, "note", one(writtenRetyped{})),
			"makes stored events unreadable", "makes stored events unreadable",
		},
		"a narrower number": {
			catalog(t, "note", one(writtenLong{})), catalog(t, "note", one(writtenShort{})),
			"makes stored events unreadable", "makes stored events unreadable",
		},
		"a wider number": {
			catalog(t, "note", one(writtenShort{})), catalog(t, "note", one(writtenLong{})),
			`"data.size" is new, or holds more than it did: run`, "",
		},
		"an event went": {
			catalog(t, "note", aggregate.Events[note]{"written": written{}, "burnt": burnt{}}),
			catalog(t, "note", one(written{})),
			`has no event "burnt" any more`, `has no event "burnt" any more`,
		},
		"the type has another name": {
			catalog(t, "note", one(written{})), catalog(t, "memo", one(written{})),
			`there is no aggregate type "note" any more`, `there is no aggregate type "note" any more`,
		},
		"another form by an upcaster": {
			catalog(t, "note", one(written{})),
			catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename)),
			"form 2: there is no golden file yet", "",
		},
		"an upcaster that can't read the old form": {
			catalog(t, "note", one(writtenRetyped{})),
			catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename)),
			"form 1: this change makes stored events unreadable", "form 1: this change makes stored events unreadable",
		},
		"an upcaster went": {
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
			expect(t, checkGolden(test.after, dir, false), test.want)
			expect(t, checkGolden(test.after, dir, true), test.wantUpdate)
			if test.wantUpdate == "" {
				expect(t, checkGolden(test.after, dir, false), "")
			}
		})
	}
}

// writeAll makes the golden files of a catalog, of older forms as well: as if
// it had grown up.
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
	expect(t, checkGolden(c, dir, false), "")
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

func TestGoldenOfAnOlderFormIsNotMadeUp(t *testing.T) {
	t.Parallel()
	c := catalog(t, "note", one(writtenRenamed{}), aggregate.Upcast(rename))
	dir := t.TempDir()
	expect(t, checkGolden(c, dir, true), "form 1: its golden file")
}

func TestGoldenFilesAreNothingElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := catalog(t, "note", one(written{}))
	expect(t, checkGolden(c, dir, true), "")
	if err := os.WriteFile(filepath.Join(dir, "note", "README.md"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, checkGolden(c, dir, true), "README.md is not a golden file")
}

func TestWithoutScenario(t *testing.T) {
	t.Parallel()
	d, _ := catalog(t, "note", one(written{})).Type("note")
	expect(t, checkForms(d), `command "write" of note is in no scenario`)
	expect(t, checkForms(d), `event "written" of note is in no scenario`)
}
