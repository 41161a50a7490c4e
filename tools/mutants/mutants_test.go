package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

const goMod = "module example.com/limit\n\ngo 1.26\n"

// program has three functions: the test of the first checks the result, the test
// of the second ignores it, and the third has no test.
const program = `package limit

func Within(n, most int) bool { return n <= most }

func Clamp(n, most int) int {
	if n > most {
		return most
	}
	return n
}

func Unreached(n int) bool { return n == 0 }
`

const programTest = `package limit

import "testing"

func TestWithin(t *testing.T) {
	if Within(3, 2) || !Within(2, 2) || !Within(1, 2) {
		t.Error("wrong")
	}
}

func TestClamp(t *testing.T) { Clamp(3, 2) }
`

// inModule writes the files of a module into an empty folder and enters it.
func inModule(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("GOWORK", "off")
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSurvivorsAreListedAndSourceIsUnchanged(t *testing.T) {
	inModule(t, map[string]string{"go.mod": goMod, "limit.go": program, "limit_test.go": programTest})
	var out strings.Builder
	if err := measure(t.Context(), options{pkg: ".", n: 100, limit: time.Hour}, &out); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	for _, line := range []string{
		".: 3 possible mutants, 1 more on lines that its tests do not reach",
		"survived  limit.go:6: column 5: n > most became !(n > most)",
		"survived  limit.go:6: column 7: > became >=",
		"1 killed, 0 timed out, 2 survived",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no line %q in:\n%s", line, got)
		}
	}
	if text, err := os.ReadFile("limit.go"); err != nil || string(text) != program {
		t.Errorf("the source was changed: %v\n%s", err, text)
	}
}

func TestFailingTestsAreNotMeasured(t *testing.T) {
	inModule(t, map[string]string{
		"go.mod": goMod, "limit.go": program,
		"limit_test.go": "package limit\n\nimport \"testing\"\n\nfunc TestFails(t *testing.T) { t.Error(\"no\") }\n",
	})
	var out strings.Builder
	err := measure(t.Context(), options{pkg: ".", n: 1, limit: time.Hour}, &out)
	if err == nil || !strings.Contains(err.Error(), "fail without any mutant") {
		t.Errorf("got %v", err)
	}
}
