package contract

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// indentation is that of proto.AsyncAPI, in spaces for each level.
const indentation = 2

// insert adds JSON to the end of the object or list at a path of a YAML document whose
// members up to there are each on a line of their own. The rest of the text does not
// change.
func insert(document string, path []string, text []byte) (string, error) {
	lines := strings.SplitAfter(document, "\n")
	at := 0
	for level, name := range path {
		want := strings.Repeat(" ", level*indentation) + name + ":"
		for at < len(lines) && strings.TrimRight(lines[at], "\n") != want && !ends(lines[at], level) {
			at++
		}
		if at == len(lines) || ends(lines[at], level) {
			return "", fmt.Errorf("contract: the AsyncAPI document of the frames has no %v", path)
		}
		at++
	}
	for at < len(lines) && !ends(lines[at], len(path)) {
		at++
	}
	more, err := decode(json.NewDecoder(bytes.NewReader(text)))
	if err != nil {
		return "", fmt.Errorf("contract: %w", err)
	}
	if len(more.elements) == 0 {
		return document, nil
	}
	var block strings.Builder
	more.write(&block, len(path))
	return strings.Join(slices.Insert(lines, at, block.String()[1:]+"\n"), ""), nil
}

// ends reports whether a line is outside the block of a level: it is indented less.
func ends(line string, level int) bool {
	text := strings.TrimLeft(line, " ")
	return text != "\n" && len(line)-len(text) < level*indentation
}

// A value is a JSON value that keeps the order of members.
type value struct {
	open     json.Delim // '{', '[', or 0 for a scalar
	names    []string   // of an object's elements
	elements []value
	scalar   any // a string, bool, json.Number or nil
}

func decode(d *json.Decoder) (value, error) {
	d.UseNumber()
	token, err := d.Token()
	if err != nil {
		return value{}, err
	}
	open, composite := token.(json.Delim)
	if !composite {
		return value{scalar: token}, nil
	}
	v := value{open: open}
	for d.More() {
		if open == '{' {
			name, err := d.Token()
			if err != nil {
				return value{}, err
			}
			v.names = append(v.names, name.(string))
		}
		element, err := decode(d)
		if err != nil {
			return value{}, err
		}
		v.elements = append(v.elements, element)
	}
	_, err = d.Token() // the end
	return v, err
}

// write appends the elements of v, each on a line that begins with a line break.
func (v value) write(b *strings.Builder, level int) {
	for i, e := range v.elements {
		b.WriteString("\n" + strings.Repeat(" ", level*indentation))
		if v.open == '{' {
			b.WriteString(yamlText(v.names[i]) + ":")
		} else {
			b.WriteByte('-')
		}
		inline, ok := e.inline()
		switch {
		case ok:
			b.WriteString(" " + inline)
		case v.open == '{':
			e.write(b, level+1)
		default: // the first element stands beside the dash
			var block strings.Builder
			e.write(&block, level+1)
			b.WriteString(" " + strings.TrimLeft(block.String(), "\n "))
		}
	}
}

// inline returns a scalar, an object with one scalar, or an empty value in one line. It
// reports false for others.
func (v value) inline() (string, bool) {
	switch {
	case v.open == 0:
		if s, ok := v.scalar.(string); ok {
			return yamlText(s), true
		}
		if v.scalar == nil {
			return "null", true
		}
		return fmt.Sprint(v.scalar), true
	case len(v.elements) == 0:
		return string(v.open) + string(v.open+2), true // '{' and '[' are 2 before '}' and ']'
	case len(v.elements) == 1 && v.open == '{' && v.elements[0].open == 0:
		text, _ := v.elements[0].inline()
		return "{ " + yamlText(v.names[0]) + ": " + text + " }", true
	}
	return "", false
}

// yamlText returns a string as a YAML scalar: plain if it is a word or a sentence that
// YAML reads as a string everywhere, and otherwise quoted. The escapes of Go's quotes are
// also YAML's.
func yamlText(s string) string {
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		return strconv.Quote(s)
	}
	special := func(r rune) bool { return strings.ContainsRune(`:#,?[]{}"\`, r) || !unicode.IsPrint(r) }
	if !startsPlain(s) || strings.ContainsFunc(s, special) || strings.HasSuffix(s, " ") {
		return strconv.Quote(s)
	}
	return s
}

// startsPlain reports whether s begins with a letter, as no number or indicator does, or
// with the dollar of a reference.
func startsPlain(s string) bool {
	return s != "" && (s[0] == '$' || 'a' <= s[0]|0x20 && s[0]|0x20 <= 'z')
}
