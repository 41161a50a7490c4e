package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mutant is a source file with one fault.
type mutant struct {
	file, what string
	line       int
	text       []byte
}

// swapped has a replacement for each operator.
var swapped = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR,
	token.LAND: token.LOR, token.LOR: token.LAND,
	token.ADD: token.SUB, token.SUB: token.ADD,
	token.INC: token.DEC, token.DEC: token.INC,
}

// mutants returns all mutants of the package, except those of generated files.
func (src source) mutants() ([]mutant, error) {
	var all []mutant
	for _, name := range src.GoFiles {
		text, err := os.ReadFile(filepath.Join(src.Dir, name))
		if err != nil {
			return nil, err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		if ast.IsGenerated(file) {
			continue
		}
		p := planter{name: name, text: text, set: set}
		ast.Inspect(file, p.visit)
		all = append(all, p.mutants...)
	}
	return all, nil
}

// planter collects the mutants of one file.
type planter struct {
	name    string
	text    []byte
	set     *token.FileSet
	mutants []mutant
}

// visit adds the mutants of one node.
func (p *planter) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		if to, ok := swapped[n.Op]; ok {
			p.replace(n.OpPos, n.OpPos+token.Pos(len(n.Op.String())), to.String())
		}
	case *ast.IncDecStmt:
		p.replace(n.TokPos, n.TokPos+2, swapped[n.Tok].String())
	case *ast.IfStmt:
		p.replace(n.Cond.Pos(), n.Cond.End(), "!("+p.source(n.Cond)+")")
	case *ast.ForStmt:
		if n.Cond != nil {
			p.replace(n.Cond.Pos(), n.Cond.End(), "!("+p.source(n.Cond)+")")
		}
	case *ast.Ident:
		if n.Name == "true" || n.Name == "false" {
			p.replace(n.Pos(), n.End(), strconv.FormatBool(n.Name == "false"))
		}
	case *ast.BlockStmt:
		p.drop(n.List)
	case *ast.CaseClause:
		p.drop(n.Body)
	case *ast.CommClause:
		p.drop(n.Body)
	case *ast.ReturnStmt:
		p.hideError(n)
	}
	return true
}

// drop adds a mutant without the statement for each call, defer, send and
// assignment in list.
func (p *planter) drop(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt, *ast.DeferStmt, *ast.IncDecStmt, *ast.SendStmt:
			p.replace(s.Pos(), s.End(), "")
		case *ast.AssignStmt:
			if s.Tok != token.DEFINE {
				p.replace(s.Pos(), s.End(), "")
			}
		}
	}
}

// hideError adds a mutant that returns nil instead of err.
func (p *planter) hideError(n *ast.ReturnStmt) {
	if len(n.Results) == 0 {
		return
	}
	if last, ok := n.Results[len(n.Results)-1].(*ast.Ident); ok && last.Name == "err" {
		p.replace(last.Pos(), last.End(), "nil")
	}
}

func (p *planter) source(n ast.Node) string {
	return string(p.text[p.set.Position(n.Pos()).Offset:p.set.Position(n.End()).Offset])
}

// replace adds a mutant in which the text between from and to is replaced by with.
func (p *planter) replace(from, to token.Pos, with string) {
	start, end := p.set.Position(from), p.set.Position(to)
	text := string(p.text[:start.Offset]) + with + string(p.text[end.Offset:])
	was := strings.Join(strings.Fields(string(p.text[start.Offset:end.Offset])), " ")
	what := fmt.Sprintf("column %d: %s became %s", start.Column, was, with)
	if with == "" {
		what = "dropped: " + was
	}
	p.mutants = append(p.mutants, mutant{file: p.name, line: start.Line, what: what, text: []byte(text)})
}
