package aggregate

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// maxSamples bounds the examples of one schema.
const maxSamples = 2

// Samples returns what the scenarios have of a type's commands, events and states,
// as clients see it: up to two examples by the names of [Definition.Schemas]. Commands
// that are rejected are examples only if none is granted.
func (d *Definition) Samples() map[string][]json.RawMessage { return d.samples() }

func (scenarios Scenarios[S]) samples(d *Definition) map[string][]json.RawMessage {
	found := map[string][]json.RawMessage{}
	add := func(name string, data json.RawMessage) {
		name = d.name + "." + name
		all := found[name]
		if len(all) < maxSamples && !slices.ContainsFunc(all, func(one json.RawMessage) bool { return bytes.Equal(one, data) }) {
			found[name] = append(all, data)
		}
	}
	names := slices.Sorted(maps.Keys(scenarios))
	for _, wanted := range []outcome{emits, rejects} {
		for _, name := range names {
			s := scenarios[name]
			if s.when == nil || s.outcome != wanted {
				continue
			}
			command, ok := d.CommandName(s.when)
			if !ok || wanted == rejects && len(found[d.name+".commands."+command]) > 0 {
				continue
			}
			if data, err := d.EncodeCommand(s.when); err == nil {
				add("commands."+command, data)
			}
		}
	}
	for _, name := range names {
		s := scenarios[name]
		for _, e := range slices.Concat(s.then, s.given) {
			if event, _, data, err := d.EncodeEvent(e); err == nil {
				add("events."+event, data)
			}
		}
		var view bytes.Buffer
		if s.shows != "" && json.Compact(&view, []byte(s.shows)) == nil {
			add("state", view.Bytes())
		}
	}
	return found
}
