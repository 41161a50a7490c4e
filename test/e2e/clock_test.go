package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestMembersNameTheNodeWithTheWrongClock sets the clock of one node an hour
// ahead, and later right again. The logs of the nodes, `ganglion members` and the
// metrics name only that node. Once its clock is right, events of its aggregates
// get correct times.
func TestMembersNameTheNodeWithTheWrongClock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set := func(offset string) {
		if err := os.WriteFile(filepath.Join(dir, "n2"), []byte(offset), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("1h")
	c := startTrio(t, database(t), "--clock-offset-file", filepath.Join(dir, "{node}"))

	shown := func(n2 string) {
		t.Helper()
		harness.Eventually(t, "members show the clock of n2 as "+n2, func() error {
			for _, m := range c.members {
				out, errs, code := call(t, "members", "--url", m.URLs[0])
				for name, clock := range map[string]string{"n1": "ok", "n2": n2, "n3": "ok"} {
					if code != 0 || !regexp.MustCompile(`(?m)^`+name+` .* `+clock+` `).MatchString(out) {
						return errors.New(out + errs)
					}
				}
			}
			return nil
		})
	}
	shown(`\+3(600|599)\.\ds`)
	for i, m := range c.members {
		want := `(?m)this node's clock differs.* member=n2 ahead=(1h0m0|59m59)`
		if i != 1 {
			want = `(?m)a member's clock differs.* member=n2 `
		}
		if !regexp.MustCompile(want).MatchString(m.Output()) {
			t.Errorf("n%d does not log %s:\n%s", i+1, want, m.Output())
		}
		if others := regexp.MustCompile(`clock differs.* member=n[13]`).FindString(m.Output()); others != "" {
			t.Errorf("n%d logs %s", i+1, others)
		}
		ahead := regexp.MustCompile(`(?m)^ganglion_clock_ahead_seconds (\S+)`).FindStringSubmatch(scrape(t, m.URLs[0]))
		if len(ahead) != 2 {
			t.Fatalf("n%d has no ganglion_clock_ahead_seconds", i+1)
		}
		seconds, err := strconv.ParseFloat(ahead[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		if wrong := seconds > 3590 && seconds < 3610; wrong != (i == 1) {
			t.Errorf("n%d has ganglion_clock_ahead_seconds %v", i+1, ahead)
		}
	}

	// n2 executes a command of its aggregate, and another with a correct clock.
	name := ownedBy("counter", "n2", 1)[0]
	stream, err := eventstore.ParseStreamID(name)
	if err != nil {
		t.Fatal(err)
	}
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(c.members[0].URLs[0])}}
	defer client.Leave()
	add := func(key string) {
		t.Helper()
		if _, err := client.Do(t.Context(), name, "add", key, map[string]int{"by": 1}); err != nil {
			t.Fatal(err)
		}
	}
	add("by n2")
	set("0s")
	shown("ok")
	add("by n2, right again")
	store, err := node.OpenStore(t.Context(), node.StoreConfig{URL: c.store})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	commits, err := store.ReadStream(t.Context(), stream, 0, 10)
	if err != nil || len(commits) != 2 {
		t.Fatalf("%d commits, %v", len(commits), err)
	}
	if off := time.Until(commits[0].At); off < 50*time.Minute {
		t.Errorf("the first event is %v ahead, so the test shows nothing", off)
	}
	if off := time.Until(commits[1].At); off.Abs() > time.Minute {
		t.Errorf("with a correct clock, an event is dated %v ahead", off)
	}
}
