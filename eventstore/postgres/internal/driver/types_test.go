package driver

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

func TestRegisteredTypesAreThoseOfPgx(t *testing.T) {
	t.Parallel()
	of := func(m *pgtype.Map, value any) string {
		if dt, ok := m.TypeForValue(value); ok {
			return dt.Name
		}
		return ""
	}
	own, pgx := pgtype.NewMap(), pgtype.NewMap()
	RegisterTypes(own)
	for _, test := range []defaultType{
		{"", "text"},
		{[]string(nil), "_text"},
		{[]*string(nil), "_text"},
		{(*[]string)(nil), "_text"},
		{0, "int8"},
		{(*int64)(nil), "int8"},
		{[]int32(nil), "_int4"},
		{[]time.Time(nil), "_timestamptz"},
		{json.RawMessage(nil), "json"},
		{[]byte(nil), "bytea"},
		{[][]byte(nil), "_bytea"},
		{[]pgtype.UUID(nil), "_uuid"},
	} {
		if got := of(own, test.value); got != test.name {
			t.Errorf("%T is registered as %q, want %q", test.value, got, test.name)
		}
	}
	if of(pgx, "") == "" {
		t.Log("this build has the tag nopgxregisterdefaulttypes, so pgx has no types to compare with")
		return
	}
	for _, d := range defaultTypes() {
		if got, want := of(own, d.value), of(pgx, d.value); got != want {
			t.Errorf("%T is registered as %q, and by pgx as %q", d.value, got, want)
		}
	}
}

func TestTypesWithoutTheServersDescriptionAreEncoded(t *testing.T) {
	t.Parallel()
	m := pgtype.NewMap()
	RegisterTypes(m)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, value := range map[string]any{
		`{a,"b c"}`:                []string{"a", "b c"},
		`{7,-7}`:                   []int64{7, -7},
		`\x0001`:                   []byte{0, 1},
		`2026-03-01 12:00:00Z`:     at,
		`{"2026-03-01 12:00:00Z"}`: []time.Time{at},
		`{"a":1}`:                  json.RawMessage(`{"a":1}`),
		`t`:                        true,
		`1.5`:                      1.5,
		`12`:                       12,
	} {
		got, err := m.Encode(0, pgtype.TextFormatCode, value, nil)
		if err != nil || string(got) != want {
			t.Errorf("%T is encoded as %q, %v, want %q", value, got, err, want)
		}
	}
}
