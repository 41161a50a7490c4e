package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// AsyncAPI returns the document frames, which is proto.AsyncAPI, with a message for
// each command, event and state of the application. The text of frames is otherwise
// unchanged, comments included.
func (d *Document) AsyncAPI(frames []byte) ([]byte, error) {
	type reference map[string]string
	message := func(name string) reference { return reference{"$ref": "#/channels/session/messages/" + name} }
	messages, schemas := map[string]any{}, map[string]any{}
	inChannel, toGateway, toClient := map[string]any{}, []reference{}, []reference{}
	add := func(name, frame, description string, members map[string]any, to *[]reference) {
		messages[name] = map[string]any{
			"summary": description,
			"payload": map[string]any{"allOf": []any{
				reference{"$ref": "#/components/messages/" + frame + "/payload"},
				map[string]any{"properties": members},
			}},
		}
		inChannel[name] = reference{"$ref": "#/components/messages/" + name}
		*to = append(*to, message(name))
	}
	for _, typ := range slices.Sorted(maps.Keys(d.Aggregates)) {
		a := d.Aggregates[typ]
		stream := map[string]any{"pattern": "^" + typ + "/"}
		for _, name := range slices.Sorted(maps.Keys(a.Commands)) {
			add(typ+".commands."+name, "command", d.def(a.Commands[name]).Description, map[string]any{
				"aggregate": stream, "command": map[string]any{"const": name}, "data": a.Commands[name],
			}, &toGateway)
		}
		for _, name := range slices.Sorted(maps.Keys(a.Events)) {
			add(typ+".events."+name, "event", d.def(a.Events[name]).Description, map[string]any{
				"stream": stream, "event": map[string]any{"const": name}, "data": a.Events[name],
			}, &toClient)
		}
		add(typ+".state", "state", a.Description, map[string]any{"data": a.State}, &toClient)
		if len(a.Rejections) > 0 {
			var reasons []any
			for _, code := range slices.Sorted(maps.Keys(a.Rejections)) {
				reasons = append(reasons, map[string]any{"const": code, "description": a.Rejections[code]})
			}
			add(typ+".rejected", "error", "A rule of "+typ+" rejected a command.", map[string]any{
				"code": map[string]any{"const": "rejected"}, "reason": map[string]any{"oneOf": reasons},
			}, &toClient)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Queries)) {
		q := d.Queries[name]
		add("queries."+name, "query", q.Description, map[string]any{"query": map[string]any{"const": name}, "data": q.Data}, &toGateway)
	}
	for name, s := range d.Defs {
		schemas[name] = s
	}
	doc := string(frames)
	for _, a := range []struct {
		to   []string
		what any
	}{
		{[]string{"components", "schemas"}, schemas},
		{[]string{"components", "messages"}, messages},
		{[]string{"channels", "session", "messages"}, inChannel},
		{[]string{"operations", "toGateway", "messages"}, toGateway},
		{[]string{"operations", "toClient", "messages"}, toClient},
	} {
		text, err := json.Marshal(a.what)
		if err != nil {
			return nil, fmt.Errorf("contract: %w", err)
		}
		text = bytes.ReplaceAll(text, []byte(`"`+refPrefix), []byte(`"#/components/schemas/`))
		if doc, err = insert(doc, a.to, text); err != nil {
			return nil, err
		}
	}
	return []byte(doc), nil
}
