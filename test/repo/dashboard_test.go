package repo

import (
	"regexp"
	"testing"
)

// notShown are metrics that no panel reads, and why.
var notShown = map[string]string{
	"ganglion_wakes_segments":        "all nodes together have 4; an alert reads how long wake-ups are overdue",
	"ganglion_group_coordinated":     "names a node: look at it when a group stands still",
	"ganglion_group_position":        "a position; the panel shows the events behind",
	"ganglion_group_gateway_members": "ganglion_consumers shows the members of each gateway",
}

// TestPanelsShowProcessManagersWakeUpsAndConsumerGroups compares the dashboard with
// docs/observe.md: a panel reads each of their metrics, unless notShown has it.
func TestPanelsShowProcessManagersWakeUpsAndConsumerGroups(t *testing.T) {
	t.Parallel()
	shown := map[string]bool{}
	for _, name := range regexp.MustCompile(`ganglion_[a-z_]+`).FindAllString(readText(t, "deploy/grafana/dashboards/ganglion.json"), -1) {
		shown[name] = true
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile("`(ganglion_(?:process_manager_|wakes?_|group_|consumers)[a-z_]*)").FindAllStringSubmatch(readText(t, "docs/observe.md"), -1) {
		name := m[1]
		explained[name] = true
		why, hidden := notShown[name]
		switch isShown := shown[name] || shown[name+"_bucket"]; {
		case isShown && hidden:
			t.Errorf("a panel reads %s, which notShown has, because %q", name, why)
		case !isShown && !hidden:
			t.Errorf("no panel of deploy/grafana/dashboards/ganglion.json reads %s: add one, or say in notShown why not", name)
		}
	}
	for name := range notShown {
		if !explained[name] {
			t.Errorf("notShown has %s, which docs/observe.md does not explain", name)
		}
	}
}
