package frame_test

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/ganglion-es/ganglion/proto/frame"
	"go.yaml.in/yaml/v3"
)

// asyncAPI is as much of the document as says what frames look like.
type asyncAPI struct {
	Operations map[string]struct {
		Messages []struct {
			Ref string `yaml:"$ref"`
		}
	}
	Components struct {
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

// TestTheAsyncAPIDocumentSaysWhatTheTypesSay compares ops, members and what is
// required with the golden frames, which hold every member of every type.
func TestTheAsyncAPIDocumentSaysWhatTheTypesSay(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc asyncAPI
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	said := map[string]map[string]int{} // by op: how many frames say each member
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
				t.Errorf("%s: %s is required, and a golden frame is without it", op, m)
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
		t.Errorf("the document has %d messages, there are %d ops", got, want)
	}
}

// TestTheGoldenFramesHaveEveryMember keeps the test above honest: for each
// type, some golden frame sets each field.
func TestTheGoldenFramesHaveEveryMember(t *testing.T) {
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
	delete(unset, "Hello.Refused") // only ever read
	for name, is := range unset {
		if is {
			t.Errorf("no golden frame sets %s", name)
		}
	}
}
