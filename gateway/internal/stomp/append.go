package stomp

import "strconv"

// AppendCommand begins a frame. Headers follow, then [AppendBody].
func AppendCommand(dst []byte, command string) []byte {
	return append(append(dst, command...), '\n')
}

// AppendHeader appends a header of a frame, except CONNECTED, whose headers are
// written in V10. A character that the version cannot carry is replaced by a
// space: NUL, in 1.1 CR, in 1.0 also LF, and a colon in a name.
//
// 1.1 has no escape for CR, and many clients drop it.
func AppendHeader(dst []byte, v Version, name, value string) []byte {
	dst = append(appendEscaped(dst, v, name, true), ':')
	return append(appendEscaped(dst, v, value, false), '\n')
}

func appendEscaped(dst []byte, v Version, s string, isName bool) []byte {
	from := 0
	for i := range len(s) {
		with := escapeOf(v, s[i], isName)
		if with == "" {
			continue
		}
		dst = append(append(dst, s[from:i]...), with...)
		from = i + 1
	}
	return append(dst, s[from:]...)
}

// escapeOf returns what a character is written as; "" for the character itself.
func escapeOf(v Version, c byte, isName bool) string {
	switch {
	case c > '\\': // most characters
		return ""
	case c == 0, c == '\r' && v != V12, c == '\n' && v == V10, c == ':' && v == V10 && isName:
		return " "
	case v == V10:
		return ""
	case c == '\r':
		return `\r`
	case c == '\n':
		return `\n`
	case c == ':':
		return `\c`
	case c == '\\':
		return `\\`
	}
	return ""
}

// AppendBody ends a frame. A body that is not empty is preceded by its
// content-length.
func AppendBody(dst, body []byte) []byte {
	if len(body) > 0 {
		dst = strconv.AppendInt(append(dst, "content-length:"...), int64(len(body)), 10)
		dst = append(dst, '\n')
	}
	dst = append(append(dst, '\n'), body...)
	return append(dst, 0)
}

// AppendFrame appends a frame with all its parts. headers has no content-length.
func AppendFrame(dst []byte, v Version, command string, body []byte, headers ...Header) []byte {
	dst = AppendCommand(dst, command)
	v = headerVersion(v, command)
	for i := range headers {
		dst = AppendHeader(dst, v, headers[i].Name, headers[i].Value)
	}
	return AppendBody(dst, body)
}
