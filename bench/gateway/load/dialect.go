package load

import (
	"bytes"
	"fmt"
	"strconv"
)

// A Dialect is how one server is spoken to.
type Dialect struct {
	// Path is where its WebSocket is.
	Path string
	// Greeting is what a session says first, "" if nothing.
	Greeting func(session int) string
	// Subscribe asks for what a topic gets from now on, or for what came
	// after a version when resume is set.
	Subscribe func(slot int, topic string, resume bool, after uint64) string
	// Subscribed is in the answer to Subscribe, and in nothing else that comes
	// before it.
	Subscribed []byte
	// An event has Mark in it, once, and its version follows Before, which
	// comes after Mark.
	Mark, Before []byte
	// Publish appends the request to publish n events to a topic; id is a
	// number that was not used before on this connection.
	Publish func(dst []byte, id uint64, topic string, n int) []byte
	// Answers is in the answer to each Publish; nil when there are none and
	// Publish goes over a bare connection.
	Answers []byte
	// Refused is in a message that says no.
	Refused []byte
}

// Dialects are the servers that there are.
var Dialects = map[string]*Dialect{
	"ganglion": {
		Path: "/v1/ws",
		Greeting: func(session int) string {
			return fmt.Sprintf(`{"op":"hello","id":"h","client":"reader-%d"}`, session)
		},
		Subscribe: func(slot int, topic string, resume bool, after uint64) string {
			if resume {
				return fmt.Sprintf(`{"op":"subscribe","id":"s%d","stream":"counter/%s","after":%d}`, slot, topic, after)
			}
			return fmt.Sprintf(`{"op":"subscribe","id":"s%d","stream":"counter/%s"}`, slot, topic)
		},
		Subscribed: []byte(`"op":"live"`),
		Mark:       []byte(`"stream":"`),
		Before:     []byte(`"version":`),
		Publish: func(dst []byte, id uint64, topic string, n int) []byte {
			dst = append(dst, `{"op":"command","id":"`...)
			dst = strconv.AppendUint(dst, id, 10)
			dst = append(dst, `","aggregate":"counter/`...)
			dst = append(dst, topic...)
			if n == 1 {
				return append(dst, `","command":"add","data":{"by":1},"timeout_ms":30000}`...)
			}
			dst = append(dst, `","command":"burst","data":{"n":`...)
			dst = strconv.AppendInt(dst, int64(n), 10)
			return append(dst, `},"timeout_ms":30000}`...)
		},
		Answers: []byte(`"op":"result"`),
		Refused: []byte(`"op":"error"`),
	},
	"centrifuge": {
		Path:     "/connection/websocket",
		Greeting: func(int) string { return `{"id":1,"connect":{}}` },
		Subscribe: func(slot int, topic string, resume bool, after uint64) string {
			if resume {
				return fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"%s","recover":true,"offset":%d}}`, slot+2, topic, after)
			}
			return fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"%s"}}`, slot+2, topic)
		},
		Subscribed: []byte(`"subscribe":{`),
		// The data of an event ends with an object, that of a message does not.
		Mark:    []byte(`},"offset":`),
		Publish: appendPublish,
		Refused: []byte(`"error":{`),
	},
	"bare": {
		Path: "/ws",
		Subscribe: func(_ int, topic string, resume bool, after uint64) string {
			if resume {
				return fmt.Sprintf("%s %d", topic, after)
			}
			return topic
		},
		Subscribed: []byte(`"op":"live"`),
		Mark:       []byte(`"stream":"`),
		Before:     []byte(`"version":`),
		Publish:    appendPublish,
		Refused:    []byte(`"op":"error"`),
	},
}

// payload is what is published: as many bytes as the gateway's own event.
const payload = `{"event":"added","data":{"by":1},"time":"2026-01-02T15:04:05.123456Z","cause":{"key":"0199b9a0-5c11-7cc3-98c4-dc0c0c07398f"}}`

// appendPublish is the rivals' own way: a line that says what, and the data.
func appendPublish(dst []byte, _ uint64, topic string, n int) []byte {
	dst = append(dst, topic...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, ' ')
	dst = append(dst, payload...)
	return append(dst, '\n')
}

// next finds the next event in what is left of a message: its version, and how
// much of text it takes. It returns 0 when there is none, or when it is not
// all there.
func (d *Dialect) next(text []byte) (version uint64, n int) {
	i := bytes.Index(text, d.Mark)
	if i < 0 {
		return 0, 0
	}
	i += len(d.Mark)
	if d.Before != nil {
		j := bytes.Index(text[i:], d.Before)
		if j < 0 {
			return 0, 0
		}
		i += j + len(d.Before)
	}
	for ; i < len(text); i++ {
		c := text[i] - '0'
		if c > 9 {
			return version, i
		}
		version = version*10 + uint64(c)
	}
	return 0, 0
}
