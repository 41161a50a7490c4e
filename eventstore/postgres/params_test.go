package postgres

import (
	"io/fs"
	"regexp"
	"slices"
	"testing"
)

func TestParametersMatchFunctionAppend(t *testing.T) {
	t.Parallel()
	const name = "migrations/00001_log.sql" // the newest one that defines it
	text, err := fs.ReadFile(migrations, name)
	if err != nil {
		t.Fatal(err)
	}
	signature := regexp.MustCompile(`(?s)create function append\((.*?)out base`).FindSubmatch(text)
	if signature == nil {
		t.Fatalf("%s has no function append", name)
	}
	var names []string
	for _, p := range regexp.MustCompile(`(\w+) [a-z]+(\[\])?,`).FindAllSubmatch(signature[1], -1) {
		names = append(names, string(p[1]))
	}
	if !slices.Equal(names, paramNames) {
		t.Errorf("the function has the parameters\n%q, this program sends\n%q", names, paramNames)
	}
}
