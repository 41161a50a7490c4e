package contract

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"
)

// words maps "package.Type" and "package.Type.Field" to the comments of Go types and
// fields.
type words map[string]string

// read returns the comments in the Go files of all sources.
func read(sources []fs.FS) (words, error) {
	w := words{}
	for _, source := range sources {
		if err := w.read(source); err != nil {
			return nil, fmt.Errorf("contract: the catalog's Source: %w", err)
		}
	}
	return w, nil
}

func (w words) read(source fs.FS) error {
	files, err := fs.Glob(source, "*.go")
	if err != nil {
		return err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if types, ok := decl.(*ast.GenDecl); ok && types.Tok == token.TYPE {
				w.add(file.Name.Name, types)
			}
		}
	}
	return nil
}

func (w words) add(pkg string, types *ast.GenDecl) {
	for _, spec := range types.Specs {
		t := spec.(*ast.TypeSpec)
		name := pkg + "." + t.Name.Name
		doc := t.Doc
		if doc == nil && !types.Lparen.IsValid() {
			doc = types.Doc
		}
		w[name] = plain(doc.Text(), t.Name.Name)
		s, ok := t.Type.(*ast.StructType)
		if !ok {
			continue
		}
		for _, f := range s.Fields.List {
			text := f.Doc.Text()
			if text == "" {
				text = f.Comment.Text()
			}
			for _, id := range f.Names {
				w[name+"."+id.Name] = plain(text, id.Name)
			}
		}
	}
}

// plain removes the Go name from the front of a comment: "PlaceBid offers an amount"
// becomes "Offers an amount", and "Inbox is what the client sees" becomes "What the
// client sees".
func plain(text, name string) string {
	text = strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		text = strings.TrimPrefix(rest, "is ")
	}
	first, n := utf8.DecodeRuneInString(text)
	paragraphs := strings.Split(string(unicode.ToUpper(first))+text[n:], "\n\n")
	if text == "" {
		return ""
	}
	for i, p := range paragraphs {
		paragraphs[i] = strings.Join(strings.Fields(p), " ")
	}
	return strings.Join(paragraphs, "\n\n")
}

func (w words) describe(t reflect.Type, field string) string {
	if field != "" {
		return w[t.String()+"."+field]
	}
	return w[t.String()]
}
