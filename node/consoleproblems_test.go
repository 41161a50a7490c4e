package node_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/harness"
)

// A shownProblem is a problem on the console's overview.
type shownProblem struct{ Text, Runbook, Page string }

// untilProblems waits for a picture of the cluster in which holds is true of the problems
// of relays and intakes.
func untilProblems(t *testing.T, url, what string, holds func([]shownProblem) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/_ganglion/api/status", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+asViewer)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last []shownProblem
	lines := bufio.NewScanner(resp.Body)
	for lines.Buffer(nil, 1<<20); lines.Scan(); {
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		if !isData || !strings.HasPrefix(data, "{") { // samples are a list
			continue
		}
		var p struct{ Problems []shownProblem }
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(data, secret) {
			t.Fatalf("a viewer sees data: %s", data)
		}
		last = nil
		for _, one := range p.Problems {
			if one.Page == "relays" {
				last = append(last, one)
			}
		}
		if holds(last) {
			return
		}
	}
	t.Fatalf("%s: the last problems are %+v, %v", what, last, lines.Err())
}

// TestOverviewNamesStoppedRelaysAndIntakesWithoutBroker asks both nodes of a cluster, of
// which one works on the relay.
func TestOverviewNamesStoppedRelaysAndIntakesWithoutBroker(t *testing.T) {
	t.Parallel()
	w, lost := newWorkshop(), newQueue()
	lost.away.Store(true)
	const nodes = 2
	urls, _ := harness.Serve(t, nodes, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: w.catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready, Intakes: []node.Intake{lost.intake("lost")},
			Relays: []node.Relay{{Name: "orders", Categories: []string{"task"}, New: func() relay.Target {
				return &target{workshop: w, confirmed: make(chan eventstore.Position, relay.MaxWindow)}
			}}},
		}, nodes)
	})
	w.note(t, urls[0], "t1", "bad "+secret)
	stopped := shownProblem{"The relay orders has stopped at an event that its broker does not take.", "GanglionRelayStopped", "relays"}
	away := func(p shownProblem) bool {
		return strings.HasPrefix(p.Text, "No member takes commands from the queue of the intake lost") && p.Runbook == "GanglionIntakeAway"
	}
	for _, url := range urls {
		untilProblems(t, url, "both", func(list []shownProblem) bool { return len(list) == 2 && list[0] == stopped && away(list[1]) })
	}
	lost.away.Store(false)
	untilProblems(t, urls[0], "the relay alone", func(list []shownProblem) bool { return len(list) == 1 && list[0] == stopped })
	if code, a := do(t, urls[0], asOperator, "relay_skip", "a test", map[string]any{"name": "orders", "position": 1}); code != http.StatusOK || a.Failed {
		t.Fatalf("skip: %d %+v", code, a)
	}
	if code, a := do(t, urls[0], asOperator, "relay_pause", "a test", map[string]any{"name": "orders"}); code != http.StatusOK || a.Failed {
		t.Fatalf("pause: %d %+v", code, a)
	}
	w.note(t, urls[0], "t2", "good")
	untilProblems(t, urls[0], "none while it is paused", func(list []shownProblem) bool { return len(list) == 0 })
	harness.Eventually(t, "the relay is paused", func() error {
		v, err := view[struct{ Relays []relayShown }](t, urls[0], "relays", asViewer)
		if err == nil && (len(v.Relays) != 1 || v.Relays[0].State != "paused" || v.Relays[0].Lag == 0) {
			err = fmt.Errorf("%+v", v.Relays)
		}
		return err
	})
	untilProblems(t, urls[1], "none while it is paused", func(list []shownProblem) bool { return len(list) == 0 })
}
