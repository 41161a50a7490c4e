package frame_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// asyncAPI is the part of the document that describes frames.
type asyncAPI struct {
	Operations map[string]struct {
		Messages []struct {
			Ref string `yaml:"$ref"`
		}
	}
	CloseCodes map[string]string `yaml:"x-close-codes"`
	Components struct {
		Schemas map[string]struct {
			Enum []string
		}
		Messages map[string]struct {
			Payload struct {
				Required   []string
				Properties map[string]struct {
					Const string
				}
			}
		}
	}
}

// The golden frames have every member of every type.
func TestAsyncAPIDocumentMatchesTheFrameTypes(t *testing.T) {
	t.Parallel()
	var doc asyncAPI
	if err := yaml.Unmarshal(proto.AsyncAPI, &doc); err != nil {
		t.Fatal(err)
	}
	said := map[string]map[string]int{} // by op and member: number of frames
	count := map[string]int{}
	direction := map[string]string{}
	for name, g := range frames {
		op := g.frame.Op()
		direction[op] = "toClient"
		if _, ok := g.frame.(frame.Request); ok {
			direction[op] = "toGateway"
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(g.frame.Append(nil), &members); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if said[op] == nil {
			said[op] = map[string]int{}
		}
		count[op]++
		for m := range members {
			said[op][m]++
		}
	}
	for op, members := range said {
		payload := doc.Components.Messages[op].Payload
		if got, want := slices.Sorted(maps.Keys(payload.Properties)), slices.Sorted(maps.Keys(members)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the document has the members %v, the type %v", op, got, want)
		}
		if payload.Properties["op"].Const != op {
			t.Errorf("%s: the document says op %q", op, payload.Properties["op"].Const)
		}
		for _, m := range payload.Required {
			if members[m] != count[op] && !(op == "error" && m == "id") {
				t.Errorf("%s: %s is required, and a golden frame lacks it", op, m)
			}
		}
		ref := "#/channels/session/messages/" + op
		if !slices.ContainsFunc(doc.Operations[direction[op]].Messages, func(m struct {
			Ref string `yaml:"$ref"`
		},
		) bool {
			return m.Ref == ref
		}) {
			t.Errorf("%s is missing in the operation %s", op, direction[op])
		}
	}
	if got, want := len(doc.Components.Messages), len(said); got != want {
		t.Errorf("the document has %d messages, want %d, one for each op", got, want)
	}
}

// TestAsyncAPIDocumentMatchesTheFrameTypes relies on golden frames with every member.
func TestGoldenFramesHaveEveryMember(t *testing.T) {
	t.Parallel()
	unset := map[string]bool{}
	for _, g := range frames {
		v := reflect.ValueOf(g.frame)
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			if !v.Field(i).IsZero() {
				unset[name] = false
			} else if _, seen := unset[name]; !seen {
				unset[name] = true
			}
		}
	}
	delete(unset, "Hello.Refused") // never written
	for name, is := range unset {
		if is {
			t.Errorf("no golden frame sets %s", name)
		}
	}
}

// document converts a YAML document to JSON values.
func document(t *testing.T, raw []byte) any {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(jsonKeys(doc))
	if err != nil {
		t.Fatal(err)
	}
	if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	return doc
}

// jsonKeys converts keys that YAML reads as numbers to strings.
func jsonKeys(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = jsonKeys(v[k])
		}
	case map[any]any:
		m := map[string]any{}
		for k, value := range v {
			m[strconv.Itoa(k.(int))] = jsonKeys(value)
		}
		return m
	case []any:
		for i := range v {
			v[i] = jsonKeys(v[i])
		}
	}
	return v
}

// The test also removes each required member and gives each member a wrong type, and
// expects the document to refuse the frame.
func TestGoldenFramesMatchTheAsyncAPIDocument(t *testing.T) {
	t.Parallel()
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("asyncapi.yaml", document(t, proto.AsyncAPI)); err != nil {
		t.Fatal(err)
	}
	anything := []string{"data"} // of any type
	for name, g := range frames {
		schema, err := compiler.Compile("asyncapi.yaml#/components/messages/" + g.frame.Op() + "/payload")
		if err != nil {
			t.Fatal(err)
		}
		read := func() map[string]any {
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(g.frame.Append(nil)))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return v.(map[string]any)
		}
		if err := schema.Validate(read()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, m := range schema.Required {
			without := read()
			delete(without, m)
			if schema.Validate(without) == nil {
				t.Errorf("%s is valid without %s", name, m)
			}
		}
		for m := range read() {
			wrong := read()
			if wrong[m] = []any{1}; schema.Validate(wrong) == nil && !slices.Contains(anything, m) {
				t.Errorf("%s is valid with a list of numbers as its %s", name, m)
			}
		}
	}
}

// constants returns the values of the constants of a file whose name or type
// begins with prefix.
func constants(t *testing.T, file, prefix string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for node := range ast.Preorder(parsed) {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			continue
		}
		typ, _ := spec.Type.(*ast.Ident)
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok && (strings.HasPrefix(spec.Names[0].Name, prefix) || typ != nil && typ.Name == prefix) {
			values = append(values, strings.Trim(literal.Value, `"`))
		}
	}
	slices.Sort(values)
	return values
}

func TestDocumentsListEveryCode(t *testing.T) {
	t.Parallel()
	codes, closeCodes := constants(t, "../command/failure.go", "Code"), constants(t, "frame.go", "Close")
	for name, raw := range map[string][]byte{"asyncapi.yaml": proto.AsyncAPI, "openapi.yaml": proto.OpenAPI} {
		var doc asyncAPI
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(slices.Values(doc.Components.Schemas["code"].Enum)); !slices.Equal(got, codes) {
			t.Errorf("%s has the codes %q, the code has %q", name, got, codes)
		}
		if name == "openapi.yaml" {
			continue
		}
		var got []string
		for code := range doc.CloseCodes {
			got = append(got, code)
		}
		slices.Sort(got)
		if !slices.Equal(got, closeCodes) {
			t.Errorf("%s has the close codes %q, the code has %q", name, got, closeCodes)
		}
	}
}

func TestDocumentsAgreeOnSharedSchemas(t *testing.T) {
	t.Parallel()
	schemas := func(raw []byte) map[string]any {
		return document(t, raw).(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)
	}
	overWebSocket, overHTTP := schemas(proto.AsyncAPI), schemas(proto.OpenAPI)
	for name, schema := range overWebSocket {
		if !reflect.DeepEqual(schema, overHTTP[name]) {
			t.Errorf("the schema %s differs:\n%v\n%v", name, schema, overHTTP[name])
		}
	}
	messages := document(t, proto.AsyncAPI).(map[string]any)["components"].(map[string]any)["messages"].(map[string]any)
	for name, mayLack := range map[string][]string{"command": {"op", "id"}, "result": {"id"}, "event": {"op", "sub"}} {
		frame := messages[name].(map[string]any)["payload"].(map[string]any)["properties"].(map[string]any)
		body := overHTTP[name].(map[string]any)["properties"].(map[string]any)
		for m, schema := range frame {
			if !reflect.DeepEqual(schema, body[m]) && (body[m] != nil || !slices.Contains(mayLack, m)) {
				t.Errorf("%s of %s differs:\n%v\n%v", m, name, schema, body[m])
			}
		}
	}
	frame := messages["error"].(map[string]any)["payload"].(map[string]any)["properties"].(map[string]any)
	body := overHTTP["problem"].(map[string]any)["properties"].(map[string]any)
	for m, schema := range frame {
		if !reflect.DeepEqual(schema, body[m]) {
			t.Errorf("%s of error differs:\n%v\n%v", m, schema, body[m])
		}
	}
}
