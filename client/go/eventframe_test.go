package ganglion

import (
	"encoding/json"
	"reflect"
	"testing"
)

// eventLines are event frames as gateways write them.
var eventLines = []string{
	`{"op":"event","sub":"7","stream":"auction/42","version":3,"position":1051,"event":"bid","data":{"amount":1500,"note":"\"}]"},"time":"2026-11-30T18:00:00.123456Z","cause":"k1","by":"ada"}`,
	`{"op":"event","sub":"7","segment":"3","stream":"auction/42","version":3,"position":1051,"event":"bid","data":null,"time":"2026-11-30T18:00:00Z","cause":"k1"}`,
	`{"op":"event","sub":"7","stream":"a/b","version":1,"position":2,"event":"e","data":[{"a":[]},"é"],"time":"2026-11-30T18:00:00Z","cause":""}`,
}

// otherLines are not: encoding/json decides on them.
var otherLines = []string{
	`{"op":"event","sub":"7","stream":"auction/ö","version":3,"position":1051,"event":"bid","data":{},"time":"2026-11-30T18:00:00Z","cause":"k1"}`,
	`{"op":"event","sub":"7","version":-3}`, `{"op":"event","version":03}`, `{"op":"event","version":1.0}`,
	`{"op":"event","sub":7}`, `{"op":"event","sub":"\u0041"}`, `{"op":"event", "sub":"7"}`, `{"op":"event","sub":"7"} `,
	`{"op":"event","data":}`, `{"op":"event","data":"`, `{"op":"event","data":{}`, `{"op":"event","data": 0}`, `{"op":"event","time":"yesterday"}`,
	`{"op":"event",}`, `{"op":"event","sub":"7"`, `{"op":"event","sub":"7"}}`, `{"op":"event","rows":[]}`, `{"op":"event","":1}`,
	`{"op":"live","sub":"7"}`, `{"op":"event"}`, `{"op":"event",`, ``,
}

func TestEventFramesOfGatewaysAreParsedWithoutReflection(t *testing.T) {
	t.Parallel()
	for _, line := range eventLines {
		if _, ok := parseEvent([]byte(line)); !ok {
			t.Errorf("the line was left to encoding/json: %s", line)
		}
	}
	for _, line := range otherLines {
		if _, ok := parseEvent([]byte(line)); ok {
			t.Errorf("the line was not left to encoding/json: %s", line)
		}
	}
}

// FuzzParseEvent compares parseEvent with encoding/json.
func FuzzParseEvent(f *testing.F) {
	for _, lines := range [][]string{eventLines, otherLines} {
		for _, line := range lines {
			f.Add([]byte(line))
		}
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := parseEvent(line)
		if !ok || !json.Valid(line) {
			return
		}
		want, err := parseAny(line)
		if err != nil {
			t.Fatalf("encoding/json refuses the line %q: %v", line, err)
		}
		want.KnownVersion = nil // has no use in an event
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q is\n%+v, want\n%+v", line, got, want)
		}
	})
}

func BenchmarkParseEvent(b *testing.B) {
	line := []byte(eventLines[0])
	for name, parse := range map[string]func([]byte) (*gatewayFrame, error){"encoding-json": parseAny, "parse": parse} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if a, err := parse(line); err != nil || a.Position == 0 {
					b.Fatal(err)
				}
			}
		})
	}
}
