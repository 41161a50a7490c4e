package aggregate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// FuzzDecodeCommand decodes any data. It must be refused with a *DataError, or be
// JSON that encoding/json decodes to the same command and that its canonical form
// preserves.
func FuzzDecodeCommand(f *testing.F) {
	sink := typeOf(f, &Catalog, "sink")
	f.Add("fill", []byte(full))
	f.Add("reorder", []byte(`{"zebra": 1, "ant": 2, "bee": null}`))
	f.Add("reorder", []byte(`{"zebra": 1, "Ant": 2}`))
	f.Add("reorder", []byte("{\"\\u0061nt\":\"\xff\\ud800\\u0000\"}"))
	f.Add("fill", []byte(nil))
	f.Add("fill", []byte(strings.Replace(full, `00Z"`, `00+24:00"`, 1)))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		cmd, err := sink.DecodeCommand(name, data)
		if err != nil {
			wrong, isData := errors.AsType[*aggregate.DataError](err)
			if !isData && !errors.Is(err, aggregate.ErrUnknownCommand) || isData && wrong.Message == "" {
				t.Fatalf("%s: %v", data, err)
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		same := reflect.New(reflect.TypeOf(cmd))
		if err := dec.Decode(same.Interface()); err != nil || !json.Valid(data) {
			t.Fatalf("%s was accepted: %v", data, err)
		}
		if !reflect.DeepEqual(same.Elem().Interface(), cmd) {
			t.Fatalf("%s: encoding/json decodes %+v, DecodeCommand %+v", data, same.Elem(), cmd)
		}
		once, err := sink.EncodeCommand(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(once, []byte(`\u0000`)) && !bytes.Contains(once, []byte(`\\u0000`)) {
			t.Fatalf("U+0000 was accepted: %s", once)
		}
		again, err := sink.DecodeCommand(name, once)
		if err != nil {
			t.Fatalf("the canonical form %s of %s: %v", once, data, err)
		}
		twice, err := sink.EncodeCommand(again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s has two canonical forms: %s and %s, %v", data, once, twice, err)
		}
	})
}

// FuzzDecodeEvent decodes any data as a stored event. It must be refused, or be an
// event that its stored form preserves.
func FuzzDecodeEvent(f *testing.F) {
	sink := typeOf(f, &Catalog, "sink")
	f.Add("filled", 1, []byte(full))
	f.Add("filled", 0, []byte(`{"tree": {"next": {}}, "added later": 1}`))
	f.Add("filled", 2, []byte(`{}`))
	f.Add("emptied", -1, []byte(`null`))
	f.Fuzz(func(t *testing.T, name string, form int, data []byte) {
		event, err := sink.DecodeEvent(name, form, data)
		if unknown := name != "filled" || form > 1; unknown != errors.Is(err, aggregate.ErrUnknownEvent) {
			t.Fatalf("%q of form %d: %v", name, form, err)
		}
		if err != nil {
			return
		}
		_, _, once, err := sink.EncodeEvent(event)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		again, err := sink.DecodeEvent(name, form, once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if _, _, twice, err := sink.EncodeEvent(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", once, twice, err)
		}
		sink.Apply(sink.NewState(), event)
	})
}
