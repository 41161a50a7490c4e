package load

import (
	"bytes"
	"fmt"
	"strconv"
)

// A Dialect is the protocol of one server.
type Dialect struct {
	// Path is the path of its WebSocket.
	Path string
	// Greeting is the first message of a session; nil if there is none.
	Greeting func(session int) string
	// Subscribe asks for the new events of a topic or, to resume, for the events
	// after a version.
	Subscribe func(slot int, topic string, resume bool, after uint64) string
	// Subscribed is a part of the reply to Subscribe, and of no earlier message.
	Subscribed []byte
	// An event contains Mark once. Its version follows Mark or, if Before is not
	// nil, the next Before after Mark.
	Mark, Before []byte
	// Skips is true if a version may follow an older one than its predecessor, since
	// it replaces those between.
	Skips bool
	// Publish appends the request to publish n events to a topic. The id is
	// unique on the connection.
	Publish func(dst []byte, id uint64, topic string, n int) []byte
	// Replied is a part of the reply to each Publish. If it is nil there are no
	// replies, and Publish uses a plain TCP connection.
	Replied []byte
	// IsSerial is true if one connection must publish everything.
	IsSerial bool
	// Refused is a part of error replies.
	Refused []byte
}

// Dialects has the protocols of all servers by name.
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
		Replied: []byte(`"op":"result"`),
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

// stomp is the dialect of ganglion's sessions over STOMP.
func stomp() *Dialect {
	return &Dialect{
		Path: "/v1/stomp",
		Greeting: func(session int) string {
			return fmt.Sprintf("CONNECT\naccept-version:1.2\nlogin:reader-%d\n\n\x00", session)
		},
		Subscribe: func(slot int, topic string, resume bool, after uint64) string {
			from := ""
			if resume {
				from = fmt.Sprintf("after:%d\n", after)
			}
			return fmt.Sprintf("SUBSCRIBE\nid:sub-%d\ndestination:/topic/counter/%s\nreceipt:s\n%s\n\x00", slot, topic, from)
		},
		Subscribed: []byte("RECEIPT\n"),
		Mark:       []byte("\nstream:"),
		Before:     []byte("\nversion:"),
		Publish: func(dst []byte, id uint64, topic string, n int) []byte {
			command, data := "add", `{"by":1}`
			if n > 1 {
				command, data = "burst", fmt.Sprintf(`{"n":%d}`, n)
			}
			return fmt.Appendf(dst, "SEND\ndestination:/app/counter/%s/%s\ntimeout-ms:30000\nreceipt:%d\n\n%s\x00", topic, command, id, data)
		},
		Replied: []byte("RECEIPT\n"),
		Refused: []byte("ERROR\n"),
	}
}

// rabbitMQ is the dialect of RabbitMQ's plugin for STOMP over WebSockets. Its topics
// have no versions, so the publisher numbers their messages.
func rabbitMQ() *Dialect {
	published := make(map[string]uint64)
	return &Dialect{
		IsSerial: true,
		Path:     "/ws",
		Greeting: func(int) string { return "CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest\n\n\x00" },
		Subscribe: func(slot int, topic string, _ bool, _ uint64) string {
			return fmt.Sprintf("SUBSCRIBE\nid:sub-%d\ndestination:/topic/%s\nreceipt:s\n\n\x00", slot, topic)
		},
		Subscribed: []byte("RECEIPT\n"),
		Mark:       []byte(`{"version":`),
		Publish: func(dst []byte, id uint64, topic string, n int) []byte {
			for i := range n {
				published[topic]++
				dst = fmt.Appendf(dst, "SEND\ndestination:/topic/%s\n", topic)
				if i == n-1 {
					dst = fmt.Appendf(dst, "receipt:%d\n", id)
				}
				dst = fmt.Appendf(dst, "\n{\"version\":%d,%s\x00", published[topic], payload[1:])
			}
			return dst
		},
		Replied: []byte("RECEIPT\n"),
		Refused: []byte("ERROR\n"),
	}
}

// live is the dialect of ganglion with a live query instead of a stream. The
// sessions of a topic ask the same question, whose row has the version as n.
func live() *Dialect {
	d := *Dialects["ganglion"]
	d.Subscribe = func(slot int, topic string, _ bool, _ uint64) string {
		return fmt.Sprintf(`{"op":"subscribe","id":"s%d","query":"tallies_of","data":{"name":%q}}`, slot, topic)
	}
	d.Mark, d.Before, d.Skips = []byte(`"op":"update"`), []byte(`"n":`), true
	return &d
}

func init() {
	Dialects["live"], Dialects["stomp"], Dialects["rabbitmq"] = live(), stomp(), rabbitMQ()
}

// payload is a published event, as long as an event of the gateway.
const payload = `{"event":"added","data":{"by":1},"time":"2026-01-02T15:04:05.123456Z","cause":{"key":"0199b9a0-5c11-7cc3-98c4-dc0c0c07398f"}}`

// appendPublish appends a request in the rivals' form: a line with topic,
// number and data.
func appendPublish(dst []byte, _ uint64, topic string, n int) []byte {
	dst = append(dst, topic...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, ' ')
	dst = append(dst, payload...)
	return append(dst, '\n')
}

// next finds the next event in text. It returns the event's version and the
// number of bytes up to the end of the version, or zeros if text has no complete
// event.
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
