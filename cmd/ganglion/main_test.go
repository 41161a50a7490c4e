package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/ganglion-es/ganglion"
	"github.com/ganglion-es/ganglion/router"
)

// flags are all flags of a command, with those of the program.
func flags(t *testing.T, command string) map[string]*kong.Flag {
	t.Helper()
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range parser.Model.Leaves(true) {
		if leaf.Path() != command {
			continue
		}
		found := map[string]*kong.Flag{}
		for _, group := range leaf.AllFlags(false) {
			for _, f := range group {
				found[f.Name] = f
			}
		}
		return found
	}
	t.Fatalf("there is no command %q", command)
	return nil
}

func TestFlagsHaveTheirDocumentedNames(t *testing.T) {
	t.Parallel()
	for command, names := range map[string]string{
		"dev": "listen data nodes",
		"node": "name roles listen peer-listen gossip-listen advertise join store cluster auth jwt-hmac-file jwt-jwks jwt-issuer jwt-audience origins " +
			"max-frame-bytes max-header-bytes max-hello-time max-sessions max-sessions-per-client max-subscriptions max-open-requests max-commands-per-second drain-window " +
			"gossip-key-file peer-tls-cert peer-tls-key peer-tls-ca insecure-peers",
		"members":         "url",
		"events":          "url store stream after category cursor follow",
		"verify":          "store",
		"log accept-loss": "store",
	} {
		found := flags(t, command)
		for name := range strings.FieldsSeq(names) {
			if found[name] == nil {
				t.Errorf("%s has no --%s", command, name)
			}
		}
	}
}

func TestAFlagsVariableIsItsName(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"dev", "node", "members", "verify", "healthcheck"} {
		for name, f := range flags(t, command) {
			if name == "help" || name == "json" || name == "print-config" { // for one call, not for an environment
				continue
			}
			want := "GANGLION_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			if !slices.Equal(f.Envs, []string{want}) {
				t.Errorf("%s --%s is read from %v, want %s", command, name, f.Envs, want)
			}
		}
	}
}

func TestHelpSaysWhatAFlagIsByDefault(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]map[string]string{
		"dev":     {"listen": "127.0.0.1:8080", "data": "./ganglion-data", "nodes": "1"},
		"node":    {"listen": ":8080", "peer-listen": ":9080", "gossip-listen": ":7946", "cluster": "ganglion"},
		"members": {"url": "http://127.0.0.1:8080"},
	} {
		for name, byDefault := range want {
			f := flags(t, command)[name]
			// kong shows the default in place of a placeholder, if there is none.
			if shown := f.FormatPlaceHolder() + " " + describe(f.Value); !strings.Contains(shown, byDefault) {
				t.Errorf("%s --%s: %q does not say %s", command, name, shown, byDefault)
			}
		}
	}
}

func TestAnErrorIsOneSentence(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("eventstore: postgres: can't connect:\n\thost a: refused\n\thost b: refused\n"), "can't connect: host a: refused; host b: refused"},
		{errors.Join(errors.New("gateway: this is wrong"), errors.New("that too")), "this is wrong; that too"},
		{errors.New("plain"), "plain"},
	} {
		if got := sentence(c.err); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestAMistakeNamesTheHelpThatMendsIt(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                         "«ganglion --help»",
		"nosuch":                   "«ganglion --help»",
		"dev --nodez 3":            "«ganglion dev --help»",
		"node --rolez x":           "«ganglion node --help»",
		"owner":                    "«ganglion owner --help»",
		"log accept-loss --stor x": "«ganglion log accept-loss --help»",
		"--log-level wow":          "«ganglion --help»",
	} {
		parser, err := newParser(new(cli))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(strings.Fields(args)); err == nil || !strings.Contains(hinted(err).Error(), want) {
			t.Errorf("ganglion %s: %v does not mention %s", args, err, want)
		}
	}
}

func TestAURLThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{"", "here", "127.0.0.1:8080", "localhost:8080", "ftp://host", "http://", ":", "ws://host"} {
		var usage usageError
		if _, err := nodeURL(wrong); !errors.As(err, &usage) || !strings.Contains(err.Error(), "http://HOST:PORT") {
			t.Errorf("%q: %v does not say how to write it", wrong, err)
		}
	}
	if base, err := nodeURL("https://host:1/under/"); base != "https://host:1/under" || err != nil {
		t.Errorf("got %q, %v", base, err)
	}
}

func TestMembersSaysWhatANodeThinksOfItsLinks(t *testing.T) {
	t.Parallel()
	status := ganglion.ClusterStatus{Node: "n1", Links: []router.LinkStatus{
		{Node: "n2", Up: true, HeardMS: 40},
		{Node: "n3", HeardMS: 1234},
		{Node: "n4", HeardMS: -1},
		{Node: "n5", Up: true, Draining: true},
		{Node: "n6", Up: true, Doubted: true},
	}}
	for member, want := range map[string]string{
		"n1": "-", "n2": "up", "n3": "silent 1.2s", "n4": "never heard", "n5": "draining", "n6": "doubted",
	} {
		if got := linkState(status, member); got != want {
			t.Errorf("the link to %s is shown as %q, want %q", member, got, want)
		}
	}
}
