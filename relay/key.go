package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxKey bounds the bytes of a routing key, as AMQP 0-9-1 does.
const maxKey = 255

// Key returns the message's routing key in the words that topic exchanges and subjects
// match: "{type}.{id}.{event}". An id with a dot, a space, "*", "#" or ">", which brokers
// give a meaning of their own, and one with which the key has more than 255 bytes are
// replaced by a hash: "~" and the first 16 bytes of its SHA-256 in hex. The headers have
// the id itself. A key that is still too long is cut.
func (m *Message) Key() string {
	key := m.Stream.Type + "." + m.Stream.ID + "." + m.Event
	if strings.ContainsAny(m.Stream.ID, ".*#> ") || len(key) > maxKey {
		sum := sha256.Sum256([]byte(m.Stream.ID))
		key = m.Stream.Type + ".~" + hex.EncodeToString(sum[:16]) + "." + m.Event
	}
	return key[:min(len(key), maxKey)]
}
