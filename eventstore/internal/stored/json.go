package stored

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
)

// encodeEvents writes events as [{"t":"name","v":2,"d":…}, …], without "v"
// for the first form. The data stays byte for byte what it was.
func encodeEvents(events []eventstore.Event) ([]byte, error) {
	size := 2
	for i := range events {
		size += len(events[i].Type) + len(events[i].Data) + 24
	}
	b := append(make([]byte, 0, size), '[')
	for i := range events {
		e := &events[i]
		if err := checkText(e.Type, MaxNameBytes); err != nil {
			return nil, fmt.Errorf("the name of event %d %w", i, err)
		}
		if e.Form < 0 || e.Form > 1<<30 {
			return nil, fmt.Errorf("event %d has the form %d: forms count from 1", i, e.Form)
		}
		if err := checkJSON(e.Data); err != nil {
			return nil, fmt.Errorf("the data of event %d %w", i, err)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"t":`...)
		if plain(e.Type) {
			b = append(b, '"')
			b = append(b, e.Type...)
			b = append(b, '"')
		} else {
			name, err := json.Marshal(e.Type)
			if err != nil {
				return nil, err
			}
			b = append(b, name...)
		}
		if e.Form > 1 {
			b = append(b, `,"v":`...)
			b = strconv.AppendInt(b, int64(e.Form), 10)
		}
		b = append(b, `,"d":`...)
		b = append(b, e.Data...)
		b = append(b, '}')
	}
	return append(b, ']'), nil
}

func encodeMeta(m eventstore.Meta) ([]byte, error) {
	if m == (eventstore.Meta{}) {
		return []byte("{}"), nil
	}
	if m.Client != "" && plain(m.Client) && plain(m.Trace) { // as json.Marshal would, in a tenth of the time
		b := make([]byte, 0, len(m.Client)+len(m.Trace)+len(`{"client":"","trace":""}`))
		b = append(append(b, `{"client":"`...), m.Client...)
		if m.Trace != "" {
			b = append(append(b, `","trace":"`...), m.Trace...)
		}
		return append(b, `"}`...), nil
	}
	for _, s := range []string{m.Client, m.Trace} {
		if !utf8.ValidString(s) || bytes.IndexByte([]byte(s), 0) >= 0 {
			return nil, errors.New("is not valid UTF-8 without NUL")
		}
	}
	return json.Marshal(m)
}

// DecodeMeta is the inverse of what Prepare does to a command's meta data. Like
// DecodeEvents it reads what Prepare writes without encoding/json, which would
// take as long as all the rest of a row.
func DecodeMeta(text []byte) (m eventstore.Meta, err error) {
	if string(text) == "{}" {
		return m, nil
	}
	if m, ok := scanMeta(text); ok {
		return m, nil
	}
	err = json.Unmarshal(text, &m)
	return m, err
}

// scanMeta reads what encodeMeta writes, unless it holds escapes.
func scanMeta(text []byte) (m eventstore.Meta, ok bool) {
	rest, ok := bytes.CutSuffix(text, []byte(`"}`))
	if !ok {
		return m, false
	}
	client, rest, both := bytes.Cut(rest, []byte(`","trace":"`))
	if client, ok = bytes.CutPrefix(client, []byte(`{"client":"`)); !ok || len(client) == 0 || !plain(client) ||
		both && len(rest) == 0 || !plain(rest) {
		return m, false
	}
	return eventstore.Meta{Client: string(client), Trace: string(rest)}, true
}

// DecodeEvents is the inverse of what Prepare does to a command's events.
// text is a valid JSON document (the database sees to that); the events' data
// are slices of it.
//
// What Prepare writes is read by a scanner that only looks for the ends of
// values, several times as fast as encoding/json; anything else that means
// the same (a row that was restored by other means) is read by encoding/json.
func DecodeEvents(text []byte, n int) ([]eventstore.Event, error) {
	if events, ok := scanEvents(text, n); ok {
		return events, nil
	}
	var list []struct {
		T *string         `json:"t"`
		V *int            `json:"v"`
		D json.RawMessage `json:"d"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, errors.New("the events are not the JSON that this program writes")
	}
	if len(list) != n {
		return nil, fmt.Errorf("the row counts %d events and holds %d", n, len(list))
	}
	events := make([]eventstore.Event, len(list))
	for i, e := range list {
		if e.T == nil || *e.T == "" || e.D == nil {
			return nil, fmt.Errorf("event %d of the row lacks its name or its data", i)
		}
		form := 1
		if e.V != nil {
			form = *e.V
		}
		if form < 1 {
			return nil, fmt.Errorf("event %d of the row has the form %d", i, form)
		}
		events[i] = eventstore.Event{Type: *e.T, Form: form, Data: e.D}
	}
	return events, nil
}

// scanEvents reads exactly what encodeEvents writes.
func scanEvents(text []byte, n int) ([]eventstore.Event, bool) {
	rest, ok := bytes.CutPrefix(text, []byte("["))
	if !ok || n < 1 || n > len(text) {
		return nil, false
	}
	events := make([]eventstore.Event, 0, n)
	for {
		if rest, ok = bytes.CutPrefix(rest, []byte(`{"t":"`)); !ok {
			return nil, false
		}
		end := bytes.IndexByte(rest, '"')
		if end < 1 || !plain(rest[:end]) {
			return nil, false
		}
		e := eventstore.Event{Type: string(rest[:end]), Form: 1}
		rest = rest[end+1:]
		if v, ok := bytes.CutPrefix(rest, []byte(`,"v":`)); ok {
			digits := 0
			for digits < len(v) && digits < 10 && '0' <= v[digits] && v[digits] <= '9' {
				digits++
			}
			form, err := strconv.Atoi(string(v[:digits]))
			if err != nil || form < 1 || v[0] == '0' {
				return nil, false
			}
			e.Form, rest = form, v[digits:]
		}
		if rest, ok = bytes.CutPrefix(rest, []byte(`,"d":`)); !ok {
			return nil, false
		}
		if end = valueEnd(rest); end < 1 || end >= len(rest) || rest[end] != '}' {
			return nil, false
		}
		e.Data, rest = rest[:end:end], rest[end+1:]
		events = append(events, e)
		if string(rest) == "]" {
			return events, len(events) == n
		}
		if rest, ok = bytes.CutPrefix(rest, []byte(",")); !ok || len(events) == n {
			return nil, false
		}
	}
}

// valueEnd returns the length of the JSON value that b begins with, given
// that b is part of a valid document; -1 if it finds no end or white space
// outside of the value's own structure.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			n := stringEnd(b[i+1:])
			if n < 0 {
				return -1
			}
			i += n
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of a number, true, false or null
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return -1
			}
		}
	}
	return -1
}

// stringEnd returns the length of what follows a JSON string's opening quote,
// its closing quote included; -1 if there is none.
func stringEnd(b []byte) int {
	for i := 0; ; {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		escape := bytes.IndexByte(b[i:i+n], '\\')
		if escape < 0 {
			return i + n + 1
		}
		if i += escape + 2; i > len(b) {
			return -1
		}
	}
}

// plain reports whether s needs no escape between JSON's quotes, neither by
// the standard's rules nor by those of encoding/json.
func plain[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < 0x20, c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

func checkText(s string, most int) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > most:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), most)
	case !utf8.ValidString(s):
		return errors.New("is not valid UTF-8")
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("has the control character %U", r)
		}
	}
	return nil
}

// checkJSON refuses what is no JSON, and what is JSON but no text in the
// database's encoding: U+0000 and halves of surrogate pairs, which PostgreSQL
// stores in a json column but can't take apart again.
func checkJSON(b []byte) error {
	if !json.Valid(b) {
		return errors.New("is not valid JSON")
	}
	if !utf8.Valid(b) {
		return errors.New("is not valid UTF-8")
	}
	if tooDeep(b) {
		return fmt.Errorf("is nested deeper than %d levels", MaxDepth)
	}
	for rest := b; ; {
		i := bytes.IndexByte(rest, '\\')
		if i < 0 {
			return nil
		}
		if rest[i+1] != 'u' {
			rest = rest[i+2:]
			continue
		}
		c := escape(rest[i:])
		rest = rest[i+6:]
		switch {
		case c == 0:
			return errors.New(`holds \u0000, which can't be stored`)
		case 0xdc00 <= c && c <= 0xdfff:
			return errors.New("holds half of a surrogate pair")
		case 0xd800 <= c && c <= 0xdbff:
			if low := escape(rest); low < 0xdc00 || low > 0xdfff {
				return errors.New("holds half of a surrogate pair")
			}
			rest = rest[6:]
		}
	}
}

// tooDeep reports whether a valid JSON document is nested deeper than MaxDepth.
func tooDeep(b []byte) bool {
	if bytes.Count(b, []byte{'['})+bytes.Count(b, []byte{'{'}) <= MaxDepth {
		return false
	}
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += stringEnd(b[i+1:])
		case '{', '[':
			if depth++; depth > MaxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// escape reads the \uXXXX that b begins with; -1 if there is none.
func escape(b []byte) int {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	c, err := strconv.ParseUint(string(b[2:6]), 16, 32)
	if err != nil {
		return -1
	}
	return int(c)
}
