// Package contract describes an application's aggregates and queries to the authors of clients,
// as a JSON Schema, an AsyncAPI document, TypeScript and a page.
//
// [Of] makes a [Document] of a catalog. The same catalog results in the same bytes, so
// a test can compare a committed document with the code.
package contract

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Draft is the JSON Schema draft of the documents.
const Draft = "https://json-schema.org/draft/2020-12/schema"

// A Document is a catalog as a JSON Schema. Aggregates and Queries are indexes that
// refer to the schemas in Defs.
type Document struct {
	Schema      string                       `json:"$schema"`
	Title       string                       `json:"title"`
	Description string                       `json:"description"`
	Aggregates  map[string]Aggregate         `json:"aggregates"`
	Queries     map[string]Query             `json:"queries,omitempty"`
	Defs        map[string]*aggregate.Schema `json:"$defs"`
}

// An Aggregate describes an aggregate type.
type Aggregate struct {
	Description string `json:"description,omitempty"`
	Access      Access `json:"access"`
	// ShowsCaller reports whether events name the client that caused them.
	ShowsCaller bool              `json:"shows_caller"`
	State       *aggregate.Schema `json:"state"`
	// Commands and Events have the schemas of the data, by stored name.
	Commands map[string]*aggregate.Schema `json:"commands"`
	Events   map[string]*aggregate.Schema `json:"events"`
	// Rejections has a message for each code.
	Rejections map[string]string `json:"rejections,omitempty"`
}

// A Query describes a query.
type Query struct {
	Description string `json:"description,omitempty"`
	// Access is the name of the rule that says who may ask.
	Access string `json:"access"`
	// Data has the schema of the parameters, Row that of a row of the result. A query
	// that code answers has Answer instead of Row.
	Data   *aggregate.Schema `json:"data"`
	Row    *aggregate.Schema `json:"row,omitempty"`
	Answer *aggregate.Schema `json:"answer,omitempty"`
}

// described is what the contract needs of a query.
type described interface {
	aggregate.Model
	Doc() string
	Access() aggregate.Rule
	Schemas(aggregate.Describer) map[string]*aggregate.Schema
	Samples() map[string][]json.RawMessage
}

// Access has the name of each access rule: "anyone", "authenticated", "self" (the
// client whose id is the aggregate's), "system" (no client), or "rule" (application
// code decides).
type Access struct {
	Send string `json:"send"`
	Read string `json:"read"`
	// ReadAll is "rule" if application code may open the category to clients that
	// Read does not admit.
	ReadAll string `json:"read_all,omitempty"`
	// Commands has rules that replace Send, by command name.
	Commands map[string]string `json:"commands,omitempty"`
}

// Of returns the document of a catalog, without the commands that no client may send.
// It returns an error if the catalog's Source is
// not valid Go.
func Of(c *aggregate.Catalog) (*Document, error) {
	words, err := read(c.Sources())
	if err != nil {
		return nil, err
	}
	doc := &Document{
		Schema: Draft, Title: "Aggregates",
		Description: "The commands, events and states of the application's aggregates, and its queries. " +
			"A command's data must match its schema exactly; later versions may add members to events and states.",
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
			Rejections: d.Rejections(),
		}
		if a.Description == "" {
			a.Description = doc.Defs[d.Name()+".state"].Description
		}
		if access.ReadAll != nil {
			a.Access.ReadAll = byRule
		}
		for name, rule := range access.Commands {
			if rule == aggregate.System {
				continue // not a part of the contract with clients
			}
			if a.Access.Commands == nil {
				a.Access.Commands = map[string]string{}
			}
			a.Access.Commands[name] = nameOf(rule)
		}
		for _, name := range d.Commands() {
			if c.IsSystem(d.Name(), name) {
				delete(doc.Defs, d.Name()+".commands."+name)
				continue
			}
			a.Commands[name] = ref(d.Name(), "commands."+name)
		}
		for _, name := range d.Events() {
			a.Events[name] = ref(d.Name(), "events."+name)
		}
		doc.addExamples(d.Samples())
		doc.Aggregates[d.Name()] = a
	}
	doc.addQueries(c, words)
	return doc, nil
}

// addExamples adds what the scenarios show to the schemas.
func (doc *Document) addExamples(samples map[string][]json.RawMessage) {
	for name, examples := range samples {
		if s := doc.Defs[name]; s != nil {
			s.Examples = examples
		}
	}
}

// addQueries adds the queries.
func (doc *Document) addQueries(c *aggregate.Catalog, words words) {
	for _, m := range c.Models("query") {
		q, ok := m.(described)
		if !ok {
			continue
		}
		schemas := q.Schemas(words.describe)
		maps.Copy(doc.Defs, schemas)
		if doc.Queries == nil {
			doc.Queries = map[string]Query{}
		}
		one := Query{Description: q.Doc(), Access: nameOf(q.Access()), Data: ref("queries", q.Name()+".data")}
		if schemas["queries."+q.Name()+".row"] != nil {
			one.Row = ref("queries", q.Name()+".row")
		} else {
			one.Answer = ref("queries", q.Name()+".answer")
		}
		if one.Description == "" {
			one.Description = doc.def(one.Data).Description
		}
		doc.addExamples(q.Samples())
		doc.Queries[q.Name()] = one
	}
}

// byRule stands for a rule that is application code.
const byRule = "rule"

// nameOf returns the name of a rule. A rule that is not one of package aggregate's is
// application code.
func nameOf(rule aggregate.Rule) string {
	switch rule {
	case aggregate.Anyone, aggregate.Authenticated, aggregate.Self, aggregate.System:
		return fmt.Sprint(rule)
	}
	return byRule
}

func ref(typ, what string) *aggregate.Schema {
	return &aggregate.Schema{Ref: refPrefix + typ + "." + what}
}

const refPrefix = "#/$defs/"

// JSON returns the document as indented JSON.
func (d *Document) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("contract: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads a document that JSON wrote, in this program or another.
func Parse(text []byte) (*Document, error) {
	d := &Document{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("contract: not a document of aggregates: %w", err)
	}
	if len(d.Aggregates) == 0 {
		return nil, fmt.Errorf("contract: not a document of aggregates: it has no aggregates")
	}
	for typ, a := range d.Aggregates {
		refs := slices.Concat([]*aggregate.Schema{a.State}, slices.Collect(maps.Values(a.Commands)), slices.Collect(maps.Values(a.Events)))
		for _, s := range refs {
			if s == nil || d.def(s) == nil {
				return nil, fmt.Errorf("contract: %s refers to a schema that is not in the document", typ)
			}
		}
	}
	for name, q := range d.Queries {
		result := cmp.Or(q.Row, q.Answer)
		if q.Data == nil || result == nil || d.def(q.Data) == nil || d.def(result) == nil {
			return nil, fmt.Errorf("contract: query %s refers to a schema that is not in the document", name)
		}
	}
	return d, nil
}

// def returns the schema that a reference names, or nil if the document has none.
func (d *Document) def(s *aggregate.Schema) *aggregate.Schema {
	if len(s.Ref) <= len(refPrefix) || s.Ref[:len(refPrefix)] != refPrefix {
		return nil
	}
	return d.Defs[s.Ref[len(refPrefix):]]
}
