package contract

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

//go:embed page.css
var pageStyle string

// page is a page that is being written. Package html/template would make the linker keep
// each exported method of the program, which is a tenth of the binary.
type page struct{ bytes.Buffer }

// add writes HTML, with a text for each %s in it.
func (p *page) add(markup string, texts ...string) {
	escaped := make([]any, len(texts))
	for i, t := range texts {
		escaped[i] = html.EscapeString(t)
	}
	fmt.Fprintf(p, markup+"\n", escaped...)
}

func (p *page) paragraphs(text string) {
	for one := range strings.SplitSeq(text, "\n\n") {
		if one != "" {
			p.add("<p>%s</p>", one)
		}
	}
}

// HTML returns the document as a page for people. The page needs no other resource.
func (d *Document) HTML() []byte {
	p := new(page)
	p.add(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<style>`, d.Title)
	p.WriteString(pageStyle)
	p.add(`</style>
</head>
<body>
<nav aria-label="Contents">
<ul>`)
	types, queries := slices.Sorted(maps.Keys(d.Aggregates)), slices.Sorted(maps.Keys(d.Queries))
	for _, typ := range types {
		p.add(`<li><a href="#%s">%s</a></li>`, typ, typ)
	}
	if len(queries) > 0 {
		p.add(`<li><a href="#queries">queries</a></li>`)
	}
	p.add(`</ul>
</nav>
<main>
<h1>%s</h1>
<p>%s</p>
<p class="soft">The same as documents: <a href="schema">JSON Schema</a>, <a href="asyncapi.yaml">AsyncAPI</a> (WebSocket), <a href="openapi.yaml">OpenAPI</a> (HTTP).</p>`, d.Title, d.Description)
	for _, typ := range types {
		d.writeAggregate(p, typ)
	}
	if len(queries) > 0 {
		p.add(`<section>
<h2 id="queries">queries</h2>`)
		for _, name := range queries {
			d.writeQuery(p, name)
		}
		p.add(`</section>`)
	}
	p.add(`</main>
</body>
</html>`)
	return p.Bytes()
}

func (d *Document) writeAggregate(p *page, typ string) {
	a := d.Aggregates[typ]
	p.add(`<section>
<h2 id="%s">%s</h2>`, typ, typ)
	p.paragraphs(a.Description)
	access := a.Access.words()
	if a.ShowsCaller {
		access += " Events name the client that caused them."
	}
	p.add(`<p class="soft">%s</p>`, access)
	d.writeMessage(p, typ+".state", "State", a.State)
	d.writeMessages(p, "Commands", typ+".commands.", a.Commands)
	if len(a.Rejections) > 0 {
		p.add(`<h3>Rejections</h3>
<div class="scroll"><table>
<thead><tr><th scope="col">reason</th><th scope="col">message</th></tr></thead>
<tbody>`)
		for _, code := range slices.Sorted(maps.Keys(a.Rejections)) {
			p.add(`<tr><td><code>%s</code></td><td>%s</td></tr>`, code, a.Rejections[code])
		}
		p.add(`</tbody>
</table></div>`)
	}
	d.writeMessages(p, "Events", typ+".events.", a.Events)
	p.add(`</section>`)
}

func (d *Document) writeQuery(p *page, name string) {
	q, anchor := d.Queries[name], "queries."+name
	p.add(`<h3 id="%s"><code>%s</code></h3>`, anchor, name)
	p.paragraphs(q.Description)
	p.add(`<p class="soft">%s</p>`, "Asked by "+ruleWords(q.Access)+".")
	d.writeMessage(p, anchor+".data", "Data", q.Data)
	if q.Row != nil {
		d.writeMessage(p, anchor+".row", "Row", q.Row)
	} else {
		d.writeMessage(p, anchor+".answer", "Answer", q.Answer)
	}
}

func (d *Document) writeMessages(p *page, title, anchor string, refs map[string]*aggregate.Schema) {
	if len(refs) == 0 {
		return
	}
	p.add(`<h3>%s</h3>`, title)
	for _, name := range slices.Sorted(maps.Keys(refs)) {
		d.writeMessage(p, anchor+name, name, refs[name])
	}
}

// writeMessage writes a command, an event, a state, or a part of a query.
func (d *Document) writeMessage(p *page, anchor, name string, ref *aggregate.Schema) {
	s := d.def(ref)
	p.add(`<h4 id="%s"><code>%s</code></h4>`, anchor, name)
	p.paragraphs(s.Description)
	fields := d.fields(nil, "", s, nil)
	switch {
	case len(fields) > 0:
		p.add(`<div class="scroll"><table>
<thead><tr><th scope="col">member</th><th scope="col">type</th><th scope="col">description</th></tr></thead>
<tbody>`)
		for _, f := range fields {
			optional := ""
			if f.optional {
				optional = ` <span class="soft">optional</span>`
			}
			p.add(`<tr><td><code>%s</code>`+optional+`</td><td>%s</td><td>%s</td></tr>`, f.path, f.typ, f.description)
		}
		p.add(`</tbody>
</table></div>`)
	case s.Type != "object" || s.AdditionalProperties != nil && !s.AdditionalProperties.Never:
		p.add(`<p>%s</p>`, d.typeWords(s))
	default:
		p.add(`<p class="soft">No members: <code>{}</code></p>`)
	}
	for _, example := range s.Examples {
		var b bytes.Buffer
		if json.Indent(&b, example, "", "  ") == nil {
			p.add(`<pre><code>%s</code></pre>`, b.String())
		}
	}
}

// field is a member of an object, or of an object in it.
type field struct {
	path, typ, description string
	optional               bool
}

// fields appends the members of an object, and those of objects in it. open has the
// definitions that are being listed, since a type can contain itself.
func (d *Document) fields(list []field, prefix string, s *aggregate.Schema, open []string) []field {
	for _, p := range s.Properties {
		list = append(list, field{
			path: prefix + p.Name, typ: d.typeWords(p.Schema), description: p.Schema.Description,
			optional: !slices.Contains(s.Required, p.Name),
		})
		list = d.within(list, prefix+p.Name, p.Schema, open)
	}
	return list
}

// within appends the members of the objects that a value may be or contain.
func (d *Document) within(list []field, path string, s *aggregate.Schema, open []string) []field {
	if s.Ref != "" {
		if named := d.def(s); named != nil && !slices.Contains(open, s.Ref) {
			return d.within(list, path, named, append(slices.Clone(open), s.Ref))
		}
		return list
	}
	for _, one := range s.AnyOf {
		list = d.within(list, path, one, open)
	}
	if s.Items != nil {
		list = d.within(list, path+"[]", s.Items, open)
	}
	if s.AdditionalProperties != nil && !s.AdditionalProperties.Never {
		list = d.within(list, path+"[…]", s.AdditionalProperties, open)
	}
	return d.fields(list, path+".", s, open)
}

// typeWords describes the type of a value in a few words.
func (d *Document) typeWords(s *aggregate.Schema) string {
	switch {
	case s.Ref != "":
		if named := d.def(s); named != nil {
			return d.kind(named, s.Ref[strings.LastIndexAny(s.Ref, "./")+1:])
		}
	case len(s.AnyOf) > 0:
		var words []string
		for _, one := range s.AnyOf {
			if w := d.typeWords(one); !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
		return strings.Join(words, " or ")
	case len(s.Enum) > 0:
		return strings.ReplaceAll(union(s.Enum), " | ", " or ")
	case s.Type == "array" && s.Items != nil:
		return "list of " + d.typeWords(s.Items)
	case s.Type == "object" && s.AdditionalProperties != nil && !s.AdditionalProperties.Never:
		return "map of " + d.typeWords(s.AdditionalProperties)
	}
	return d.kind(s, "")
}

// kind names the type of a value that is not a reference; name is that of its
// definition.
func (d *Document) kind(s *aggregate.Schema, name string) string {
	switch {
	case s.Type == "":
		return "any JSON"
	case s.Type == "object" && name != "":
		return "object (" + name + ")"
	case s.Format != "":
		return s.Type + " (" + s.Format + ")"
	case s.ContentEncoding != "":
		return s.Type + " (" + s.ContentEncoding + ")"
	}
	return s.Type
}
