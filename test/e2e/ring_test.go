package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

type owners []struct {
	Member     string
	Partitions int
}

// ringOf returns the output of `ganglion ring`: the present owners, and the owners
// of the plan that the flags describe.
func ringOf(t *testing.T, url string, flags ...string) (now, then owners) {
	t.Helper()
	var report struct {
		Owners owners
		Plan   struct{ Owners owners }
	}
	out, _ := must(t, append([]string{"ring", "--json", "--url", url}, flags...)...)
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	return report.Owners, report.Plan.Owners
}

// TestRingPlanMatchesJoinAndDrain compares the planned rings of a join and of a
// leave with the rings after a node has joined and another was drained.
func TestRingPlanMatchesJoinAndDrain(t *testing.T) {
	t.Parallel()
	c := startCluster(t, database(t), []string{"", ""})
	url := c.urls()[0]
	_, planned := ringOf(t, url, "--join", "n3")
	c.start(c.add(""))
	c.settled()
	three, plannedLeave := ringOf(t, url, "--leave", "n2")
	if !slices.Equal(three, planned) {
		t.Errorf("with n3 the ring is %v, planned was %v", three, planned)
	}
	if out, _ := must(t, "ring", "--url", url, "--leave", "n2"); !strings.Contains(out, "between members that stay") {
		t.Errorf("the table is\n%s", out)
	}

	s := dial(t, c.urls()[1])
	s.send(`{"op":"hello","id":"1","client":"ada"}`)
	s.until("welcome")
	client := harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer client.Leave()
	add := func(i int) {
		t.Helper()
		for k := range 12 { // each node owns some
			if _, err := client.Do(t.Context(), fmt.Sprint("counter/", k), "add", fmt.Sprint("k", i), map[string]int{"by": 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(1)
	out, errs := must(t, "drain", "n2", "--url", url)
	if !strings.HasPrefix(out, "n2: has left;") || !strings.Contains(errs, "n2: draining: ") {
		t.Errorf("drain prints %q and %q", out, errs)
	}
	for s.next().Op != "goodbye" {
	}
	if code := s.closed(); code != 1012 {
		t.Errorf("the drained node's session is closed with %d, want 1012", code)
	}
	add(2)
	harness.Eventually(t, "the ring without n2", func() error {
		if now, _ := ringOf(t, url); !slices.Equal(now, plannedLeave) {
			return fmt.Errorf("is %v, planned was %v", now, plannedLeave)
		}
		return nil
	})

	// The process continues to run, but serves nothing.
	drained := c.members[1]
	for path, want := range map[string]int{
		"/healthz": http.StatusOK, "/readyz": http.StatusServiceUnavailable, "/v1/cluster": http.StatusOK,
		"/v1/aggregates/counter/1": http.StatusServiceUnavailable, "/v1/streams/counter/1/events": http.StatusServiceUnavailable, "/v1/ws": http.StatusServiceUnavailable,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, drained.URLs[0]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer dev:ada")
		resp, err := harness.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("drained, %s returns %d, want %d", path, resp.StatusCode, want)
		}
	}
	harness.Eventually(t, "n2 cannot be drained again", func() error { // once gossip has spread that it has left
		if _, errs, code := call(t, "drain", "n2", "--url", url); code != 2 || !strings.Contains(errs, "not a member") {
			return fmt.Errorf("exit %d, %s", code, errs)
		}
		return nil
	})
	drained.Signal(syscall.SIGTERM)
	if code := drained.Wait(); code != 0 {
		t.Errorf("drained, then stopped: exit %d", code)
	}

	must(t, "drain", "n3", "--shutdown", "--url", url)
	if code := c.members[2].Wait(); code != 0 {
		t.Errorf("drained with --shutdown: exit %d", code)
	}
	if _, errs, code := call(t, "drain", "n1", "--url", url); code != 2 || !strings.Contains(errs, "the last ready member") {
		t.Errorf("the last one: exit %d, %s", code, errs)
	}
	add(3)
}
