package contract_test

import (
	"bytes"
	"html"
	"regexp"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/node/contract"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TestPageEscapesTextAndEndsRecursiveTypes renders an aggregate whose comment has
// markup and whose state contains itself.
func TestPageEscapesTextAndEndsRecursiveTypes(t *testing.T) {
	t.Parallel()
	doc, err := contract.Of(catalog(t, "package contract_test\n\n// Grow plants <script>alert(1)</script> & more.\ntype Grow struct{}\n"))
	if err != nil {
		t.Fatal(err)
	}
	page := doc.HTML()
	if bytes.Contains(page, []byte("<script")) || !strings.Contains(html.UnescapeString(string(page)), "<script>alert(1)</script> & more.") {
		t.Errorf("the page does not escape a comment:\n%s", page)
	}
	var members []string
	for _, m := range regexp.MustCompile(`<td><code>([^<]*)</code>`).FindAllStringSubmatch(string(page), -1) {
		members = append(members, html.UnescapeString(m[1]))
	}
	want := "root root.name root.kids at at.name at.kids odd-name more at at.name at.kids"
	if got := strings.Join(members, " "); got != want {
		t.Errorf("the page lists %s, want %s", got, want)
	}
}

func TestExamplesMatchTheirSchemas(t *testing.T) {
	t.Parallel()
	doc, err := contract.Of(&domain.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	text, err := doc.JSON()
	if err != nil {
		t.Fatal(err)
	}
	schemas, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schemas", schemas); err != nil {
		t.Fatal(err)
	}
	for name, s := range doc.Defs {
		isMessage := strings.Contains(name, ".commands.") || strings.Contains(name, ".events.") || strings.HasSuffix(name, ".data")
		if isMessage && len(s.Examples) == 0 {
			t.Errorf("%s has no example", name)
		}
		schema, err := c.Compile("schemas#/$defs/" + name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, example := range s.Examples {
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(example))
			if err == nil {
				err = schema.Validate(v)
			}
			if err != nil {
				t.Errorf("%s: the example %s: %v", name, example, err)
			}
		}
	}
}
