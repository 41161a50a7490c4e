package shape

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// maxDepth bounds how deep lists and objects may nest, to protect the stack.
const maxDepth = 64

// DecodeStrict decodes data into a new value of the shape's type. It refuses data
// that differs from the shape, with a *[DataError]. encoding/json alone is too
// lenient for commands: it ignores missing and repeated members, accepts "Amount"
// for "amount" and null for 0, and repairs invalid text. So one pass checks the
// data, and encoding/json then decodes it.
func (s *Shape) DecodeStrict(data []byte) (reflect.Value, error) {
	data = orEmpty(data)
	if err := s.check(data, false); err != nil {
		return reflect.Value{}, err
	}
	return s.Decode(data)
}

// Check returns a *[DataError] if data differs from the shape. It does not call
// types that decode themselves.
func (s *Shape) Check(data []byte) error { return s.check(orEmpty(data), false) }

// orEmpty returns an empty object for absent data.
func orEmpty(data []byte) []byte {
	if len(data) == 0 {
		return []byte("{}")
	}
	return data
}

// Decode decodes data that Check has accepted.
func (s *Shape) Decode(data []byte) (reflect.Value, error) {
	v := reflect.New(s.typ)
	data = orEmpty(data)
	if err := json.Unmarshal(data, v.Interface()); err != nil {
		// A type that decodes itself has refused its part. Find the member.
		if err := s.check(data, true); err != nil {
			return v, err
		}
		return v, &DataError{Message: err.Error()}
	}
	return v.Elem(), nil
}

// check returns a *DataError for the first difference of data from the shape. If
// custom is true, it also calls types that decode themselves.
func (s *Shape) check(data []byte, custom bool) error {
	c := checker{data: data, custom: custom}
	err := c.value(s)
	if err == nil {
		if c.space(); c.pos < len(c.data) {
			err = wrong("has text after the end of the JSON value")
		}
	}
	if err != nil {
		return err
	}
	return nil // an error that holds a nil *DataError would not equal nil
}

func wrong(format string, args ...any) *DataError {
	return &DataError{Message: fmt.Sprintf(format, args...)}
}

// in adds a member to the front of the error's path.
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

func (c *checker) value(s *Shape) *DataError {
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
		content, escaped, err := c.text()
		if err == nil {
			err = s.checkValue(content, escaped)
		}
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
	return wrong("cannot be decoded") // unreachable: a type with problems is not registered
}

// any checks a value of any kind. Application code may decode it later with any
// library, so the same rules apply to its syntax and text.
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

func (c *checker) selfDecoding(s *Shape) *DataError {
	switch b := c.peek(); {
	case b == 'n':
		return wrong("must not be null")
	case s.base64 && b != '"': // encoding/json accepts lists of numbers too
		return wrong("must be a string of bytes in base64, not %s", c.found())
	case s.text && b != '"':
		return wrong("must be a string, not %s", c.found())
	}
	start := c.pos
	if err := c.any(); err != nil {
		return err
	}
	data := c.data[start:c.pos]
	if s.typ == timeType {
		return checkTime(data)
	}
	if !c.custom {
		return nil
	}
	if err := json.Unmarshal(data, reflect.New(s.typ).Interface()); err != nil {
		if s.typ.Kind() == reflect.Slice {
			return wrong("must be a string of bytes in base64")
		}
		return wrong("%v", err)
	}
	return nil
}

// checkTime refuses times that package time decodes but cannot encode, in their own
// zone or in UTC. Examples are times in the zone +24:00 and times whose year in UTC
// is 10000.
func checkTime(data []byte) *DataError {
	var t time.Time
	if err := t.UnmarshalJSON(data); err != nil {
		return wrong(`must be a time in the form of RFC 3339, such as "2026-05-01T12:00:00Z"`)
	}
	var here, utc [40]byte
	if _, err := t.AppendText(here[:0]); err != nil {
		return wrong("must be a time in a zone between -23:59 and +23:59")
	}
	if _, err := t.UTC().AppendText(utc[:0]); err != nil {
		return wrong("must be a time between the years 0 and 9999 in UTC")
	}
	return nil
}

func (c *checker) enter() *DataError {
	if c.depth++; c.depth > maxDepth {
		return wrong("is nested more than %d levels deep", maxDepth)
	}
	c.pos++ // the bracket
	return nil
}

func (c *checker) list(s *Shape) *DataError {
	if c.peek() != '[' {
		return wrong("must be a list, not %s", c.found())
	}
	if err := c.enter(); err != nil {
		return err
	}
	n := 0
	for closed := c.accept(']'); !closed; n++ {
		var err *DataError
		if s == nil {
			err = c.any()
		} else {
			err = c.value(s.elem)
		}
		if err != nil {
			return err.in("[" + strconv.Itoa(n) + "]")
		}
		if closed = c.accept(']'); !closed && !c.accept(',') {
			return c.syntax("',' or ']'")
		}
	}
	c.depth--
	if s != nil && s.kind == kindFixed && n != s.typ.Len() {
		return wrong("must have %d elements, not %d", s.typ.Len(), n)
	}
	return nil
}

// name reads the name of a member and the colon after it.
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
	if !c.accept(':') {
		return nil, c.syntax("':'")
	}
	return name, nil
}

func (c *checker) object(s *Shape) *DataError {
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
	for closed := c.accept('}'); !closed; {
		name, err := c.name()
		if err != nil {
			return err
		}
		i := s.member(name)
		switch {
		case i < 0:
			return s.unknown(clip(name))
		case seen[i]:
			return wrong("is repeated").in(s.members[i].name)
		}
		seen[i] = true
		m := &s.members[i]
		if !m.required && c.peek() == 'n' {
			err = c.literal("null") // null means absent
		} else {
			err = c.value(m.shape)
		}
		if err != nil {
			return err.in(m.name)
		}
		if closed = c.accept('}'); !closed && !c.accept(',') {
			return c.syntax("',' or '}'")
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
func (s *Shape) member(name []byte) int {
	for i := range s.members {
		if s.members[i].name == string(name) {
			return i
		}
	}
	return -1
}

func (s *Shape) unknown(name string) *DataError {
	names := make([]string, len(s.members))
	for i, m := range s.members {
		if strings.EqualFold(m.name, name) {
			return wrong("unknown member: write %q", m.name).in(name)
		}
		names[i] = m.name
	}
	if len(names) == 0 {
		return wrong("unknown member: the object has no members").in(name)
	}
	return wrong("unknown member: use %s", strings.Join(names, ", ")).in(name)
}

// dictionary checks an object whose members all have the shape elem, or any shape
// if elem is nil.
func (c *checker) dictionary(elem *Shape) *DataError {
	if err := c.enter(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for closed := c.accept('}'); !closed; {
		name, err := c.name()
		if err != nil {
			return err
		}
		if seen[string(name)] {
			return wrong("is repeated").in(clip(name))
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
		if closed = c.accept('}'); !closed && !c.accept(',') {
			return c.syntax("',' or '}'")
		}
	}
	c.depth--
	return nil
}

// clip shortens a client's text to 64 bytes, for an error message.
func clip(name []byte) string {
	const most = 64
	if len(name) <= most {
		return string(name)
	}
	return strings.ToValidUTF8(string(name[:most]), "") + "…"
}

// A DataError says what is wrong with a command's data.
type DataError struct {
	// Field is the member concerned, such as "amount" or "lots[2].reserve", or
	// "" for the data as a whole.
	Field string
	// Message says what to correct, without naming the member.
	Message string
}

func (e *DataError) Error() string {
	if e.Field == "" {
		return "data: " + e.Message
	}
	return "data." + e.Field + ": " + e.Message
}
