package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// processors is what `ganglion processors --json` prints.
type processors struct {
	Segments []struct {
		Projection string
		Build      int
		Position   uint64
		Lag        uint64
		State      string
		Paused     bool
		Owners     []string
	}
	Blocked, Silent []any
	Problem         string
}

// processors waits until what `ganglion processors` prints satisfies a condition.
func (c *cluster) processors(what string, holds func(processors) error) (last processors) {
	c.t.Helper()
	harness.Eventually(c.t, what, func() error {
		out, errs, code := call(c.t, "processors", "--store", c.store, "--url", c.urls()[0], "--json")
		if code != 0 {
			return fmt.Errorf("exit %d: %s", code, errs)
		}
		last = processors{}
		if err := json.Unmarshal([]byte(out), &last); err != nil {
			return err
		}
		if err := holds(last); err != nil {
			return fmt.Errorf("%w:\n%s", err, out)
		}
		return nil
	})
	return last
}

// current fails unless all segments are active, at the head, with one owner.
func current(p processors) error {
	if len(p.Segments) == 0 || p.Problem != "" || len(p.Silent) > 0 || len(p.Blocked) > 0 {
		return errors.New("owners are unknown, or rows are blocked")
	}
	for _, s := range p.Segments {
		if s.State != "retired" && (s.State != "active" || s.Lag > 0 || s.Paused || len(s.Owners) != 1) {
			return errors.New("not all builds are current")
		}
	}
	return nil
}

// TestOperatorsSeeAndSteerProjections runs the commands of operators against a
// running cluster: the owners before and after the death of one, a pause during
// which the log grows, a rebuild, and a verification.
func TestOperatorsSeeAndSteerProjections(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	c.run(workload{commands: 500, bids: true, counters: 1, sessions: 8})
	operate := func(args ...string) string {
		t.Helper()
		out, _ := must(t, append(append([]string{"processor"}, args...), "--store", c.store)...)
		return out
	}
	ownerOf := func(p processors) string {
		for _, s := range p.Segments {
			if s.Projection == "listings" && s.State == "active" {
				return strings.Join(s.Owners, ",")
			}
		}
		return ""
	}

	// The first node that is ready owns all segments, until the ring has been the same
	// for a while.
	owner := fmt.Sprint("n", c.folder("listings")+1)
	c.processors("all builds are current, and listings is where the ring places it", func(p processors) error {
		if now := ownerOf(p); now != owner {
			return fmt.Errorf("the owner of listings is %q, want %s", now, owner)
		}
		return current(p)
	})
	line := regexp.MustCompile(`(?m)^listings +\d+ +[0-9a-f]{8} +this +0 +` + owner + ` +\d+ +0 +active$`)
	harness.Eventually(t, "the table shows listings", func() error { // notices of outbid, which change no row, may just have come
		if table, _ := must(t, "processors", "--store", c.store, "--url", c.urls()[1]); !line.MatchString(table) {
			return fmt.Errorf("no line %s in\n%s", line, table)
		}
		return nil
	})
	if out := operate("verify", "listings"); !strings.Contains(out, "no differences found") {
		t.Errorf("verify prints %q", out)
	}

	if out := operate("pause", "listings"); out != "listings: paused\n" {
		t.Errorf("pause prints %q", out)
	}
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(c.urls()[0])}}
	defer client.Leave()
	if _, err := client.Do(t.Context(), "auction/late", "open", "late", opening(1)); err != nil {
		t.Fatal(err)
	}
	c.processors("listings is paused and behind, and bids is not", func(p processors) error {
		for _, s := range p.Segments {
			if paused := s.Projection == "listings"; s.Paused != paused || (s.Lag > 0) != paused {
				return errors.New("it is not")
			}
		}
		return nil
	})
	if out, _ := must(t, "processors", "--store", c.store, "--url", "http://127.0.0.1:1"); !strings.Contains(out, "active, paused\n") || !strings.Contains(out, "owners are unknown: no node answers at http://127.0.0.1:1") {
		t.Errorf("without a node:\n%s", out)
	}
	if out := operate("resume", "listings"); out != "listings: resumed\n" {
		t.Errorf("resume prints %q", out)
	}
	c.processors("all builds are current after the resume", current)

	if out := operate("rebuild", "listings"); !regexp.MustCompile(`^listings: build \d+ has begun; `).MatchString(out) {
		t.Errorf("rebuild prints %q", out)
	}
	c.processors("the new build has replaced the old one", func(p processors) error {
		var states []string
		for _, s := range p.Segments {
			if s.Projection == "listings" {
				states = append(states, s.State)
			}
		}
		if !slices.Equal(states, []string{"retired", "active"}) {
			return fmt.Errorf("the builds are %v", states)
		}
		return current(p)
	})
	if out := operate("retry", "listings"); out != "listings: no row is blocked\n" {
		t.Errorf("retry prints %q", out)
	}

	c.members[c.folder("listings")].Kill()
	c.processors("another member works on listings", func(p processors) error {
		if now := ownerOf(p); now == owner || now == "" {
			return fmt.Errorf("the owner is %q", now)
		}
		return current(p)
	})
	c.verifyRows(operate)
	c.rowsEqualLog()
}

// verifyRows compares rows with the log, and again after one was changed by hand.
func (c *cluster) verifyRows(operate func(...string) string) {
	t := c.t
	t.Helper()
	if out := operate("verify", "listings", "--json"); !strings.Contains(out, `"listed": []`) {
		t.Errorf("verify --json prints %s", out)
	}
	db := c.connect()
	var table string
	if err := db.QueryRow(t.Context(), `select 'r_listings_' || max(id) from processor_build where name = 'listings'`).Scan(&table); err != nil {
		t.Fatal(err)
	}
	swap := func(from, to string) {
		if _, err := db.Exec(t.Context(), `update `+table+` set data = replace(data::text, $1, $2)::json where key = 'late'`, from, to); err != nil {
			t.Fatal(err)
		}
	}
	swap("item 1", "item X")
	out, errs, code := call(t, "processor", "verify", "listings", "--store", c.store)
	if code != 1 || !strings.Contains(out, "late: stored ") || lastLine(errs) != "ganglion: 1 rows of listings differ from the log: rebuild the projection" {
		t.Errorf("verify of a changed row: exit %d\n%s%s", code, out, errs)
	}
	swap("item X", "item 1")
}

// TestMistakesWithProjectionsAreReportedInOneLine runs the commands of operators
// with wrong names and flags.
func TestMistakesWithProjectionsAreReportedInOneLine(t *testing.T) {
	t.Parallel()
	c := startCluster(t, database(t), []string{""})
	c.processors("all builds are current", current)
	const unknown = `this program has no projection and no process manager "lists": use bids, listings, outbid`
	for _, m := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"processor", "pause", "lists"}, 1, unknown},
		{[]string{"processor", "resume", "lists"}, 1, unknown},
		{[]string{"processor", "rebuild", "lists"}, 1, unknown},
		{[]string{"processor", "retry", "lists"}, 1, unknown},
		{[]string{"processor", "skip", "lists", "--key", "k", "--position", "1"}, 1, unknown},
		{[]string{"processor", "verify", "lists"}, 1, unknown},
		{[]string{"processor", "retry", "listings", "--key", "k"}, 1, `row "k" of projection "listings" is not blocked`},
		{[]string{"processor", "skip", "listings", "--key", "k", "--position", "1"}, 1, `row "k" of projection "listings" is not blocked`},
		{[]string{"processor", "skip", "listings", "--key", "k"}, 2, "--position is missing"},
		{[]string{"processor", "skip", "listings", "--key", "k", "--position", "-1"}, 2, "--position"},
		{[]string{"processor", "pause", "listings", "--now"}, 2, "--now"},
		{[]string{"processor", "pause"}, 2, "NAME"},
		{[]string{"processor", "pauze", "listings"}, 2, "pauze"},
		{[]string{"processor"}, 2, "command is missing"},
		{[]string{"processors", "listings"}, 2, "listings"},
		{[]string{"processors", "--url", "n1:8080"}, 2, "http://HOST:PORT"},
	} {
		args := m.args
		if len(args) > 1 {
			args = append(args, "--store", c.store)
		}
		out, errs, code := call(t, args...)
		if line := strings.TrimSpace(errs); code != m.code || !strings.HasPrefix(line, "ganglion: ") || !strings.Contains(line, m.text) || strings.Contains(line, "\n") {
			t.Errorf("%v: exit %d, %q, want %d and one line with %q", m.args, code, errs, m.code, m.text)
		}
		if out != "" {
			t.Errorf("%v prints %q on standard output", m.args, out)
		}
	}
	if _, errs, code := call(t, "processors"); code != 2 || !strings.Contains(errs, "--store") {
		t.Errorf("without a store: exit %d, %s", code, errs)
	}
}
