package ganglion

import (
	"bytes"
	"strconv"
)

// eventPrefix begins each event frame as gateways write it.
var eventPrefix = []byte(`{"op":"event",`)

// parseEvent parses an event frame in the form in which gateways write it: without
// spaces, and without escapes outside of the data. It returns false for any other
// line, which encoding/json parses. It finds the end of the data, and does not
// check that the data is JSON: whatever decodes it does.
//
// A process that gets all events of a log spends most of its time here:
// encoding/json takes several times as long.
func parseEvent(line []byte) (*gatewayFrame, bool) {
	if !bytes.HasPrefix(line, eventPrefix) {
		return nil, false
	}
	a := &gatewayFrame{Op: "event"}
	rest := line[len(eventPrefix):]
	for {
		name, value, ok := cutMember(&rest)
		if !ok || !a.setEventMember(name, value) {
			return nil, false
		}
		if len(rest) == 0 {
			return nil, false
		}
		end := rest[0]
		rest = rest[1:]
		switch {
		case end == '}' && len(rest) == 0:
			return a, true
		case end != ',':
			return nil, false
		}
	}
}

// cutMember removes a member of an object from the beginning of text.
func cutMember(text *[]byte) (name, value []byte, ok bool) {
	quoted := (*text)[:plainString(*text)]
	if len(quoted) < 2 || len(quoted) == len(*text) || (*text)[len(quoted)] != ':' {
		return nil, nil, false
	}
	*text = (*text)[len(quoted)+1:]
	n := valueLength(*text)
	value, *text = (*text)[:n], (*text)[n:]
	return quoted[1 : len(quoted)-1], value, n > 0
}

// plainString returns the length of the string at the beginning of text, with its
// quotes, or 0 if there is none, or if it is not printable ASCII without escapes.
func plainString(text []byte) int {
	if len(text) == 0 || text[0] != '"' {
		return 0
	}
	for i, b := range text[1:] {
		switch {
		case b == '"':
			return i + 2
		case b == '\\' || b < ' ' || b > '~':
			return 0
		}
	}
	return 0
}

// valueLength returns the length of the value at the beginning of text, up to the
// comma or bracket behind it. The value need not be valid.
func valueLength(text []byte) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i += stringLength(text[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
		}
	}
	return 0
}

// stringLength returns the length of the string at the beginning of text, with its
// quotes, or that of text if the string does not end.
func stringLength(text []byte) int {
	for i := 1; i < len(text); {
		n := bytes.IndexByte(text[i:], '"')
		if n < 0 {
			break
		}
		end := i + n
		for i = end; text[i-1] == '\\'; i-- { // the first quote has none before it
		}
		if (end-i)%2 == 0 {
			return end + 1
		}
		i = end + 1
	}
	return len(text)
}

// setEventMember sets a member of an event. It returns false for one that is unknown,
// or that has another form than gateways write.
func (a *gatewayFrame) setEventMember(name, value []byte) bool {
	var text *string
	switch string(name) {
	case "sub":
		text = &a.Sub
	case "segment":
		text = &a.Segment
	case "stream":
		text = &a.Stream
	case "event":
		text = &a.Event
	case "cause":
		text = &a.Cause
	case "by":
		text = &a.By
	case "cursor":
		text = &a.Cursor
	case "version":
		return setNumber(&a.Version, value)
	case "position":
		return setNumber(&a.Position, value)
	case "data":
		a.Data = bytes.Clone(value)
		return value[0] > ' ' && value[len(value)-1] > ' '
	case "time":
		return a.Time.UnmarshalJSON(value) == nil
	default:
		return false
	}
	if plainString(value) != len(value) {
		return false
	}
	*text = string(value[1 : len(value)-1])
	return true
}

// setNumber parses a number without sign, fraction and exponent.
func setNumber(to *uint64, value []byte) bool {
	n, err := strconv.ParseUint(string(value), 10, 64)
	*to = n
	return err == nil && (len(value) == 1 || value[0] != '0')
}
