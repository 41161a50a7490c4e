package gateway_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// contract is proto/openapi.yaml, and the schemas in it.
type contract struct {
	Paths      map[string]map[string]operation
	Components struct {
		Responses map[string]response
		Schemas   map[string]struct{ Properties map[string]any }
	}

	mu       sync.Mutex
	compiler *jsonschema.Compiler
}

type operation struct{ Responses map[string]response }

type response struct {
	Ref     string `json:"$ref"`
	Content map[string]struct{ Schema map[string]any }
}

var openAPI = sync.OnceValues(func() (*contract, error) {
	var doc any
	if err := yaml.Unmarshal(proto.OpenAPI, &doc); err != nil {
		return nil, err
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	c := &contract{compiler: jsonschema.NewCompiler()}
	c.compiler.AssertFormat()
	if err := json.Unmarshal(text, c); err != nil {
		return nil, err
	}
	if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(text)); err != nil {
		return nil, err
	}
	return c, c.compiler.AddResource("openapi.yaml", doc)
})

func openAPIContract(t testing.TB) *contract {
	t.Helper()
	c, err := openAPI()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// path returns the path template of a request.
func (c *contract) path(requested string) string {
	requested, _, _ = strings.Cut(requested, "?")
	parts := strings.Split(requested, "/")
	for template := range c.Paths {
		if slices.EqualFunc(parts, strings.Split(template, "/"), func(part, of string) bool { return part == of || strings.HasPrefix(of, "{") }) {
			return template
		}
	}
	return ""
}

// check compares a response with the document.
func (c *contract) check(t testing.TB, method, path string, resp *http.Response, body string) {
	t.Helper()
	template := c.path(path)
	if template == "" {
		template = "/v1/commands" // it has every response; an unknown path gets a problem too
	}
	pointer := fmt.Sprintf("#/paths/%s/%s/responses/%d", strings.ReplaceAll(template, "/", "~1"), strings.ToLower(method), resp.StatusCode)
	answer, ok := c.Paths[template][strings.ToLower(method)].Responses[fmt.Sprint(resp.StatusCode)]
	if template == "/v1/commands" && method == http.MethodGet {
		answer, ok = c.Paths[template]["post"].Responses[fmt.Sprint(resp.StatusCode)]
	}
	if !ok {
		t.Errorf("%s %s: the document does not know the status %d there", method, path, resp.StatusCode)
		return
	}
	if answer.Ref != "" {
		pointer = answer.Ref
		answer = c.Components.Responses[strings.TrimPrefix(answer.Ref, "#/components/responses/")]
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if _, ok := answer.Content[mediaType]; !ok {
		t.Errorf("%s %s: the document does not know the type %q there (%v)", method, path, resp.Header.Get("Content-Type"), err)
		return
	}
	if mediaType == "application/yaml" || mediaType == "text/html" || mediaType == "application/schema+json" || mediaType == "text/event-stream" {
		return
	}
	name := map[string]string{"application/json": "result", "application/x-ndjson": "event", "application/problem+json": "problem"}[mediaType]
	if mediaType == "application/json" && strings.HasPrefix(template, "/v1/groups/") {
		name = "batch"
	}
	pointer += "/content/" + strings.ReplaceAll(mediaType, "/", "~1") + "/schema"
	for line := range strings.Lines(body) {
		c.validate(t, pointer, line)
		var members map[string]any
		_ = json.Unmarshal([]byte(line), &members) // it was valid above
		for m := range members {
			if _, ok := c.Components.Schemas[name].Properties[m]; !ok {
				t.Errorf("%s %s: the document does not know the member %q of %s", method, path, m, line)
			}
		}
	}
}

func (c *contract) validate(t testing.TB, pointer, text string) {
	t.Helper()
	c.mu.Lock()
	schema, err := c.compiler.Compile("openapi.yaml" + strings.NewReplacer("{", "%7B", "}", "%7D", "+", "%2B").Replace(pointer))
	c.mu.Unlock()
	if err != nil {
		t.Errorf("%s: %v", pointer, err)
		return
	}
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		t.Errorf("%s does not match the document: %v", text, err)
	}
}

func TestOpenAPIDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	var documented []string
	for path, operations := range openAPIContract(t).Paths {
		for method := range operations {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	served := newWorld(t).node().Routes()
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("the document has %q,\nthe gateway serves %q", documented, served)
	}
}

// TestOpenAPIDocumentHasEveryStatus compares the codes that the document has for
// each status with those of the gateway.
func TestOpenAPIDocumentHasEveryStatus(t *testing.T) {
	t.Parallel()
	c := openAPIContract(t)
	documented := map[string]map[string]bool{} // status: codes
	for _, operations := range c.Paths {
		for _, o := range operations {
			for status, r := range o.Responses {
				if status == "426" || status == "431" { // their codes have another status, too
					continue
				}
				problem, ok := c.Components.Responses[strings.TrimPrefix(r.Ref, "#/components/responses/")].Content["application/problem+json"]
				if !ok {
					continue
				}
				text, err := json.Marshal(problem.Schema["allOf"])
				if err != nil {
					t.Fatal(err)
				}
				var parts []struct {
					Properties struct{ Code struct{ Enum []string } }
				}
				if err := json.Unmarshal(text, &parts); err != nil {
					t.Fatal(err)
				}
				if documented[status] == nil {
					documented[status] = map[string]bool{}
				}
				for _, code := range parts[1].Properties.Code.Enum {
					documented[status][code] = true
				}
			}
		}
	}
	want := map[string]map[string]bool{"500": {string(command.CodeInternal): true}}
	for code, status := range gateway.Statuses() {
		s := fmt.Sprint(status)
		if want[s] == nil {
			want[s] = map[string]bool{}
		}
		want[s][string(code)] = true
	}
	if !maps.EqualFunc(documented, want, maps.Equal) {
		t.Errorf("the document has %v,\nthe gateway has %v", documented, want)
	}
}

func TestDocumentsAreServed(t *testing.T) {
	t.Parallel()
	schema, page := []byte(`{"aggregates":{}}`), []byte("<!doctype html>")
	n := newWorld(t).node(func(c *gateway.Config) { c.Schema, c.Docs = schema, page })
	for path, want := range map[string][]byte{"/v1/schema": schema, "/v1/docs": page, "/v1/openapi.yaml": proto.OpenAPI, "/v1/asyncapi.yaml": proto.AsyncAPI} {
		if status, body := n.do("GET", path, "", ""); status != http.StatusOK || body != string(want) {
			t.Errorf("%s: got %d %.80s", path, status, body)
		}
	}
	if status, body := newWorld(t).node().do("GET", "/v1/docs", "", ""); status != http.StatusNotFound {
		t.Errorf("/v1/docs without a page: got %d %.80s", status, body)
	}
}
