package aggregate_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Each case changes one part of valid data.
func TestBadCommandDataIsRefusedByMember(t *testing.T) {
	t.Parallel()
	sink := typeOf(t, &Catalog, "sink")
	if _, err := sink.DecodeCommand("fill", json.RawMessage(full)); err != nil {
		t.Fatalf("the valid data is refused: %v", err)
	}
	nested := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	tests := map[string]struct{ old, new, field, message string }{
		"unknown member":            {`"int":`, `"inte": 1, "int":`, "inte", "unknown member: use bool, text, int"},
		"differs in case":           {`"int":`, `"Int":`, "Int", `write "int"`},
		"missing":                   {`"int": -9,`, ``, "int", "is missing"},
		"repeated":                  {`"int":`, `"int": 1, "int":`, "int", "is repeated"},
		"repeated by an escape":     {`"int":`, `"\u0069nt": 1, "int":`, "int", "is repeated"},
		"null for a number":         {`-9`, `null`, "int", "must be a whole number, not null"},
		"null for a string":         {`"é\n\ud83d\ude00"`, `null`, "text", "must be a string, not null"},
		"null for a time":           {`"2026-05-01T12:00:00Z"`, `null`, "time", "must not be null"},
		"null for a list":           {`[1, 2]`, `null`, "pair", "must be a list, not null"},
		"a string for a number":     {`-9`, `"9"`, "int", "must be a whole number, not a string"},
		"a number for a string":     {`"é\n\ud83d\ude00"`, `7`, "text", "must be a string, not a number"},
		"a number for a boolean":    {`true`, `1`, "bool", "must be true or false, not a number"},
		"a fraction":                {`-9`, `1.0`, "int", "without a fraction or an exponent"},
		"an exponent":               {`-9`, `1e3`, "int", "without a fraction or an exponent"},
		"too large":                 {`-9`, `9223372036854775808`, "int", "from -9223372036854775808 to 9223372036854775807"},
		"too large for 8 bits":      {`127`, `128`, "small", "from -128 to 127"},
		"negative":                  {`65535`, `-1`, "uint", "from 0 to 65535"},
		"too large for 16 bits":     {`65535`, `65536`, "uint", "from 0 to 65535"},
		"too large for 64 bits":     {`1.5e3`, `1e309`, "float", "at most 1.7e308"},
		"too large for 32 bits":     {`"single": 1`, `"single": 1e39`, "single", "at most 3.4e38"},
		"not a time":                {`2026-05-01T12`, `tomorrow`, "time", "RFC 3339"},
		"a year above 9999":         {`2026-05-01T12:00:00Z`, `9999-12-31T23:00:00-02:00`, "time", "between the years 0 and 9999"},
		"a year below 0":            {`2026-05-01T12:00:00Z`, `0000-01-01T00:00:00+01:00`, "time", "between the years 0 and 9999"},
		"an impossible zone":        {`2026-05-01T12:00:00Z`, `2026-05-01T12:00:00+24:00`, "time", "+23:59"},
		"not an address":            {`127.0.0.1`, `localhost`, "addr", "localhost"},
		"a list for base64":         {`"aGk="`, `[104, 105]`, "bytes", "base64, not a list"},
		"a number for an address":   {`"127.0.0.1"`, `1`, "addr", "must be a string, not a number"},
		"not base64":                {`aGk=`, `%`, "bytes", "base64"},
		"a list that is too short":  {`[1, 2]`, `[1]`, "pair", "must have 2 elements, not 1"},
		"a list that is too long":   {`[1, 2]`, `[1, 2, 3]`, "pair", "must have 2 elements, not 3"},
		"inside a list":             {`"amount": 2`, `"amount": "2"`, "list[1].amount", "must be a whole number"},
		"missing inside a list":     {`{"name": "one"}`, `{}`, "list[0].name", "is missing"},
		"unknown inside a list":     {`"amount": 2`, `"Amount": 2`, "list[1].Amount", `write "amount"`},
		"inside a map":              {`{"k": 1}`, `{"k": 1, "l": ""}`, "map.l", "must be a whole number"},
		"repeated inside a map":     {`{"k": 1}`, `{"k": 1, "k": 1}`, "map.k", "is repeated"},
		"repeated inside raw":       {`"a": "x"`, `"a": "x", "a": "y"`, "raw.a", "is repeated"},
		"NUL in a string":           {`é\n`, `\u0000`, "text", "U+0000"},
		"NUL inside raw":            {`"a": "x"`, `"a": "\u0000"`, "raw.a", "U+0000"},
		"a raw NUL byte":            {`é\n`, "\x00", "text", "control character"},
		"half a surrogate pair":     {`\ud83d\ude00`, `\ud83d`, "text", "surrogate"},
		"the other half":            {`\ud83d\ude00`, `\ude00`, "text", "surrogate"},
		"not UTF-8":                 {`é`, "\xe9", "text", "not UTF-8"},
		"an unknown escape":         {`\n`, `\q`, "text", "an escape"},
		"too deep":                  {`{"b": [1, null], "a": "x"}`, nested, "", "more than 64 levels"},
		"text after the end":        {`"map": {"k": 1}}`, `"map": {"k": 1}} {}`, "", "after the end"},
		"a trailing comma":          {`"map": {"k": 1}`, `"map": {"k": 1},`, "", "expected the name of a member"},
		"cut off":                   {`"map": {"k": 1}}`, ``, "", "is cut off"},
		"cut off in a string":       {`"k": 1}}`, `"k`, "map", "is cut off"},
		"a leading zero":            {`-9`, `-09`, "", "expected ',' or '}' at byte"},
		"a comment":                 {`{"bool"`, `{/**/"bool"`, "", "is not JSON"},
		"no quotes around the name": {`"int":`, `int:`, "", "is not JSON"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := strings.Replace(full, test.old, test.new, 1)
			if data == full {
				t.Fatalf("%q is not in the data", test.old)
			}
			_, err := sink.DecodeCommand("fill", json.RawMessage(data))
			var wrong *aggregate.DataError
			if !errors.As(err, &wrong) {
				t.Fatalf("got %v, want a *DataError", err)
			}
			if test.field != "" && wrong.Field != test.field || !strings.Contains(wrong.Message, test.message) {
				t.Errorf("got %v,\nwant data.%s: …%s…", err, test.field, test.message)
			}
		})
	}
}

func TestCommandDataMustBeAnObject(t *testing.T) {
	t.Parallel()
	seat := typeOf(t, &Catalog, "seat")
	for data, want := range map[string]string{
		`null`:          "data: must be an object, not null",
		`[]`:            "data: must be an object, not a list",
		`"ada"`:         "data: must be an object, not a string",
		` `:             "data: must be an object, not nothing",
		`?`:             "data: must be an object, not something that is not JSON",
		``:              "data.guest: is missing",
		`{}`:            "data.guest: is missing",
		`{"guest":nul}`: "data.guest: must be a string, not null",
	} {
		if _, err := seat.DecodeCommand("reserve", json.RawMessage(data)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", data, err, want)
		}
	}
}

func TestNullMeansAbsentForOptionalMembers(t *testing.T) {
	t.Parallel()
	sink := typeOf(t, &Catalog, "sink")
	plain := canonical(t, sink, "fill", full)
	for name, members := range map[string]string{
		"null for optional members": `"pointer": null, "when": null, "tree": null, "optional": null, "tags": null, "extra": null, "since": null`,
		"zero for optional members": `"optional": "", "tags": []`,
	} {
		data := strings.Replace(full, `"map"`, members+`, "map"`, 1)
		if got := canonical(t, sink, "fill", data); got != plain {
			t.Errorf("%s: got %s,\nwant %s", name, got, plain)
		}
	}
	for name, members := range map[string]string{
		"a recursive type":  `"tree": {"name": "a", "children": [{"name": "b"}, null], "next": {"name": "c"}}`,
		"a null inside raw": `"extra": [null]`,
	} {
		data := strings.Replace(full, `"map"`, members+`, "map"`, 1)
		if got := canonical(t, sink, "fill", data); len(got) <= len(plain) {
			t.Errorf("%s: a member was lost: %s", name, got)
		}
	}
}

func TestEqualCommandsHaveOneCanonicalForm(t *testing.T) {
	t.Parallel()
	sink := typeOf(t, &Catalog, "sink")
	for data, want := range map[string]string{
		`{"zebra": 1, "ant": 2}`:                        `{"ant":2,"zebra":1}`,
		"\t{ \"ant\" :2,\r\n\"zebra\":1, \"bee\":null}": `{"ant":2,"zebra":1}`,
		`{"bee": 0, "zebra": 1, "ant": -0}`:             `{"ant":0,"bee":0,"zebra":1}`,
	} {
		if got := canonical(t, sink, "reorder", data); got != want {
			t.Errorf("%s: got %s, want %s", data, got, want)
		}
	}
	a := canonical(t, sink, "fill", full)
	b := canonical(t, sink, "fill", strings.Replace(full, `{"b": [1, null], "a": "x"}`, `{"a":"\u0078","b":[1,null]}`, 1))
	if a != b {
		t.Errorf("two canonical forms of equal raw JSON:\n%s\n%s", a, b)
	}
	for _, d := range Catalog.Types() {
		for _, name := range d.Commands() {
			sample, err := d.SampleCommand(name)
			if err != nil {
				t.Fatal(err)
			}
			data, err := d.EncodeCommand(sample)
			if err != nil {
				t.Fatal(err)
			}
			if got := canonical(t, d, name, string(data)); got != string(data) {
				t.Errorf("%s became %s", data, got)
			}
		}
	}
}

// canonical decodes data and returns its canonical form.
func canonical(t *testing.T, d *aggregate.Definition, command, data string) string {
	t.Helper()
	cmd, err := d.DecodeCommand(command, json.RawMessage(data))
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	got, err := d.EncodeCommand(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestUnknownCommandErrorListsKnownCommands(t *testing.T) {
	t.Parallel()
	_, err := typeOf(t, &Catalog, "sink").DecodeCommand("drain", nil)
	if !errors.Is(err, aggregate.ErrUnknownCommand) || !strings.Contains(err.Error(), "it has: fill, reorder") {
		t.Error(err)
	}
	if _, err := typeOf(t, &Catalog, "sink").EncodeCommand(ReserveSeat{}); err == nil {
		t.Error("a command of another aggregate was encoded")
	}
}

// A client must not be able to fill errors and logs.
func TestErrorsClipLongMemberNames(t *testing.T) {
	t.Parallel()
	seat := typeOf(t, &Catalog, "seat")
	_, err := seat.DecodeCommand("reserve", json.RawMessage(`{"`+strings.Repeat("é", 10_000)+`": 1}`))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("got an error of %d bytes", len(err.Error()))
	}
}
