package repo

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEachPromiseNamesItsTests checks docs/guarantees.md: its promises are
// numbered from 1 without gaps, each has a row of evidence with at least one
// test, and each test on the page exists in the file that its link names.
func TestEachPromiseNamesItsTests(t *testing.T) {
	t.Parallel()
	text := readText(t, "docs/guarantees.md")
	linked := regexp.MustCompile("\\[`((?:Test|Fuzz)\\w+)`\\]\\(([^)]+)\\)")
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")

	_, section, _ := strings.Cut(text, "\n## Promises\n")
	section, _, _ = strings.Cut(section, "\n## ")
	promises := regexp.MustCompile(`(?m)^(\d+)\. \S`).FindAllStringSubmatch(section, -1)
	if len(promises) == 0 {
		t.Fatal("docs/guarantees.md has no numbered list under 'Promises'")
	}
	_, section, _ = strings.Cut(text, "\n## Evidence\n")
	evidence := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`).FindAllStringSubmatch(section, -1) {
		if _, twice := evidence[row[1]]; twice {
			t.Errorf("promise %s has two rows of evidence", row[1])
		}
		evidence[row[1]] = row[2]
	}
	for i, p := range promises {
		if p[1] != strconv.Itoa(i+1) {
			t.Errorf("promise %s is number %d in the list: number promises from 1 without gaps", p[1], i+1)
		}
		if !linked.MatchString(evidence[p[1]]) {
			t.Errorf("promise %s has no test: add one to its row of evidence", p[1])
		}
		delete(evidence, p[1])
	}
	for number := range evidence {
		t.Errorf("the row of evidence %s has no promise", number)
	}
	for line := range strings.Lines(text) {
		if rest := linked.ReplaceAllString(line, ""); named.MatchString(rest) {
			t.Errorf("%s has no link to its file", named.FindString(rest))
		}
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

// TestAlertsAndDashboardsReadExplainedMetrics compares deploy/ with
// docs/observe.md: the page explains every metric that an alert or a panel reads,
// and an alert reads every metric that the page marks with "alert". Another test
// compares the page with /metrics.
func TestAlertsAndDashboardsReadExplainedMetrics(t *testing.T) {
	t.Parallel()
	page, alerts := readText(t, "docs/observe.md"), readText(t, "deploy/prometheus/alerts.yml")
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (.*?) \|.*$`).FindAllStringSubmatch(page, -1) {
		alerted := false
		for _, name := range regexp.MustCompile("`(ganglion_[a-z_]+)").FindAllStringSubmatch(m[1], -1) {
			explained[name[1]] = true
			alerted = alerted || regexp.MustCompile(name[1]+`\b|`+name[1]+`_(bucket|count)\b`).MatchString(alerts)
		}
		if marked := strings.Contains(m[0], "**alert**"); marked && !alerted {
			t.Errorf("docs/observe.md marks %s with alert, but no alert in deploy/prometheus/alerts.yml reads it", m[1])
		}
	}
	for _, file := range []string{"deploy/prometheus/alerts.yml", "deploy/grafana/dashboards/ganglion.json"} {
		names := regexp.MustCompile(`ganglion_[a-z_]+`).FindAllString(readText(t, file), -1)
		if len(names) == 0 {
			t.Errorf("%s reads no metric", file)
		}
		for _, name := range names {
			base := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
			if !explained[name] && !(explained[base] && strings.HasSuffix(base, "_seconds")) {
				t.Errorf("%s reads %s, which docs/observe.md does not explain", file, name)
			}
		}
	}
}

// TestEveryAlertHasARunbook compares alerts with docs/runbooks.md: each alert
// links to the section of its own name, and each section has an alert.
func TestEveryAlertHasARunbook(t *testing.T) {
	t.Parallel()
	alerts, page := readText(t, "deploy/prometheus/alerts.yml"), readText(t, "docs/runbooks.md")
	names := map[string]bool{}
	for _, rule := range strings.Split(alerts, "- alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		names[name] = true
		if !strings.Contains(rule, "/docs/runbooks.md#"+strings.ToLower(name)+"\n") {
			t.Errorf("%s does not link to docs/runbooks.md#%s", name, strings.ToLower(name))
		}
		if !strings.Contains(page, "\n### "+name+"\n") {
			t.Errorf("docs/runbooks.md has no section %s", name)
		}
	}
	for _, section := range regexp.MustCompile(`(?m)^### (Ganglion\w+)$`).FindAllStringSubmatch(page, -1) {
		if !names[section[1]] {
			t.Errorf("docs/runbooks.md has a section %s, but no alert has this name", section[1])
		}
	}
}
