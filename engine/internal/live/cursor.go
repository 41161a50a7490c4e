package live

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"hash/fnv"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	cursorVersion = 1
	// maxCursor bounds the text of a cursor, in bytes.
	maxCursor = 1024
	// maxCursorRaw is what a text of that length holds.
	maxCursorRaw = maxCursor / 4 * 3
	// maxCursorSegments is the greatest number of segments of a projection.
	maxCursorSegments = 64
)

// The reasons of resets.
const (
	resetRebuilt = "rebuilt" // another build serves
	resetExpired = "expired" // too old, or not a cursor
	resetLog     = "log"     // the log went back
	resetMended  = "mended"  // an operator has changed rows at earlier positions
	resetAccess  = "access"  // another question: other rights, or other parameters
)

// A cursor says which rows a client has. It comes from a client, which can change
// it: a wrong one costs that client rows and no other client anything.
type cursor struct {
	log      uint32 // hash of the log's id
	build    int64
	question uint64 // hash of condition, order and limit
	mends    int64
	// positions are up to where the rows show the log, one per segment.
	positions []eventstore.Position
	// count and keys are the number of the rows and the XOR of their keys' hashes.
	count uint64
	keys  uint64
	// edge is the rank of the window's last row, or a prefix of it. It is set only
	// if the window was full.
	full bool
	edge string
}

var cursorSum = crc32.MakeTable(crc32.Castagnoli)

// String encodes a cursor in at most 1 KiB. A long edge is cut, which makes a
// resume send rows that the client has, and never omit one.
func (c *cursor) String() string {
	b := make([]byte, 4, 128) // the checksum comes here
	b = append(b, cursorVersion)
	b = binary.LittleEndian.AppendUint32(b, c.log)
	b = binary.AppendUvarint(b, uint64(c.build))
	b = binary.LittleEndian.AppendUint64(b, c.question)
	b = binary.AppendUvarint(b, uint64(c.mends))
	b = binary.AppendUvarint(b, uint64(len(c.positions)))
	last := int64(0)
	for _, p := range c.positions {
		b = binary.AppendVarint(b, int64(p)-last)
		last = int64(p)
	}
	b = binary.AppendUvarint(b, c.count)
	b = binary.LittleEndian.AppendUint64(b, c.keys)
	if !c.full {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = append(b, c.edge[:min(len(c.edge), max(0, maxCursorRaw-len(b)))]...)
	}
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:], cursorSum))
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseCursor decodes a cursor. It reports false for any other text.
func parseCursor(text string) (c cursor, ok bool) {
	if len(text) > maxCursor {
		return c, false
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < 5 || b[4] != cursorVersion || binary.LittleEndian.Uint32(b) != crc32.Checksum(b[4:], cursorSum) {
		return c, false
	}
	r := reader{b: b[5:]}
	c.log = uint32(r.fixed(4))
	c.build = int64(r.uvarint())
	c.question = r.fixed(8)
	c.mends = int64(r.uvarint())
	n := r.uvarint()
	if n > maxCursorSegments {
		return c, false
	}
	last := int64(0)
	for range n {
		last += r.varint()
		if last < 0 {
			return c, false
		}
		c.positions = append(c.positions, eventstore.Position(last))
	}
	c.count = r.uvarint()
	c.keys = r.fixed(8)
	c.full = r.fixed(1) == 1
	c.edge = string(r.b)
	return c, !r.failed && (c.full || c.edge == "")
}

// A reader takes values from bytes. After a value that is not there it has failed.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fixed(n int) (v uint64) {
	if len(r.b) < n {
		r.failed = true
		return 0
	}
	for i := range n {
		v |= uint64(r.b[i]) << (8 * i)
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return take(r, v, n)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return take(r, v, n)
}

func take[T int64 | uint64](r *reader, v T, n int) T {
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// highest is the position up to which the segment that was the furthest shows the
// log.
func (c *cursor) highest() eventstore.Position {
	if len(c.positions) == 0 {
		return 0
	}
	return slices.Max(c.positions)
}

// verdict returns why a question at a moment cannot continue from the cursor, ""
// if it can. ahead reports that the reason may be that another gateway has read
// more of the rows than this one.
func (c *cursor) verdict(question uint64, m *moment) (reason string, ahead bool) {
	switch {
	case c.log != hash32(m.log):
		return resetLog, false
	case c.question != question:
		return resetAccess, false
	case c.build != m.build:
		return resetRebuilt, c.build > m.build
	case c.mends != m.mends:
		return resetMended, c.mends > m.mends
	case len(c.positions) != len(m.positions):
		return resetExpired, false
	case !m.reaches(c.positions):
		return resetLog, true
	}
	for i, p := range c.positions {
		if p < m.floors[i] {
			return resetExpired, false
		}
	}
	return "", false
}

func hash32(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return h.Sum32()
}

// hash64 is 64-bit FNV-1a. Gateways of all versions must agree on it.
func hash64(text string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	return h.Sum64()
}
