package shape

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A checker reads JSON text from left to right.
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

// peek returns the next byte that is not white space, or 0 at the end.
func (c *checker) peek() byte {
	if c.space(); c.pos < len(c.data) {
		return c.data[c.pos]
	}
	return 0
}

// accept moves past b if it is the next byte.
func (c *checker) accept(b byte) bool {
	if c.peek() == b && c.pos < len(c.data) {
		c.pos++
		return true
	}
	return false
}

// found names the value at the position, for messages.
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

func (c *checker) syntax(expected string) *DataError {
	if c.pos >= len(c.data) {
		return wrong("is cut off: the JSON text ends where %s was expected", expected)
	}
	return wrong("is not JSON: expected %s at byte %d", expected, c.pos+1)
}

func (c *checker) literal(word string) *DataError {
	if !strings.HasPrefix(string(c.data[c.pos:min(c.pos+len(word), len(c.data))]), word) {
		return c.syntax(word)
	}
	c.pos += len(word)
	return nil
}

func (c *checker) number(s *Shape) *DataError {
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

// limits describes the numbers that fit.
func limits(s *Shape) string {
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

// digits reads a number by JSON's grammar. integer reports whether it has neither a
// fraction nor an exponent.
func (c *checker) digits() (number []byte, integer bool, err *DataError) {
	start := c.pos
	many := func() bool {
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
	if !next("0") && !many() {
		return nil, false, c.syntax("a digit")
	}
	integer = true
	if next(".") {
		integer = false
		if !many() {
			return nil, false, c.syntax("a digit")
		}
	}
	if next("eE") {
		integer = false
		next("+-")
		if !many() {
			return nil, false, c.syntax("a digit")
		}
	}
	return c.data[start:c.pos], integer, nil
}

// text reads a string and returns the bytes between its quotes.
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

// escape reads an escape sequence.
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
		return wrong("has the character U+0000, which cannot be stored")
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

// unit reads \uXXXX, one UTF-16 code unit.
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
