package stream

import (
	"encoding/binary"
	"time"

	"github.com/ganglion-es/ganglion/relay"
)

// Constructors of AMQP 1.0: descriptors of sections, and types.
const (
	sectionProperties, sectionApplication, sectionData = 0x73, 0x74, 0x75

	described, smallULong                = 0x00, 0x53
	list32, map32                        = 0xd0, 0xd1
	shortText, longText                  = 0xa1, 0xb1
	shortSymbol                          = 0xa3
	longBinary                           = 0xb0
	absent, long, integer, timestampType = 0x40, 0x81, 0x71, 0x83
)

// emptyMessage is a message without properties and data.
var emptyMessage = section(nil, sectionData, func(b []byte) []byte { return append(b, 0xa0, 0) })

// encode appends the form of a message in AMQP 1.0. Integers are signed, as in the messages
// of an exchange.
func encode(b []byte, m *relay.Message) []byte {
	b = section(b, sectionProperties, func(b []byte) []byte {
		return sized(b, list32, 9, func(b []byte) []byte {
			b = text(b, m.ID())
			b = append(b, absent, absent)                         // user-id, to
			b = text(b, m.Key())                                  // subject
			b = append(b, absent, absent)                         // reply-to, correlation-id
			b = append(b, shortSymbol, byte(len(contentType)))    // content-type
			b = append(append(b, contentType...), absent, absent) // content-encoding, absolute-expiry-time
			return number(b, timestampType, m.Time.UnixMilli())   // creation-time
		})
	})
	b = section(b, sectionApplication, func(b []byte) []byte {
		entries := uint32(9)
		for _, optional := range []string{m.By, m.Traceparent} {
			if optional != "" {
				entries++
			}
		}
		return sized(b, map32, 2*entries, func(b []byte) []byte {
			b = text(text(b, "event"), m.Event)
			b = text(text(b, "log"), m.Log)
			b = number(text(b, "position"), long, int64(m.Position))
			b = number(text(b, "prev"), long, int64(m.Prev))
			b = text(text(b, "stream"), m.Stream.String())
			b = number(text(b, "version"), long, int64(m.Version))
			b = binary.BigEndian.AppendUint32(append(text(b, "form"), integer), uint32(int32(m.Form)))
			b = text(text(b, "time"), m.Time.Format(time.RFC3339Nano))
			b = text(text(b, "cause"), m.Cause)
			if m.By != "" {
				b = text(text(b, "by"), m.By)
			}
			if m.Traceparent != "" {
				b = text(text(b, "traceparent"), m.Traceparent)
			}
			return b
		})
	})
	return section(b, sectionData, func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint32(append(b, longBinary), uint32(len(m.Data))), m.Data...)
	})
}

const contentType = "application/json"

func section(b []byte, descriptor byte, fill func([]byte) []byte) []byte {
	return fill(append(b, described, smallULong, descriptor))
}

// sized appends a list or a map: its type, the bytes that follow, the number of elements.
func sized(b []byte, kind byte, elements uint32, fill func([]byte) []byte) []byte {
	b = append(b, kind, 0, 0, 0, 0)
	begin := len(b)
	b = fill(binary.BigEndian.AppendUint32(b, elements))
	binary.BigEndian.PutUint32(b[begin-4:], uint32(len(b)-begin))
	return b
}

func text(b []byte, s string) []byte {
	if len(s) < 256 {
		return append(append(b, shortText, byte(len(s))), s...)
	}
	return append(binary.BigEndian.AppendUint32(append(b, longText), uint32(len(s))), s...)
}

func number(b []byte, kind byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, kind), uint64(n))
}
