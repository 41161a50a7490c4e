package stomp

import "strings"

// headerVersion returns the version in which the headers of a frame are written.
// Frames that connect have no escapes, as in STOMP 1.0.
func headerVersion(v Version, command string) Version {
	if command == "CONNECT" || command == "STOMP" || command == "CONNECTED" {
		return V10
	}
	return v
}

var escapeList = [...]string{V10: "none", V11: `\n, \c and \\`, V12: `\r, \n, \c and \\`}

// unescape decodes a name or a value. It returns false if the version does not
// define one of its escapes.
func unescape(v Version, s string) (string, bool) {
	at := strings.IndexByte(s, '\\')
	if v == V10 || at < 0 {
		return s, true
	}
	var b strings.Builder
	b.Grow(len(s))
	for ; at >= 0; at = strings.IndexByte(s, '\\') {
		if at+1 == len(s) {
			return "", false
		}
		c, ok := escaped(v, s[at+1])
		if !ok {
			return "", false
		}
		b.WriteString(s[:at])
		b.WriteByte(c)
		s = s[at+2:]
	}
	b.WriteString(s)
	return b.String(), true
}

// escaped returns the character for which a backslash and c stand.
func escaped(v Version, c byte) (byte, bool) {
	switch {
	case c == 'n':
		return '\n', true
	case c == 'c':
		return ':', true
	case c == '\\':
		return '\\', true
	case c == 'r' && v == V12:
		return '\r', true
	}
	return 0, false
}
