package aggregate

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep lists and objects may nest. Nobody writes that
// deep; who sends it wants to see a stack overflow.
const maxDepth = 64

// strict decodes data into a new value of the shape's type, and takes nothing
// but what the shape says. encoding/json alone is too kind for commands: it
// ignores missing and doubled members, takes «Amount» for «amount» and null
// for 0, and repairs broken text. Therefore one pass checks, and
// encoding/json then decodes what is known to fit.
func (s *shape) strict(data []byte) (reflect.Value, error) {
	v := reflect.New(s.typ)
	if len(data) == 0 {
		data = []byte("{}")
	}
	if err := s.check(data, false); err != nil {
		return v, err
	}
	if err := json.Unmarshal(data, v.Interface()); err != nil {
		// A type that decodes itself says no. Find the member.
		if err := s.check(data, true); err != nil {
			return v, err
		}
		return v, &DataError{Message: err.Error()}
	}
	return v.Elem(), nil
}

// check reports where data is not JSON of the shape. Only with custom it asks
// types that decode themselves, since decoding asks them anyway.
func (s *shape) check(data []byte, custom bool) error {
	c := checker{data: data, custom: custom}
	err := c.value(s)
	if err == nil {
		if c.space(); c.pos < len(c.data) {
			err = wrong("there is something after the end of the data")
		}
	}
	if err != nil {
		return err
	}
	return nil // not a nil *DataError in an error
}

func wrong(format string, args ...any) *DataError {
	return &DataError{Message: fmt.Sprintf(format, args...)}
}

// in says that the error is within a member.
func (e *DataError) in(name string) *DataError {
	switch {
	case e.Field == "":
		e.Field = name
	case e.Field[0] == '[':
		e.Field = name + e.Field
	default:
		e.Field = name + "." + e.Field
	}
	return e
}

// A checker walks through JSON text.
type checker struct {
	data   []byte
	pos    int
	depth  int
	custom bool
}

func (c *checker) space() {
	for c.pos < len(c.data) {
		switch c.data[c.pos] {
		case ' ', '\t', '\r', '\n':
			c.pos++
		default:
			return
		}
	}
}

// peek returns the next byte that is not space, 0 at the end.
func (c *checker) peek() byte {
	if c.space(); c.pos < len(c.data) {
		return c.data[c.pos]
	}
	return 0
}

// take moves past a byte if it comes next.
func (c *checker) take(b byte) bool {
	if c.peek() == b && c.pos < len(c.data) {
		c.pos++
		return true
	}
	return false
}

// found names what stands at the position, for messages.
func (c *checker) found() string {
	switch b := c.peek(); {
	case c.pos >= len(c.data):
		return "nothing"
	case b == '{':
		return "an object"
	case b == '[':
		return "a list"
	case b == '"':
		return "a string"
	case b == 't' || b == 'f':
		return "a boolean"
	case b == 'n':
		return "null"
	case b == '-' || b >= '0' && b <= '9':
		return "a number"
	}
	return "something that is not JSON"
}

func (c *checker) value(s *shape) *DataError {
	b := c.peek()
	switch s.kind {
	case kindNullable:
		if b == 'n' {
			return c.literal("null")
		}
		return c.value(s.elem)
	case kindRaw:
		return c.any()
	case kindCustom:
		return c.selfDecoding(s)
	case kindBoolean:
		switch b {
		case 't':
			return c.literal("true")
		case 'f':
			return c.literal("false")
		}
		return wrong("must be true or false, not %s", c.found())
	case kindText:
		if b != '"' {
			return wrong("must be a string, not %s", c.found())
		}
		_, _, err := c.text()
		return err
	case kindWhole, kindNatural, kindDecimal:
		return c.number(s)
	case kindList, kindFixed:
		return c.list(s)
	case kindObject:
		return c.object(s)
	case kindDictionary:
		if b != '{' {
			return wrong("must be an object, not %s", c.found())
		}
		return c.dictionary(s.elem)
	}
	return wrong("can't be decoded") // a type with problems is not registered
}

// any walks over a value of any kind. Nobody decodes it now, but somebody may
// later, with any library: it is held to the same rules.
func (c *checker) any() *DataError {
	switch b := c.peek(); {
	case b == '{':
		return c.dictionary(nil)
	case b == '[':
		return c.list(nil)
	case b == '"':
		_, _, err := c.text()
		return err
	case b == 't':
		return c.literal("true")
	case b == 'f':
		return c.literal("false")
	case b == 'n':
		return c.literal("null")
	case b == '-' || b >= '0' && b <= '9':
		_, _, err := c.digits()
		return err
	}
	return c.syntax("a value")
}

func (c *checker) selfDecoding(s *shape) *DataError {
	if c.peek() == 'n' {
		return wrong("must not be null")
	}
	start := c.pos
	if err := c.any(); err != nil {
		return err
	}
	if !c.custom {
		return nil
	}
	if err := json.Unmarshal(c.data[start:c.pos], reflect.New(s.typ).Interface()); err != nil {
		switch {
		case s.typ == timeType:
			return wrong("must be a time in the form of RFC 3339, such as \"2026-05-01T12:00:00Z\"")
		case s.typ.Kind() == reflect.Slice:
			return wrong("must be a string of bytes in base64")
		}
		return wrong("%v", err)
	}
	return nil
}

func (c *checker) syntax(expected string) *DataError {
	if c.pos >= len(c.data) {
		return wrong("is cut off: the JSON text ends where %s should stand", expected)
	}
	return wrong("is not JSON: %s should stand at byte %d", expected, c.pos+1)
}

func (c *checker) literal(word string) *DataError {
	if !strings.HasPrefix(string(c.data[c.pos:min(c.pos+len(word), len(c.data))]), word) {
		return c.syntax(word)
	}
	c.pos += len(word)
	return nil
}

func (c *checker) enter() *DataError {
	if c.depth++; c.depth > maxDepth {
		return wrong("is nested more than %d levels deep", maxDepth)
	}
	c.pos++ // the bracket
	return nil
}

func (c *checker) list(s *shape) *DataError {
	if c.peek() != '[' {
		return wrong("must be a list, not %s", c.found())
	}
	if err := c.enter(); err != nil {
		return err
	}
	n := 0
	for closed := c.take(']'); !closed; n++ {
		var err *DataError
		if s == nil {
			err = c.any()
		} else {
			err = c.value(s.elem)
		}
		if err != nil {
			return err.in("[" + strconv.Itoa(n) + "]")
		}
		if closed = c.take(']'); !closed && !c.take(',') {
			return c.syntax("«,» or «]»")
		}
	}
	c.depth--
	if s != nil && s.kind == kindFixed && n != s.typ.Len() {
		return wrong("must have %d elements, not %d", s.typ.Len(), n)
	}
	return nil
}

// name reads the name of a member, and the colon behind it.
func (c *checker) name() ([]byte, *DataError) {
	if c.peek() != '"' {
		return nil, c.syntax("the name of a member")
	}
	start := c.pos
	name, escaped, err := c.text()
	if err != nil {
		return nil, err
	}
	if escaped {
		var plain string
		if err := json.Unmarshal(c.data[start:c.pos], &plain); err != nil {
			return nil, wrong("%v", err)
		}
		name = []byte(plain)
	}
	if !c.take(':') {
		return nil, c.syntax("«:»")
	}
	return name, nil
}

func (c *checker) object(s *shape) *DataError {
	if c.peek() != '{' {
		return wrong("must be an object, not %s", c.found())
	}
	if err := c.enter(); err != nil {
		return err
	}
	var few [16]bool
	seen := few[:]
	if len(s.members) > len(few) {
		seen = make([]bool, len(s.members))
	}
	for closed := c.take('}'); !closed; {
		name, err := c.name()
		if err != nil {
			return err
		}
		i := s.member(name)
		switch {
		case i < 0:
			return s.unknown(clip(name))
		case seen[i]:
			return wrong("is there twice").in(s.members[i].name)
		}
		seen[i] = true
		m := &s.members[i]
		if !m.required && c.peek() == 'n' {
			err = c.literal("null") // as good as absent
		} else {
			err = c.value(m.shape)
		}
		if err != nil {
			return err.in(m.name)
		}
		if closed = c.take('}'); !closed && !c.take(',') {
			return c.syntax("«,» or «}»")
		}
	}
	c.depth--
	for i := range s.members {
		if s.members[i].required && !seen[i] {
			return wrong("is missing").in(s.members[i].name)
		}
	}
	return nil
}

// member returns the index of a member, -1 if there is none.
func (s *shape) member(name []byte) int {
	for i := range s.members {
		if s.members[i].name == string(name) {
			return i
		}
	}
	return -1
}

func (s *shape) unknown(name string) *DataError {
	names := make([]string, len(s.members))
	for i, m := range s.members {
		if strings.EqualFold(m.name, name) {
			return wrong("unknown member: write %q", m.name).in(name)
		}
		names[i] = m.name
	}
	if len(names) == 0 {
		return wrong("unknown member: there are none here").in(name)
	}
	return wrong("unknown member: use %s", strings.Join(names, ", ")).in(name)
}

// dictionary walks over an object whose members all have one shape, or any.
func (c *checker) dictionary(elem *shape) *DataError {
	if err := c.enter(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for closed := c.take('}'); !closed; {
		name, err := c.name()
		if err != nil {
			return err
		}
		if seen[string(name)] {
			return wrong("is there twice").in(clip(name))
		}
		seen[string(name)] = true
		if elem == nil {
			err = c.any()
		} else {
			err = c.value(elem)
		}
		if err != nil {
			return err.in(clip(name))
		}
		if closed = c.take('}'); !closed && !c.take(',') {
			return c.syntax("«,» or «}»")
		}
	}
	c.depth--
	return nil
}

// clip shortens what a stranger named, for an error.
func clip(name []byte) string {
	const most = 64
	if len(name) <= most {
		return string(name)
	}
	return strings.ToValidUTF8(string(name[:most]), "") + "…"
}

func (c *checker) number(s *shape) *DataError {
	if b := c.peek(); b != '-' && (b < '0' || b > '9') {
		if s.kind == kindDecimal {
			return wrong("must be a number, not %s", c.found())
		}
		return wrong("must be a whole number, not %s", c.found())
	}
	digits, integer, bad := c.digits()
	if bad != nil {
		return bad
	}
	if s.kind == kindDecimal {
		if _, err := strconv.ParseFloat(string(digits), s.typ.Bits()); err != nil {
			return wrong("does not fit: it must be at most %s", limits(s))
		}
		return nil
	}
	if !integer {
		return wrong("must be a whole number, written without a fraction or an exponent")
	}
	var err error
	if s.kind == kindWhole {
		_, err = strconv.ParseInt(string(digits), 10, s.typ.Bits())
	} else {
		_, err = strconv.ParseUint(string(digits), 10, s.typ.Bits())
	}
	if err != nil {
		return wrong("does not fit: it must be %s", limits(s))
	}
	return nil
}

// limits says which numbers fit.
func limits(s *shape) string {
	bits := s.typ.Bits()
	switch {
	case s.kind == kindWhole:
		most := int64(1)<<(bits-1) - 1
		return fmt.Sprintf("from %d to %d", -most-1, most)
	case s.kind == kindNatural:
		return fmt.Sprintf("from 0 to %d", ^uint64(0)>>(64-bits))
	case bits == 32:
		return "3.4e38"
	}
	return "1.7e308"
}

// digits reads a number by the grammar of JSON.
func (c *checker) digits() (number []byte, integer bool, err *DataError) {
	start := c.pos
	run := func() bool {
		from := c.pos
		for c.pos < len(c.data) && c.data[c.pos] >= '0' && c.data[c.pos] <= '9' {
			c.pos++
		}
		return c.pos > from
	}
	next := func(set string) bool {
		if c.pos < len(c.data) && strings.IndexByte(set, c.data[c.pos]) >= 0 {
			c.pos++
			return true
		}
		return false
	}
	next("-")
	if !next("0") && !run() {
		return nil, false, c.syntax("a digit")
	}
	integer = true
	if next(".") {
		integer = false
		if !run() {
			return nil, false, c.syntax("a digit")
		}
	}
	if next("eE") {
		integer = false
		next("+-")
		if !run() {
			return nil, false, c.syntax("a digit")
		}
	}
	return c.data[start:c.pos], integer, nil
}

// text reads a string and returns what is between its quotes.
func (c *checker) text() (content []byte, escaped bool, err *DataError) {
	c.pos++
	start := c.pos
	for c.pos < len(c.data) {
		switch b := c.data[c.pos]; {
		case b == '"':
			content = c.data[start:c.pos]
			c.pos++
			return content, escaped, nil
		case b == '\\':
			escaped = true
			if err := c.escape(); err != nil {
				return nil, false, err
			}
		case b < ' ':
			return nil, false, wrong("has a control character in a string: write it as \\u%04x", b)
		case b < utf8.RuneSelf:
			c.pos++
		default:
			r, n := utf8.DecodeRune(c.data[c.pos:])
			if r == utf8.RuneError && n == 1 {
				return nil, false, wrong("has text that is not UTF-8")
			}
			c.pos += n
		}
	}
	return nil, false, c.syntax("the end of a string")
}

// escape reads what a backslash begins.
func (c *checker) escape() *DataError {
	rest := c.data[c.pos:]
	if len(rest) < 2 {
		c.pos = len(c.data)
		return c.syntax("the end of a string")
	}
	if strings.IndexByte(`"\/bfnrt`, rest[1]) >= 0 {
		c.pos += 2
		return nil
	}
	r, ok := unit(rest)
	switch {
	case !ok:
		return c.syntax(`an escape, such as \n or \u00e9,`)
	case r == 0:
		return wrong("has the character U+0000, which can't be stored")
	case r >= 0xdc00 && r < 0xe000:
		return wrong("has text that is not Unicode: half of a surrogate pair")
	case r >= 0xd800 && r < 0xdc00:
		if low, ok := unit(rest[6:]); !ok || low < 0xdc00 || low >= 0xe000 {
			return wrong("has text that is not Unicode: half of a surrogate pair")
		}
		c.pos += 6
	}
	c.pos += 6
	return nil
}

// unit reads \uXXXX.
func unit(b []byte) (r uint64, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, x := range b[2:6] {
		switch {
		case x >= '0' && x <= '9':
			x -= '0'
		case x >= 'a' && x <= 'f':
			x -= 'a' - 10
		case x >= 'A' && x <= 'F':
			x -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | uint64(x)
	}
	return r, true
}
