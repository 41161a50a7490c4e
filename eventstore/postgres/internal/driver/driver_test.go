package driver

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

func TestArrayIsEncodedAsByPgtype(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	types := pgtype.NewMap()
	for name, test := range map[string]struct {
		oid, array uint32
		add        func(*Array)
		value      any
	}{
		"text":  {pgtype.TextOID, pgtype.TextArrayOID, func(a *Array) { a.Text("a"); a.Text("日本") }, []string{"a", "日本"}},
		"bytea": {pgtype.ByteaOID, pgtype.ByteaArrayOID, func(a *Array) { a.Bytes([]byte{0, 1}) }, [][]byte{{0, 1}}},
		"int4":  {pgtype.Int4OID, pgtype.Int4ArrayOID, func(a *Array) { a.Int4(7); a.Int4(-7) }, []int32{7, -7}},
		"int8":  {pgtype.Int8OID, pgtype.Int8ArrayOID, func(a *Array) { a.Int8(1 << 40) }, []int64{1 << 40}},
		"bool":  {pgtype.BoolOID, pgtype.BoolArrayOID, func(a *Array) { a.Bool(true); a.Bool(false) }, []bool{true, false}},
		"time":  {pgtype.TimestamptzOID, pgtype.TimestamptzArrayOID, func(a *Array) { a.Time(at) }, []time.Time{at}},
	} {
		var a Array
		a.Reset(test.oid)
		a.Text("from another batch")
		a.Reset(test.oid)
		test.add(&a)
		want, err := types.Encode(test.array, pgtype.BinaryFormatCode, test.value, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := bytes.Clone(a.Value())
		got[7] = want[7] // the null flag: Array always sets it
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", name, got, want)
		}
	}
	var empty Array
	empty.Reset(pgtype.TextOID)
	list := []string{"from another array"}
	if err := types.Scan(pgtype.TextArrayOID, pgtype.BinaryFormatCode, empty.Value(), &list); err != nil || len(list) > 0 {
		t.Errorf("the empty array is decoded as %q, %v", list, err)
	}
}

func TestIntsAreDecodedFromBothWidths(t *testing.T) {
	t.Parallel()
	var narrow, wide Array
	narrow.Reset(pgtype.Int4OID)
	wide.Reset(pgtype.Int8OID)
	for _, i := range []int{3, -1} {
		narrow.Int4(i)
		wide.Int8(int64(i))
	}
	for _, a := range []*Array{&narrow, &wide} {
		if got, err := Ints(a.Value()); err != nil || !slices.Equal(got, []int64{3, -1}) {
			t.Errorf("got %v, %v", got, err)
		}
		if got, err := Ints(a.Value()[:arrayHeader+3]); err == nil {
			t.Errorf("a truncated array is read as %v", got)
		}
	}
	if got, err := Ints(nil); err != nil || got != nil {
		t.Errorf("null is read as %v, %v", got, err)
	}
}

func TestLoginLimitDoublesUpToEightTimes(t *testing.T) {
	t.Parallel()
	l := loginLimit{least: time.Second}
	for _, want := range []time.Duration{2, 4, 8, 8} {
		used := l.get()
		l.ranOut(used)
		l.ranOut(used) // a concurrent login
		if got := l.get(); got != want*time.Second {
			t.Errorf("after a login of %v the limit is %v, want %v", used, got, want*time.Second)
		}
	}
	for _, want := range []time.Duration{4, 2, 1, 1} {
		l.succeeded()
		if got := l.get(); got != want*time.Second {
			t.Errorf("after a success the limit is %v, want %v", got, want*time.Second)
		}
	}
}
