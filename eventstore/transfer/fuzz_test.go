package transfer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// FuzzParseRow checks that a line is refused or keeps its meaning when it is
// written again.
func FuzzParseRow(f *testing.F) {
	f.Add([]byte(`{"pos":2,"n":2,"stream":"auction/42","version":2,"key":"k1","hash":"00000000000000000000000000000000",` +
		`"at":"2026-03-01T12:00:00.123456Z","meta":{"client":"ada"},"events":[{"t":"opened","d":{"a":[1, 2]}},{"t":"bid_placed","v":2,"d":null}]}`))
	f.Add([]byte(`{"pos":1,"n":1,"stream":"a/b","version":1,"key":"é","hash":"0102030405060708090a0b0c0d0e0f10",` +
		`"at":"0001-01-01T00:00:00Z","meta":{},"events":[{"d":"\u00e9","t":"<odd>"}]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRow(line)
		if err != nil {
			return
		}
		if _, err := stored.PrepareRestore([]eventstore.Record{r}); err != nil {
			return // stores refuse it
		}
		first, err := appendRow(nil, &r)
		if err != nil {
			t.Fatalf("%+v cannot be written: %v", r, err)
		}
		again, err := parseRow(bytes.TrimSuffix(first, []byte("\n")))
		if err != nil {
			t.Fatalf("%s cannot be read: %v", first, err)
		}
		second, err := appendRow(nil, &again)
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s, %v", first, second, err)
		}
	})
}

// FuzzResume checks that a file is refused, or is continued at the start of a
// line.
func FuzzResume(f *testing.F) {
	f.Add(`{"ganglion":"log","form":1,"log":"0190b5c0-aaaa-7000-8000-000000000001","after":0}` + "\n" + `{"end":0,"commits":0}` + "\n")
	f.Add("\n\n")
	f.Fuzz(func(t *testing.T, file string) {
		p, err := findPlace(strings.NewReader(file))
		if err == nil && (p.offset < 1 || p.offset > int64(len(file)) || file[p.offset-1] != '\n') {
			t.Errorf("the file is continued at byte %d", p.offset)
		}
	})
}
