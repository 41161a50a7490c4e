package stored

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
)

// encodeEvents encodes events as [{"t":"name","v":2,"d":…}, …], without "v" for
// the first form. It keeps the bytes of the data.
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
			return nil, fmt.Errorf("event %d has the form %d: the first form is 1", i, e.Form)
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

// encodeMeta returns the text of json.Marshal. If the client and the trace need no
// escapes, it takes a tenth of the time.
func encodeMeta(m eventstore.Meta) ([]byte, error) {
	if m == (eventstore.Meta{}) {
		return []byte("{}"), nil
	}
	if m.Depth < 0 || m.Depth > math.MaxInt32 {
		return nil, fmt.Errorf("has the depth %d: 0 to %d are allowed", m.Depth, math.MaxInt32)
	}
	if r := m.Wake.Revision; r < math.MinInt32 || r > math.MaxInt32 {
		return nil, fmt.Errorf("has the wake revision %d: it must fit 32 bits", r)
	}
	if m.Client == "" || !plain(m.Client) || !plain(m.Trace) {
		for _, s := range []string{m.Client, m.Trace} {
			if !utf8.ValidString(s) || bytes.IndexByte([]byte(s), 0) >= 0 {
				return nil, errors.New("is not valid UTF-8 without NUL")
			}
		}
		return json.Marshal(m)
	}
	b := make([]byte, 0, len(m.Client)+len(m.Trace)+len(`{"client":"","trace":"","depth":1,"wake":[1700000000000000,1]}`))
	b = append(append(b, metaClient...), m.Client...)
	b = append(b, '"')
	if m.Trace != "" {
		b = append(append(b, metaTrace...), m.Trace...)
		b = append(b, '"')
	}
	if m.Depth != 0 {
		b = strconv.AppendInt(append(b, metaDepth...), int64(m.Depth), 10)
	}
	if m.Wake.Known {
		b = strconv.AppendInt(append(b, metaWake...), m.Wake.Micros, 10)
		b = strconv.AppendInt(append(b, ','), int64(m.Wake.Revision), 10)
		b = append(b, ']')
	}
	return append(b, '}'), nil
}

// Members of the meta data, in their order.
const (
	metaClient = `{"client":"`
	metaTrace  = `,"trace":"`
	metaDepth  = `,"depth":`
	metaWake   = `,"wake":[`
)

// DecodeMeta decodes the meta data that Prepare encodes. Like DecodeEvents, it
// avoids encoding/json, which would take as long as decoding the rest of a row.
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

// scanMeta decodes the text of encodeMeta, unless it has escapes.
func scanMeta(text []byte) (m eventstore.Meta, ok bool) {
	rest, ok := bytes.CutPrefix(text, []byte(metaClient))
	if !ok {
		return m, false
	}
	if m.Client, rest, ok = cutText(rest); !ok || m.Client == "" {
		return m, false
	}
	if after, has := bytes.CutPrefix(rest, []byte(metaTrace)); has {
		if m.Trace, rest, ok = cutText(after); !ok || m.Trace == "" {
			return m, false
		}
	}
	if after, has := bytes.CutPrefix(rest, []byte(metaDepth)); has {
		var n int64
		if n, rest, ok = cutInt(after); !ok || n > math.MaxInt32 {
			return m, false
		}
		m.Depth = int(n)
	}
	if after, has := bytes.CutPrefix(rest, []byte(metaWake)); has {
		var revision int64
		m.Wake.Known = true
		if m.Wake.Micros, rest, ok = cutInt(after); !ok {
			return m, false
		}
		if rest, ok = bytes.CutPrefix(rest, []byte(",")); !ok {
			return m, false
		}
		if revision, rest, ok = cutInt(rest); !ok || revision > math.MaxInt32 {
			return m, false
		}
		if rest, ok = bytes.CutPrefix(rest, []byte("]")); !ok {
			return m, false
		}
		m.Wake.Revision = int(revision)
	}
	return m, string(rest) == "}"
}

// cutText cuts the rest of a string and its quote off text.
func cutText(text []byte) (s string, rest []byte, ok bool) {
	before, rest, ok := bytes.Cut(text, []byte(`"`))
	return string(before), rest, ok && plain(before)
}

// cutInt cuts a number without a sign off text. It fails for numbers of more than
// 18 digits.
func cutInt(text []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		if i == 18 {
			return 0, nil, false
		}
		n = n*10 + int64(text[i]-'0')
	}
	return n, text[i:], i == 1 || i > 1 && text[0] != '0'
}

// DecodeEvents decodes the events that Prepare encodes. text is a valid JSON
// document, which the database ensures. The data of the events are slices of it.
//
// A scanner that only looks for the ends of values decodes the text of Prepare
// several times as fast as encoding/json. Other JSON with the same meaning, such
// as in a row that was restored by other means, is left to encoding/json.
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
		return nil, fmt.Errorf("the row counts %d events and has %d", n, len(list))
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

// scanEvents decodes exactly the texts of encodeEvents.
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

// valueEnd returns the length of the JSON value at the start of b, which is a
// part of a valid document. It returns -1 if the value has no end, or if white
// space follows it.
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

// stringEnd returns the length of a JSON string after its opening quote, with
// its closing quote, or -1 if the string has no end.
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

// plain reports whether s needs no escapes in JSON, by the standard and by
// encoding/json.
func plain[T string | []byte](s T) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c < 0x20, c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// checkText returns an error if s is empty, longer than limit bytes, not UTF-8,
// or has control characters.
func checkText(s string, limit int) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > limit:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(s), limit)
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

// checkJSON returns an error if b is not JSON, is nested too deep, or has escapes
// that PostgreSQL stores in a json column but cannot decode: U+0000 and halves of
// surrogate pairs.
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
			return errors.New(`has \u0000, which cannot be stored`)
		case 0xdc00 <= c && c <= 0xdfff:
			return errors.New("has half of a surrogate pair")
		case 0xd800 <= c && c <= 0xdbff:
			if low := escape(rest); low < 0xdc00 || low > 0xdfff {
				return errors.New("has half of a surrogate pair")
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

// escape decodes \uXXXX at the start of b. It returns -1 if b starts with
// anything else.
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
