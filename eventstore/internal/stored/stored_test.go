package stored

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// FuzzDecodeEvents checks that the scanner never contradicts encoding/json: it gives
// the same events or none.
func FuzzDecodeEvents(f *testing.F) {
	for _, seed := range []string{
		`[{"t":"added","d":{"by":1}}]`,
		`[{"t":"added","v":2,"d":[1,"}]",{"a":"\\\""}]},{"t":"x","d":null}]`,
		`[ {"t":"added","d":1 } ]`,
		`[{"t":"a","d":"]}"},{"d":-1.5e3,"t":"b","v":3}]`,
		`[{"t":"a\u0062","d":true}]`,
		`[{"t":"a","v":0,"d":1}]`,
		`[{"t":"a","v":01,"d":1}]`,
		`[{"t":"a","d":1,"t":"b"}]`,
		`[{"t":"a","d":1,"d":2}]`,
		`[{"t":"é","d":1}]`,
		`[]`, `[{}]`, `{"t":1}`, ``,
	} {
		f.Add([]byte(seed), 1)
		f.Add([]byte(seed), 2)
	}
	f.Fuzz(func(t *testing.T, text []byte, n int) {
		if !json.Valid(text) {
			_, _ = DecodeEvents(text, n) // must not panic
			return
		}
		scanned, ok := scanEvents(text, n)
		if !ok {
			return
		}
		var list []struct {
			T string          `json:"t"`
			V *int            `json:"v"`
			D json.RawMessage `json:"d"`
		}
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatalf("scanned %q, which encoding/json refuses: %v", text, err)
		}
		want := make([]eventstore.Event, len(list))
		for i, e := range list {
			want[i] = eventstore.Event{Type: e.T, Form: 1, Data: e.D}
			if e.V != nil {
				want[i].Form = *e.V
			}
		}
		if len(scanned) != n || !reflect.DeepEqual(scanned, want) {
			t.Fatalf("scanned %q as %v, want %v", text, scanned, want)
		}
	})
}

// FuzzRoundTrip checks that data which Prepare accepts is decoded unchanged.
func FuzzRoundTrip(f *testing.F) {
	f.Add("added", 1, []byte(`{"by":1}`), "k", "ada")
	f.Add(`odd "<name>\`, 7, []byte(` [1, "\u00e9\ud83d\ude00"] `), "k", "日本")
	f.Add("a", 0, []byte(`"\ud800"`), "k\x00", "\xff")
	f.Add("huge", 1, []byte(`1e400`), "k", "ada")
	f.Fuzz(func(t *testing.T, name string, form int, data []byte, key, client string) {
		u, err := Prepare(eventstore.Unit{
			Stream: eventstore.StreamID{Type: "counter", ID: "a"},
			Commands: []eventstore.Command{{
				Key: key, Meta: eventstore.Meta{Client: client},
				Events: []eventstore.Event{{Type: name, Form: form, Data: data}, {Type: "last", Data: data}},
			}},
		})
		if err != nil {
			return
		}
		row := u.Rows[0]
		if !json.Valid(row.Events) || !json.Valid(row.Meta) {
			t.Fatalf("encoded %q and %q, which is not JSON", row.Events, row.Meta)
		}
		got, err := DecodeEvents(row.Events, 2)
		if err != nil {
			t.Fatalf("encoded %q, which is not decoded: %v", row.Events, err)
		}
		want, err1 := value(data)
		read, err2 := value(got[0].Data)
		if err1 != nil || err2 != nil || !reflect.DeepEqual(want, read) ||
			got[0].Type != name || got[0].Form != max(form, 1) || got[1].Type != "last" || got[1].Form != 1 {
			t.Fatalf("encoded %q and decoded %v", row.Events, got)
		}
		meta, err := DecodeMeta(row.Meta)
		if err != nil || meta.Client != client {
			t.Fatalf("encoded %q and decoded %v, %v", row.Meta, meta, err)
		}
	})
}

// value decodes a JSON document. Numbers keep all digits.
func value(document []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	err = d.Decode(&v)
	return v, err
}

// FuzzDecodeMeta checks that the scanner never contradicts encoding/json.
func FuzzDecodeMeta(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"client":"ada"}`, `{"client":"ada","trace":"00-ab-cd-01"}`, `{"trace":"00"}`, `{"client":"a\u0062"}`,
		`{"client":"","trace":""}`, `{"client":"a","client":"b"}`, `{"client":"a","trace":"b","x":"c"}`, `{"client":"a","trace":"b"`, `{"}`, ``,
		`{"client":"a","trace":"b","trace":"c"}`,
		`{"client":"a","depth":7}`, `{"client":"a","trace":"b","depth":7,"wake":[1700000000000000,3]}`, `{"client":"a","wake":[0,0]}`,
		`{"client":"a","wake":[1]}`, `{"client":"a","wake":[01,2]}`, `{"client":"a","depth":-1}`, `{"client":"a","depth":99999999999}`,
		`{"client":"a","wake":[1,-2]}`, `{"client":"a","wake":[1,2],"depth":3}`, `{"client":"a","wake":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		scanned, ok := scanMeta(text)
		if !ok {
			return
		}
		var want eventstore.Meta
		if err := json.Unmarshal(text, &want); err != nil || scanned != want {
			t.Fatalf("scanned %q as %+v, want %+v, %v", text, scanned, want, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	events := []byte(`[{"t":"added","d":{"item":"` + strings.Repeat("0", 160) + `","amount":1250}}]`)
	meta := []byte(`{"client":"ada"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeMeta(meta); err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeEvents(events, 1); err != nil {
			b.Fatal(err)
		}
	}
}

func TestDecodeEventsRefusesInvalidText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `{}`, `null`, `[]`, `[{}]`, `[{"t":"a"}]`, `[{"d":1}]`, `[{"t":"","d":1}]`, `[{"t":"a","v":0,"d":1}]`,
		`[{"t":"a","v":-1,"d":1}]`, `[{"t":1,"d":1}]`, `[{"t":"a","d":1},{"t":"a","d":1}]`, `[{"t":"a","d":1`,
	} {
		if got, err := DecodeEvents([]byte(text), 1); err == nil {
			t.Errorf("%s: decoded as %v, want an error", text, got)
		}
	}
}

func TestHolesInPagesAreReported(t *testing.T) {
	t.Parallel()
	commit := func(pos, n int) eventstore.Commit {
		return eventstore.Commit{Position: eventstore.Position(pos), Version: eventstore.Version(pos), At: time.Time{}, Events: make([]eventstore.Event, n)}
	}
	for name, test := range map[string]struct {
		after eventstore.Position
		page  []eventstore.Commit
		sound bool
	}{
		"empty":                {5, nil, true},
		"next":                 {5, []eventstore.Commit{commit(6, 1), commit(8, 2)}, true},
		"in the middle of one": {5, []eventstore.Commit{commit(7, 4), commit(8, 1)}, true},
		"a hole first":         {5, []eventstore.Commit{commit(7, 1)}, false},
		"a hole later":         {5, []eventstore.Commit{commit(6, 1), commit(8, 1)}, false},
		"one twice":            {5, []eventstore.Commit{commit(6, 1), commit(6, 1)}, false},
	} {
		if err := Dense(test.page, test.after); (err == nil) != test.sound {
			t.Errorf("%s: Dense returns %v", name, err)
		}
		if err := Contiguous(test.page, eventstore.Version(test.after)); (err == nil) != test.sound {
			t.Errorf("%s: Contiguous returns %v", name, err)
		}
	}
}
