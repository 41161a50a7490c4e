package query

import (
	"encoding/base32"
	"encoding/binary"
	"math"
)

// An Order is one column of a query's order.
type Order struct {
	Column     int // index in the projection's columns
	Descending bool
}

// rankEncoding keeps the order of the bytes that it encodes, also of those of
// which one is a prefix of the other.
var rankEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// Rank is a row's place in an order, as one string of letters and digits: rows
// sort by it bytewise, in every language. The key comes last, so no two rows
// share a rank. Absent values come first, in a descending order last.
//
// Each value is one byte for "there is a value", and then: a boolean, one byte;
// an integer, 8 bytes big-endian with the sign bit flipped; a float, its IEEE
// 754 bits, all flipped if it is negative and the sign bit otherwise; a text,
// its bytes and a zero. Descending columns have every bit flipped.
func Rank(order []Order, key string, values []any) string {
	b := make([]byte, 0, 16*len(order)+len(key))
	for _, o := range order {
		start := len(b)
		b = appendSortable(b, values[o.Column])
		if o.Descending {
			for i := start; i < len(b); i++ {
				b[i] = ^b[i]
			}
		}
	}
	return rankEncoding.EncodeToString(append(b, key...))
}

func appendSortable(b []byte, v any) []byte {
	if v == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	switch v := v.(type) {
	case bool:
		return append(b, byte(ordinal(v)))
	case int64:
		return binary.BigEndian.AppendUint64(b, uint64(v)^1<<63)
	case float64:
		bits := math.Float64bits(v)
		if bits>>63 == 1 {
			bits = ^bits
		} else {
			bits |= 1 << 63
		}
		return binary.BigEndian.AppendUint64(b, bits)
	case string:
		return append(append(b, v...), 0)
	}
	panic("query: a value of no column kind")
}
