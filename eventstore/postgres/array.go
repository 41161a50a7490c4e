package postgres

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// array is a one-dimensional array in PostgreSQL's binary format, built by
// appending elements. The buffer is kept from batch to batch: a batch has a
// thousand commands with ten columns each, and encoding them through
// reflection costs more than the server's insert.
type array struct {
	oid uint32 // of the elements
	n   int
	buf []byte
}

// arrayHeader is dimensions, nulls, element type, length, lower bound.
const arrayHeader = 20

func (a *array) reset() {
	a.n = 0
	a.buf = append(a.buf[:0], make([]byte, arrayHeader)...)
}

func (a *array) text(s string) {
	a.n++
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(s)))
	a.buf = append(a.buf, s...)
}

// bytes appends text or binary data; nil is null.
func (a *array) bytes(b []byte) {
	a.n++
	if b == nil {
		a.buf = append(a.buf, 0xff, 0xff, 0xff, 0xff)
		return
	}
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(b)))
	a.buf = append(a.buf, b...)
}

func (a *array) int4(i int) {
	a.n++
	a.buf = append(a.buf, 0, 0, 0, 4)
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(i))
}

func (a *array) int8(i int64) {
	a.n++
	a.buf = append(a.buf, 0, 0, 0, 8)
	a.buf = binary.BigEndian.AppendUint64(a.buf, uint64(i))
}

func (a *array) bool(b bool) {
	a.n++
	a.buf = appendBool(append(a.buf, 0, 0, 0, 1), b)
}

func appendBool(buf []byte, b bool) []byte {
	if b {
		return append(buf, 1)
	}
	return append(buf, 0)
}

func (a *array) time(t time.Time) { a.int8(t.UnixMicro() - epoch) }

// epoch is where PostgreSQL counts microseconds from: the year 2000.
const epoch = 946_684_800_000_000

// value returns the array; it is valid until the next reset.
func (a *array) value() []byte {
	h := a.buf[:arrayHeader]
	if a.n == 0 {
		h = a.buf[:12] // no dimension: the array {}
		binary.BigEndian.PutUint32(h[0:], 0)
	} else {
		binary.BigEndian.PutUint32(h[0:], 1)
		binary.BigEndian.PutUint32(h[12:], uint32(a.n))
		binary.BigEndian.PutUint32(h[16:], 1)
	}
	binary.BigEndian.PutUint32(h[4:], 1) // may hold nulls
	binary.BigEndian.PutUint32(h[8:], a.oid)
	if a.n == 0 {
		return h
	}
	return a.buf
}

// ints decodes an array of int4 or int8; null is nil.
func ints(b []byte) ([]int64, error) {
	if len(b) == 0 || len(b) == 12 {
		return nil, nil
	}
	if len(b) < arrayHeader || binary.BigEndian.Uint32(b) != 1 {
		return nil, errors.New("the server sent an array of another kind")
	}
	oid, n := binary.BigEndian.Uint32(b[8:]), int(binary.BigEndian.Uint32(b[12:]))
	size := 4
	if oid == pgtype.Int8OID {
		size = 8
	}
	b = b[arrayHeader:]
	if len(b) != n*(4+size) {
		return nil, errors.New("the server sent an array of another length")
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
