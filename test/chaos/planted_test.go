package main

import "testing"

// TestPlantedFaultsFitTheSource applies the edits of every planted fault. "chaos -plant all"
// builds and finds each.
func TestPlantedFaultsFitTheSource(t *testing.T) {
	t.Parallel()
	for _, p := range plants {
		changed, err := p.apply("../..")
		if err != nil {
			t.Error(err)
		}
		if err == nil && len(changed) == 0 || len(p.breaks) == 0 {
			t.Errorf("%s changes nothing or breaks nothing", p.name)
		}
	}
}
