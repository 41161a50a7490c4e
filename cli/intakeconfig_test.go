package cli

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/relay"
)

// intakeProgram is relayProgram whose broker has intakes.
func intakeProgram(t *testing.T, file string) *program {
	t.Helper()
	p := relayProgram(t, file)
	b := &p.options.Brokers[0]
	b.IntakeKeys = []string{"queue"}
	b.ConfigureIntake = func(s relay.Settings) (string, func() relay.Source, error) {
		return fmt.Sprint(s.URL, " ", s.Own["queue"]), func() relay.Source { return nil }, nil
	}
	return p
}

func TestFileConfiguresIntakes(t *testing.T) {
	t.Parallel()
	p := intakeProgram(t, `
[[intake]]
name = "orders"
url = "mq://bob@host/"
queue = "commands"
window = 10
`)
	list, err := p.intakes()
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	in := list[0]
	if got := fmt.Sprint(in.Name, " ", in.Where, " ", in.Window, in.New != nil); got != "orders mq://bob@host/ commands 10 true" {
		t.Errorf("got %s", got)
	}
	if relays, err := p.relays(); err != nil || len(relays) != 0 {
		t.Errorf("the intake is a relay: %v, %v", relays, err)
	}
	var out bytes.Buffer
	if err := p.printRelays(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "[[intake]] # file\nname = \"orders\"\nqueue = \"commands\"\n") {
		t.Errorf("printed %s", out.String())
	}
	if _, err := parsed(t, "store = \"file\"\n[[intake]]\nname = \"orders\"\n", "processors"); err != nil {
		t.Error(err)
	}
}

func TestWrongIntakesAreExplained(t *testing.T) {
	t.Parallel()
	head := "[[intake]]\nname = \"b\"\n"
	for file, want := range map[string]string{
		`intake = "orders"`:                      "intake is not a list of tables: begin each intake with a line [[intake]]",
		head:                                     "url is missing, or not a URL",
		head + "url = \"mq://h\"\nqueu = \"q\"":  `intake "b": unknown key "queu": did you mean "queue"?`,
		head + "url = \"mq://h\"\nwindow = 1001": "window is 1001: only window is a number, from 1 to 1000",
		head + "url = \"mq://h\"\ncategories = [\"a\"]": "an intake has no categories: its messages name their aggregates",
	} {
		if _, err := intakeProgram(t, file).intakes(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", file, err, want)
		}
	}
	if _, err := relayProgram(t, head+"url = \"mq://h\"").intakes(); err == nil || !strings.Contains(err.Error(), "only relays to it are possible") {
		t.Errorf("without intakes: %v", err)
	}
}
