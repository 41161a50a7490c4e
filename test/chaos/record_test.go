package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSeriesUsePromtoolNotation(t *testing.T) {
	t.Parallel()
	for want, values := range map[string]string{
		"":                    "",
		"1":                   "1",
		"1x2 0":               "1 1 1 0",
		"3 stale _x2 5x1":     "3 stale _ _ 5 5",
		"_x1 0.3 12 13x1 14":  "_ 0.3 12 13 13 14",
		"0x1 _x3 1x1 stale 1": "0 0 _ _ _ 1 1 stale 1",
	} {
		if got := notation(strings.Fields(values)); got != want {
			t.Errorf("%s is written %q, want %q", values, got, want)
		}
	}
}

func TestRecordingReplacesOnlySeriesOfItsDrill(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "drills_test.yml")
	const before = `tests:
  - name: first
    input_series: # recorded: kill
      # old
      - {series: 'old', values: '1'}
    promql_expr_test:
      - {expr: kept}

  - name: second
    input_series: # recorded: roll
      - {series: 'kept', values: '2'}
    promql_expr_test: []
`
	if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &recorder{notes: []string{"20s kill begins", "2m whole again"}, series: map[string][]string{
		`up{instance="b"}`: {"0", "0"}, `ganglion_x{instance="b"}`: {"0", "_"}, `ganglion_x{instance="a"}`: {"0", "7"},
	}}
	if err := r.write(file, "kill"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(before, `      # old
      - {series: 'old', values: '1'}
`, `      # 20s kill begins, 2m whole again
      - {series: 'ganglion_x{instance="a"}', values: '0 7'}
      - {series: 'up{instance="b"}', values: '0x1'}
`, 1)
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if err := r.write(file, "flood"); err == nil || !strings.Contains(err.Error(), "# recorded: flood") {
		t.Errorf("a drill that the file has no place for: %v", err)
	}
}
