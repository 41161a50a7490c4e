package domaintest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// A writing is whether golden files may be written.
type writing int

const (
	off      writing = iota // without -update
	on                      // with -update
	withheld                // with -update, while the test of the file's definition fails
)

// remedy returns what to do about a file that is not written.
func (w writing) remedy(path string) string {
	if w == withheld {
		return fmt.Sprintf("-update does not write it while this test fails: correct the other errors, run 'go test -update' again and commit %s", path)
	}
	return fmt.Sprintf("run 'go test -update' here and commit %s", path)
}

// checkGolden compares the stored forms of a type's events with the golden files in a
// folder. It may write new files and members, and never removes any.
func checkGolden(d *aggregate.Definition, dir string, w writing) (errs []error) {
	for _, event := range d.Events() {
		for form := 1; form <= d.Form(event); form++ {
			g := golden{
				d:     d,
				event: event,
				form:  form,
				path:  filepath.Join(dir, d.Name(), fmt.Sprintf("%s.%d.json", event, form)),
			}
			if err := g.check(w); err != nil {
				errs = append(errs, fmt.Errorf("event %q of %s, form %d: %w", event, d.Name(), form, err))
			}
		}
	}
	return errs
}

// A golden is the sample of one form of an event.
type golden struct {
	d     *aggregate.Definition
	event string
	form  int
	path  string
}

func (g golden) check(w writing) error {
	old, err := os.ReadFile(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		switch {
		case g.form < g.d.Form(g.event):
			return fmt.Errorf("the golden file %s is missing: restore it from the repository's history", g.path)
		case w != on:
			return fmt.Errorf("it has no golden file: %s", w.remedy(g.path))
		}
		return g.write()
	}
	if err != nil {
		return err
	}
	event, err := g.d.DecodeEvent(g.event, g.form, old)
	if err != nil {
		return fmt.Errorf("this change makes stored events unreadable: %s fails with: %w; "+
			"restore the old form, or add an upcaster from it"+unlessKept, g.path, err)
	}
	if g.form < g.d.Form(g.event) {
		return nil // scenarios with Reads check the results of upcasters
	}
	_, _, kept, err := g.d.EncodeEvent(event)
	if err != nil {
		return err
	}
	if missing, err := lost(old, kept); err != nil {
		return fmt.Errorf("%s: %w", g.path, err)
	} else if missing != "" {
		return fmt.Errorf("this change loses %q of stored events: %s has it; "+
			"restore the member, or add an upcaster from this form"+unlessKept, missing, g.path)
	}
	sample, err := g.sample()
	if err != nil {
		return err
	}
	if added, err := lost(sample, old); err != nil {
		return err
	} else if added != "" {
		if w != on {
			return fmt.Errorf("%q is new, or has a wider type: %s; stored events that lack it have its zero value",
				added, w.remedy(g.path))
		}
		return g.write()
	}
	return nil
}

func (g golden) sample() ([]byte, error) {
	event, err := g.d.SampleEvent(g.event)
	if err != nil {
		return nil, err
	}
	_, _, data, err := g.d.EncodeEvent(event)
	return data, err
}

func (g golden) write() error {
	sample, err := g.sample()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, sample, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	if err := os.MkdirAll(filepath.Dir(g.path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(g.path, b.Bytes(), 0o644)
}

// lost returns the path of the first part of a JSON document that another document
// lacks or has with another value, or "".
func lost(document, in []byte) (string, error) {
	a, err := parse(document)
	if err != nil {
		return "", err
	}
	b, err := parse(in)
	if err != nil {
		return "", err
	}
	return lostValue("data", a, b), nil
}

// parse keeps numbers as they are written.
func parse(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

func lostValue(path string, a, b any) string {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			return path
		}
		for _, name := range slices.Sorted(maps.Keys(a)) {
			w, ok := b[name]
			if !ok {
				return path + "." + name
			}
			if l := lostValue(path+"."+name, a[name], w); l != "" {
				return l
			}
		}
		return ""
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return path
		}
		for i := range a {
			if l := lostValue(path+"["+strconv.Itoa(i)+"]", a[i], b[i]); l != "" {
				return l
			}
		}
		return ""
	}
	if !reflect.DeepEqual(a, b) {
		return path
	}
	return ""
}

// unlessKept ends a message about a stored form that a catalog can no longer read.
const unlessKept = " (if no log that you keep has such an event, delete the file)"

// orphans returns the golden files that belong to no event of the catalog.
func orphans(c *aggregate.Catalog, dir string) (errs []error) {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		typ, file := filepath.Split(rel)
		typ = filepath.Clean(typ)
		name := strings.Split(file, ".")
		form := 0
		if len(name) == 3 && name[2] == "json" {
			form, _ = strconv.Atoi(name[1])
		}
		if form < 1 {
			errs = append(errs, fmt.Errorf("%s is not a golden file: those are named TYPE/EVENT.FORM.json", path))
			return nil
		}
		d, ok := c.Type(typ)
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%s: the catalog no longer has type %q, but logs hold its events: "+
				"restore it; stored names are permanent"+unlessKept, path, typ))
		case d.Form(name[0]) == 0:
			errs = append(errs, fmt.Errorf("%s: %s no longer has event %q, but logs hold it: "+
				"restore it; stored names are permanent, and a retired event stays registered"+unlessKept, path, typ, name[0]))
		case d.Form(name[0]) < form:
			errs = append(errs, fmt.Errorf("%s: event %q of %s is back at form %d, but logs hold form %d: restore the upcaster",
				path, name[0], typ, d.Form(name[0]), form))
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errs
}
