package contract

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const frames = `top:
  # A comment stays.
  text: |
    list:
  object:
    first: { a: 1 }

  list:
    - 1
last: 2
`

// wantSame compares what a YAML document has at a path with JSON.
func wantSame(t *testing.T, document, member, want string) {
	t.Helper()
	var got, wanted any
	var read struct{ Top map[string]any }
	if err := yaml.Unmarshal([]byte(document), &read); err != nil {
		t.Fatalf("%v:\n%s", err, document)
	}
	text, err := json.Marshal(read.Top[member]) // numbers of both become float64
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("%s became\n%s\nin\n%s", want, text, document)
	}
}

func TestInsertKeepsTheRestOfTheDocument(t *testing.T) {
	t.Parallel()
	doc, err := insert(frames, []string{"top", "object"}, []byte(`{"second":{"b":[2,{"c":3,"d":[]}]},"third":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	if doc, err = insert(doc, []string{"top", "list"}, []byte(`[2,{"$ref":"#/a"},[3,[4,5]]]`)); err != nil {
		t.Fatal(err)
	}
	wantSame(t, doc, "object", `{"first":{"a":1},"second":{"b":[2,{"c":3,"d":[]}]},"third":"x"}`)
	wantSame(t, doc, "list", `[1,2,{"$ref":"#/a"},[3,[4,5]]]`)
	rest := doc
	for line := range strings.Lines(frames) {
		var found bool
		if _, rest, found = strings.Cut(rest, line); !found {
			t.Errorf("%q is missing from\n%s", line, doc)
		}
	}
}

func TestInsertRefusesPathThatDocumentLacks(t *testing.T) {
	t.Parallel()
	for _, path := range [][]string{{"bottom"}, {"top", "none"}, {"last", "list"}, {"top", "object", "list"}} {
		if doc, err := insert(frames, path, []byte(`[1]`)); err == nil {
			t.Errorf("%v:\n%s", path, doc)
		}
	}
}

func FuzzInsertedTextReadsTheSame(f *testing.F) {
	for _, s := range []string{
		"", " ", "yes", "Null", "~", "1", "-1", "1e3", "0x1f", "12:30", "2026-05-01", "a: b", "a #b", "a:", "- a", "&a", "*a", "!a", "'a'", `a"b`, `a\b`,
		"a ", "lunch?", "{a}", "[a]", "a, b", "a\nb", "a\tb", "\x00", "\x7f", "\u0085", "\u2028", "\ufeff", "é", "\U0001F600", "\U000E0001", "---", "...", "=", "<<", "$ref", "%a", "@a", "`a",
	} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		name = name[:min(len(name), 128)] // YAML bounds a name in one line: 1,024 characters (1.2, 7.4.2)
		raw, err := json.Marshal(map[string]any{name: text, "in": []any{text, map[string]string{name: text, "b": text}}, "alone": map[string]string{name: text}})
		if err != nil {
			t.Fatal(err)
		}
		doc, err := insert("top:\n  added:\n    # nothing yet\n", []string{"top", "added"}, raw)
		if err != nil {
			t.Fatal(err)
		}
		wantSame(t, doc, "added", string(raw))
	})
}
