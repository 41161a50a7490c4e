package aggregate_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestSamplesComeFromScenarios(t *testing.T) {
	t.Parallel()
	seat, _ := Catalog.Type("seat")
	samples := seat.Samples()
	var got []string
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		got = append(got, fmt.Sprintf("%s %s", name, join(samples[name])))
	}
	want := []string{`seat.commands.reserve {"guest":"ada"}`, `seat.events.reserved {"guest":"ada"}`}
	if !slices.Equal(got, want) {
		t.Errorf("the samples are %q, want %q", got, want)
	}
}

func join(all []json.RawMessage) string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = string(one)
	}
	return strings.Join(texts, " ")
}
