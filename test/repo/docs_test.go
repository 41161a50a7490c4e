package repo

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEachPromiseNamesItsTests keeps docs/guarantees.md true: every promise
// names at least one test, and every test that is named is where the link says.
func TestEachPromiseNamesItsTests(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	linked := regexp.MustCompile("\\[`((?:Test|Fuzz)\\w+)`\\]\\(([^)]+)\\)")
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")

	promises := 0
	for line := range strings.Lines(text) {
		if regexp.MustCompile(`^\| \d+ \|`).MatchString(line) {
			promises++
			if !linked.MatchString(line) {
				t.Errorf("no test shows this promise: %s", line)
			}
		}
		if rest := linked.ReplaceAllString(line, ""); named.MatchString(rest) {
			t.Errorf("%s is named without a link to it", named.FindString(rest))
		}
	}
	if promises == 0 {
		t.Error("docs/guarantees.md promises nothing: has its table another form?")
	}

	for _, link := range linked.FindAllStringSubmatch(text, -1) {
		name, file := link[1], filepath.Join("docs", link[2])
		code, err := os.ReadFile(file)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !strings.Contains(string(code), "\nfunc "+name+"("):
			t.Errorf("%s is not in %s", name, file)
		}
	}
}

// TestAlertsAndDashboardsNameWhatThereIs keeps deploy/ true: every metric that
// an alert or a panel reads is explained in docs/operations.md, which another
// test compares with /metrics, and every alert's runbook is there.
func TestAlertsAndDashboardsNameWhatThereIs(t *testing.T) {
	t.Parallel()
	read := func(name string) string {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	operations, alerts := read("docs/operations.md"), read("deploy/prometheus/alerts.yml")
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (.*?) \|.*$`).FindAllStringSubmatch(operations, -1) {
		alerted := false
		for _, name := range regexp.MustCompile("`(ganglion_[a-z_]+)").FindAllStringSubmatch(m[1], -1) {
			explained[name[1]] = true
			alerted = alerted || regexp.MustCompile(name[1]+`\b|`+name[1]+`_(bucket|count)\b`).MatchString(alerts)
		}
		if marked := strings.Contains(m[0], "**alert**"); marked && !alerted {
			t.Errorf("docs/operations.md marks %s as an alert, and deploy/prometheus/alerts.yml has none on it", m[1])
		}
	}
	for _, file := range []string{"deploy/prometheus/alerts.yml", "deploy/grafana/dashboards/ganglion.json"} {
		names := regexp.MustCompile(`ganglion_[a-z_]+`).FindAllString(read(file), -1)
		if len(names) == 0 {
			t.Errorf("%s reads no metric", file)
		}
		for _, name := range names {
			base := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
			if !explained[name] && !(explained[base] && strings.HasSuffix(base, "_seconds")) {
				t.Errorf("%s reads %s, which docs/operations.md does not explain", file, name)
			}
		}
	}
	anchors := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(operations, -1) {
		slug := regexp.MustCompile("[^a-z0-9 -]").ReplaceAllString(strings.ToLower(heading[1]), "")
		anchors[strings.ReplaceAll(slug, " ", "-")] = true
	}
	runbooks := regexp.MustCompile(`runbook_url: \S+/docs/operations.md#(\S+)`).FindAllStringSubmatch(alerts, -1)
	if len(runbooks) != strings.Count(alerts, "- alert:") {
		t.Error("an alert has no runbook in docs/operations.md")
	}
	for _, r := range runbooks {
		if !anchors[r[1]] {
			t.Errorf("docs/operations.md has no section #%s", r[1])
		}
	}
}
