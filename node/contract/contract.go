// Package contract writes down what clients may send to an application's
// aggregates and what they see of them, as documents that are made of the
// catalog alone: a JSON Schema, an AsyncAPI document, and TypeScript.
//
// What it returns depends on the catalog and nothing else, byte for byte, so
// that a committed document can be compared with the code.
package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Draft is the JSON Schema draft of the documents.
const Draft = "https://json-schema.org/draft/2020-12/schema"

// A Document is a catalog as a JSON Schema with an index: Aggregates says what
// there is, and refers to the schemas in Defs.
type Document struct {
	Schema      string                       `json:"$schema"`
	Title       string                       `json:"title"`
	Description string                       `json:"description"`
	Aggregates  map[string]Aggregate         `json:"aggregates"`
	Defs        map[string]*aggregate.Schema `json:"$defs"`
}

// An Aggregate is a type of aggregates.
type Aggregate struct {
	Description string `json:"description,omitempty"`
	Access      Access `json:"access"`
	// ShowsCaller tells whether events say which client caused them.
	ShowsCaller bool              `json:"shows_caller"`
	State       *aggregate.Schema `json:"state"`
	// Commands and Events have the schemas of the data, by stored name.
	Commands map[string]*aggregate.Schema `json:"commands"`
	Events   map[string]*aggregate.Schema `json:"events"`
}

// Access says who may do what: "anyone", "authenticated", "self" (the client
// whose id is the aggregate's), or "rule" (code decides).
type Access struct {
	Send string `json:"send"`
	Read string `json:"read"`
	// ReadAll is "rule" if code decides which callers may read all aggregates
	// of the type, whatever Read says.
	ReadAll string `json:"read_all,omitempty"`
	// Commands has what replaces Send for single commands.
	Commands map[string]string `json:"commands,omitempty"`
}

// Of returns the document of a catalog. The error is about the catalog's
// Source, which is not Go code.
func Of(c *aggregate.Catalog) (*Document, error) {
	words, err := read(c.Source)
	if err != nil {
		return nil, err
	}
	doc := &Document{
		Schema: Draft, Title: "Aggregates",
		Description: "What clients may send to the aggregates of this application, and what they see of them. " +
			"A command's data is exactly what its schema says; events and states may have further members one day.",
		Aggregates: map[string]Aggregate{},
		Defs:       map[string]*aggregate.Schema{},
	}
	for _, d := range c.Types() {
		maps.Copy(doc.Defs, d.Schemas(words.describe))
		access := d.Access()
		a := Aggregate{
			Description: d.Doc(), ShowsCaller: d.ShowsCaller(),
			Access:   Access{Send: nameOf(access.Send), Read: nameOf(access.Read)},
			State:    ref(d.Name(), "state"),
			Commands: map[string]*aggregate.Schema{}, Events: map[string]*aggregate.Schema{},
		}
		if a.Description == "" {
			a.Description = doc.Defs[d.Name()+".state"].Description
		}
		if access.ReadAll != nil {
			a.Access.ReadAll = byRule
		}
		for name, rule := range access.Commands {
			if a.Access.Commands == nil {
				a.Access.Commands = map[string]string{}
			}
			a.Access.Commands[name] = nameOf(rule)
		}
		for _, name := range d.Commands() {
			a.Commands[name] = ref(d.Name(), "commands."+name)
		}
		for _, name := range d.Events() {
			a.Events[name] = ref(d.Name(), "events."+name)
		}
		doc.Aggregates[d.Name()] = a
	}
	return doc, nil
}

// byRule stands for a rule that only code knows.
const byRule = "rule"

// nameOf names a rule. Rules of a type that the application made are code.
func nameOf(rule aggregate.Rule) string {
	switch rule {
	case aggregate.Anyone, aggregate.Authenticated, aggregate.Self:
		return fmt.Sprint(rule)
	}
	return byRule
}

func ref(typ, what string) *aggregate.Schema {
	return &aggregate.Schema{Ref: refPrefix + typ + "." + what}
}

const refPrefix = "#/$defs/"

// JSON returns the document as people read it.
func (d *Document) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("contract: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads what JSON wrote, here or at another program.
func Parse(text []byte) (*Document, error) {
	d := &Document{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("contract: not a document of aggregates: %w", err)
	}
	if len(d.Aggregates) == 0 {
		return nil, fmt.Errorf("contract: not a document of aggregates: there are none in it")
	}
	for typ, a := range d.Aggregates {
		refs := slices.Concat([]*aggregate.Schema{a.State}, slices.Collect(maps.Values(a.Commands)), slices.Collect(maps.Values(a.Events)))
		for _, s := range refs {
			if s == nil || d.def(s) == nil {
				return nil, fmt.Errorf("contract: %s refers to a schema that is not in the document", typ)
			}
		}
	}
	return d, nil
}

// def returns the schema that a reference names, nil if there is none.
func (d *Document) def(s *aggregate.Schema) *aggregate.Schema {
	if len(s.Ref) <= len(refPrefix) || s.Ref[:len(refPrefix)] != refPrefix {
		return nil
	}
	return d.Defs[s.Ref[len(refPrefix):]]
}
