package contract_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/node/contract"
	"github.com/ganglion-es/ganglion/proto"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func TestCommittedContractMatchesTheAggregates(t *testing.T) {
	t.Parallel()
	doc, err := contract.Of(&domain.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := doc.JSON()
	if err != nil {
		t.Fatal(err)
	}
	asyncAPI, err := doc.AsyncAPI(proto.AsyncAPI)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"schema.json": schema, "asyncapi.yaml": asyncAPI, "contract.ts": doc.TypeScript()} {
		if got, err := os.ReadFile("../../domain/api/" + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("../../domain/api/%s differs from the aggregates (%v): run 'make generate'", name, err)
		}
	}
}

// Authors of clients read the comments of the Go types.
func TestEveryCommandEventAndStateIsDescribed(t *testing.T) {
	t.Parallel()
	doc, err := contract.Of(&domain.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	for name, schema := range doc.Defs {
		if schema.Description == "" {
			t.Errorf("%s has no description: comment its Go type", name)
		}
	}
}

func TestApplicationFramesMatchTheAsyncAPIDocument(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../domain/api/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(doc["components"])
	if err != nil {
		t.Fatal(err)
	}
	components, err := jsonschema.UnmarshalJSON(bytes.NewReader(append(append([]byte(`{"components":`), text...), '}')))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("asyncapi", components); err != nil {
		t.Fatal(err)
	}
	const event = `{"op":"event","sub":"s","stream":"auction/42","version":2,"position":2,"event":"bid_placed","data":{"bidder":"ada","amount":1},"time":"2026-11-22T12:00:00Z","cause":"k"}`
	for _, test := range []struct {
		message, frame string
		valid          bool
	}{
		{"auction.commands.bid", `{"op":"command","id":"1","aggregate":"auction/42","command":"bid","data":{"amount":1}}`, true},
		{"auction.commands.bid", `{"op":"command","id":"1","aggregate":"auction/42","command":"bid","data":{"ammount":1}}`, false},
		{"auction.commands.bid", `{"op":"command","id":"1","aggregate":"counter/42","command":"bid","data":{"amount":1}}`, false},
		{"auction.commands.bid", `{"op":"command","id":"1","aggregate":"auction/42","command":"close","data":{"amount":1}}`, false},
		{"auction.commands.bid", `{"op":"command","aggregate":"auction/42","command":"bid","data":{"amount":1}}`, false},
		{"auction.events.bid_placed", event, true},
		{"auction.events.bid_placed", strings.Replace(event, `"amount":1`, `"amount":"1"`, 1), false},
		{"auction.events.closed", event, false},
		{"counter.state", `{"op":"state","sub":"s","version":2,"position":2,"data":{"value":1}}`, true},
		{"counter.state", `{"op":"state","sub":"s","version":2,"position":2,"data":{}}`, false},
	} {
		schema, err := c.Compile("asyncapi#/components/messages/" + test.message + "/payload")
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(test.frame))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); (err == nil) != test.valid {
			t.Errorf("%s validated as %s: %v", test.frame, test.message, err)
		}
	}
}
