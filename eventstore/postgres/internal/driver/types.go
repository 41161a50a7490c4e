package driver

import (
	"encoding/json"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// goTypes are the Go types that pgx encodes, without its generic ones, by the PostgreSQL type that it assumes if
// it does not know the parameter's.
var goTypes = map[string][]any{
	"int2":        {int16(0), pgtype.Int2{}},
	"int4":        {int32(0), pgtype.Int4{}},
	"int8":        {int64(0), int8(0), int(0), uint8(0), uint16(0), uint32(0), pgtype.Int8{}},
	"numeric":     {uint64(0), uint(0), pgtype.Numeric{}},
	"float4":      {float32(0), pgtype.Float4{}},
	"float8":      {float64(0), pgtype.Float8{}},
	"bool":        {false, pgtype.Bool{}},
	"text":        {"", pgtype.Text{}},
	"bytea":       {[]byte(nil)},
	"json":        {json.RawMessage(nil)},
	"uuid":        {pgtype.UUID{}},
	"date":        {pgtype.Date{}},
	"time":        {pgtype.Time{}},
	"timestamp":   {pgtype.Timestamp{}},
	"timestamptz": {time.Time{}, pgtype.Timestamptz{}},
	"interval":    {time.Duration(0), pgtype.Interval{}},
	"inet":        {net.IP(nil), netip.Addr{}},
	"cidr":        {net.IPNet{}, netip.Prefix{}},
	"varbit":      {pgtype.Bits{}},
	"tid":         {pgtype.TID{}},
	"tsvector":    {pgtype.TSVector{}},
	"box":         {pgtype.Box{}},
	"circle":      {pgtype.Circle{}},
	"line":        {pgtype.Line{}},
	"lseg":        {pgtype.Lseg{}},
	"path":        {pgtype.Path{}},
	"point":       {pgtype.Point{}},
	"polygon":     {pgtype.Polygon{}},
}

// defaultType is a Go value and the PostgreSQL type that pgx assumes for its type.
type defaultType struct {
	value any
	name  string
}

// defaultTypes are slices of the types of goTypes, the types themselves, and pointers to
// both. The types come last, because []byte is a bytea and not an array of uint8.
var defaultTypes = sync.OnceValue(func() []defaultType {
	var slices, types []defaultType
	add := func(list *[]defaultType, t reflect.Type, name string) {
		*list = append(*list,
			defaultType{reflect.Zero(t).Interface(), name},
			defaultType{reflect.Zero(reflect.PointerTo(t)).Interface(), name})
	}
	for name, values := range goTypes {
		for _, v := range values {
			t := reflect.TypeOf(v)
			add(&types, t, name)
			add(&slices, reflect.SliceOf(t), "_"+name)
			add(&slices, reflect.SliceOf(reflect.PointerTo(t)), "_"+name)
		}
	}
	return append(slices, types...)
})

// RegisterTypes registers with m the PostgreSQL types that pgx assumes for Go types.
// See the package comment.
func RegisterTypes(m *pgtype.Map) {
	for _, d := range defaultTypes() {
		m.RegisterDefaultPgType(d.value, d.name)
	}
}
