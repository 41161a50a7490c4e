package driver

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Array is a one-dimensional array in PostgreSQL's binary format, built by
// appending elements. Reset keeps its buffer.
type Array struct {
	oid uint32 // of the elements
	n   int
	buf []byte
}

// arrayHeader is the size of dimensions, null flag, element type, length and
// lower bound.
const arrayHeader = 20

// Reset makes an empty array of elements of a type.
func (a *Array) Reset(oid uint32) {
	a.oid, a.n = oid, 0
	a.buf = append(a.buf[:0], make([]byte, arrayHeader)...)
}

// Text appends a text.
func (a *Array) Text(s string) {
	a.n++
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(s)))
	a.buf = append(a.buf, s...)
}

// Bytes appends text or binary data. nil is null.
func (a *Array) Bytes(b []byte) {
	a.n++
	if b == nil {
		a.buf = append(a.buf, 0xff, 0xff, 0xff, 0xff)
		return
	}
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(b)))
	a.buf = append(a.buf, b...)
}

// Int4 appends an integer.
func (a *Array) Int4(i int) {
	a.n++
	a.buf = append(a.buf, 0, 0, 0, 4)
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(i))
}

// Int8 appends a bigint.
func (a *Array) Int8(i int64) {
	a.n++
	a.buf = append(a.buf, 0, 0, 0, 8)
	a.buf = binary.BigEndian.AppendUint64(a.buf, uint64(i))
}

// Bool appends a boolean.
func (a *Array) Bool(b bool) {
	a.n++
	a.buf = AppendBool(append(a.buf, 0, 0, 0, 1), b)
}

// Time appends a timestamptz.
func (a *Array) Time(t time.Time) { a.Int8(t.UnixMicro() - epoch) }

// Value returns the array. It is valid until the next Reset.
func (a *Array) Value() []byte {
	h := a.buf[:arrayHeader]
	if a.n == 0 {
		h = a.buf[:12] // no dimension: the array {}
		binary.BigEndian.PutUint32(h[0:], 0)
	} else {
		binary.BigEndian.PutUint32(h[0:], 1)
		binary.BigEndian.PutUint32(h[12:], uint32(a.n))
		binary.BigEndian.PutUint32(h[16:], 1)
	}
	binary.BigEndian.PutUint32(h[4:], 1) // may have nulls
	binary.BigEndian.PutUint32(h[8:], a.oid)
	if a.n == 0 {
		return h
	}
	return a.buf
}

// Ints decodes an array of int4 or int8. null is nil.
func Ints(b []byte) ([]int64, error) {
	if len(b) == 0 || len(b) == 12 {
		return nil, nil
	}
	if len(b) < arrayHeader || binary.BigEndian.Uint32(b) != 1 {
		return nil, errors.New("the server's array is not one-dimensional")
	}
	oid, n := binary.BigEndian.Uint32(b[8:]), int(binary.BigEndian.Uint32(b[12:]))
	size := 4
	if oid == pgtype.Int8OID {
		size = 8
	}
	b = b[arrayHeader:]
	if len(b) != n*(4+size) {
		return nil, errors.New("the server's array has an unexpected length")
	}
	list := make([]int64, n)
	for i := range list {
		e := b[i*(4+size)+4:]
		if size == 8 {
			list[i] = int64(binary.BigEndian.Uint64(e))
		} else {
			list[i] = int64(int32(binary.BigEndian.Uint32(e)))
		}
	}
	return list, nil
}

// AppendBool appends a boolean parameter.
func AppendBool(buf []byte, b bool) []byte {
	if b {
		return append(buf, 1)
	}
	return append(buf, 0)
}

// AppendMicros appends a timestamptz parameter. us is in microseconds since 1970.
func AppendMicros(buf []byte, us int64) []byte {
	return binary.BigEndian.AppendUint64(buf, uint64(us-epoch))
}

// Micros decodes a timestamptz, as microseconds since 1970.
func Micros(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) + epoch }

// epoch is the year 2000, from which PostgreSQL counts microseconds.
const epoch = 946_684_800_000_000
