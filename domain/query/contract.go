package query

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// Access returns who may ask.
func (d *Definition) Access() aggregate.Rule { return d.access }

// Schemas returns the schemas of the query's parameters, and of its rows or the
// answer of a [Func], under "queries.NAME.data", "queries.NAME.row" and
// "queries.NAME.answer". The schemas follow the rules of [aggregate.Definition.Schemas].
func (d *Definition) Schemas(describe aggregate.Describer) map[string]*aggregate.Schema {
	schemas := map[string]*aggregate.Schema{}
	name := "queries." + d.name
	d.params.AddSchema(schemas, name+".data", true, describe)
	if d.IsFunc() {
		shape.OfEncoded(d.result.Type()).AddSchema(schemas, name+".answer", false, describe)
	} else {
		shape.OfEncoded(d.from.RowType()).AddSchema(schemas, name+".row", false, describe)
	}
	return schemas
}

// maxSamples bounds the examples of one schema.
const maxSamples = 2

// Samples returns what the scenarios have of the query's parameters and of the answer
// of a [Func]: up to two examples by the names of [Definition.Schemas].
func (d *Definition) Samples() map[string][]json.RawMessage { return d.samples() }

func (scenarios Scenarios[Q]) samples(d *Definition) map[string][]json.RawMessage {
	found := map[string][]json.RawMessage{}
	add := func(name string, data json.RawMessage) {
		name = "queries." + d.name + "." + name
		all := found[name]
		if len(all) < maxSamples && !slices.ContainsFunc(all, func(one json.RawMessage) bool { return bytes.Equal(one, data) }) {
			found[name] = append(all, data)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		s := scenarios[name]
		if s.outcome == forbidden {
			continue
		}
		if data, err := json.Marshal(s.params); err == nil {
			add("data", data)
		}
		var answer bytes.Buffer
		if s.outcome == given && json.Compact(&answer, []byte(s.answer)) == nil {
			add("answer", answer.Bytes())
		}
	}
	return found
}
