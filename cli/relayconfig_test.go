package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/relay"
)

// relayProgram has a configuration file, and a broker "mq" that shows its settings.
func relayProgram(t *testing.T, file string) *program {
	t.Helper()
	p := newProgram(&domain.Catalog, Options{Brokers: []relay.Broker{{
		Schemes: []string{"mq", "mqs"}, Keys: []string{"exchange"},
		Configure: func(s relay.Settings) (string, func() relay.Target, error) {
			if s.Own["exchange"] == "" {
				return "", nil, errors.New("exchange is missing")
			}
			return fmt.Sprint(s.URL, " ", s.Password, " ", s.Own["exchange"]), func() relay.Target { return nil }, nil
		},
	}}})
	p.config = filepath.Join(t.TempDir(), "node.toml")
	if err := os.WriteFile(p.config, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFileConfiguresRelays(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("pass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := relayProgram(t, `
name = "n1"
[[relay]]
name = "orders"
url = "mq://bob@host/"
password-file = "`+secret+`"
exchange = "events"
categories = ["order", "client"]
window = 10
[[relay]]
name = "all"
url = "mqs://host"
exchange = "all"
`)
	list, err := p.relays()
	if err != nil || len(list) != 2 {
		t.Fatalf("got %v, %v", list, err)
	}
	r := list[0]
	if got := fmt.Sprint(r.Name, " ", r.Where, r.Categories, r.Window); got != "orders mq://bob@host/ pass events[order client] 10" {
		t.Errorf("got %s", got)
	}
	if r := list[1]; r.Name != "all" || r.Categories != nil || r.Window != 0 || r.New == nil {
		t.Errorf("got %+v", r)
	}
	var out bytes.Buffer
	if err := p.printRelays(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "[[relay]] # file\ncategories = [\"order\", \"client\"]\nexchange = \"events\"\nname = \"orders\"\n") {
		t.Errorf("printed %s", out.String())
	}
}

func TestWrongRelaysAreExplained(t *testing.T) {
	t.Parallel()
	for file, want := range map[string]string{
		`relay = "orders"`: "relay is not a list of tables: begin each relay with a line [[relay]]",
		"[[relay]]\nname = \"a\"\n[[relay]]\nname = \"b\"\nurl = \"mq://h\"":                  "url is missing, or not a URL: write where the broker is, such as amqp://USER@HOST/",
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"":                                           `relay "b": exchange is missing`,
		"[[relay]]\nname = \"b\"\nurl = \"kafka://h\"":                                        `the URL begins with "kafka://": this program has brokers for mq://, mqs://`,
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchang = \"e\"":                          `unknown key "exchang": did you mean "exchange"?`,
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchange = \"e\"\nwindow = 0":             "window is 0: only window is a number, from 1 to 10000",
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchange = \"e\"\nwindow = \"10\"":        "window is text: categories is a list of strings, and window a number",
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchange = [\"e\"]":                       "exchange is a list: only categories is one",
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchange = \"e\"\ncategories = [1]":       "categories must be a list of strings only, the aggregate types",
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchange = \"e\"\nexclusive = true":       "exclusive must be text, a number or a list of strings",
		"[[relay]]\nname = \"b\"\nurl = \"mq://h\"\nexchange = \"e\"\npassword-file = \"no\"": "password-file: can't read no",
	} {
		p := relayProgram(t, file)
		_, err := p.relays()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", file, err, want)
		}
	}
	p := relayProgram(t, "[[relay]]\nname = \"b\"\nurl = \"mq://h\"")
	p.options.Brokers = nil
	if _, err := p.relays(); err == nil || !strings.Contains(err.Error(), "this program has no broker: register one in cli.Options.Brokers") {
		t.Errorf("without brokers: %v", err)
	}
}

// TestOtherCommandsAcceptRelaysInTheFile has one file for all commands.
func TestOtherCommandsAcceptRelaysInTheFile(t *testing.T) {
	t.Parallel()
	if _, err := parsed(t, "store = \"file\"\n[[relay]]\nname = \"orders\"\n", "processors"); err != nil {
		t.Error(err)
	}
}
