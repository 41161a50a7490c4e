package cli

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/ring"
)

// flags returns the flags of a command, global ones included.
func flags(t *testing.T, command string) map[string]*pflag.Flag {
	t.Helper()
	root := newRoot(testProgram())
	cmd, rest, err := root.Find(strings.Fields(command))
	if err != nil || len(rest) > 0 {
		t.Fatalf("unknown command %q", command)
	}
	found := map[string]*pflag.Flag{}
	for _, set := range []*pflag.FlagSet{cmd.LocalFlags(), cmd.InheritedFlags()} {
		set.VisitAll(func(f *pflag.Flag) { found[f.Name] = f })
	}
	return found
}

func TestFlagsHaveTheirDocumentedNames(t *testing.T) {
	t.Parallel()
	for command, names := range map[string]string{
		"dev": "listen data nodes origins seed watch",
		"node": "name roles processors-only listen peer-listen gossip-listen advertise join store cluster auth jwt-hmac-file jwt-jwks jwt-issuer jwt-audience origins " +
			"max-frame-bytes max-header-bytes max-hello-time max-sessions max-sessions-per-client max-anonymous-sessions max-connections max-subscriptions max-live-queries max-queries max-open-requests max-outbound-bytes max-commands-per-second heartbeat drain-window " +
			"gossip-key-file peer-tls-cert peer-tls-key peer-tls-ca insecure-peers",
		"members":            "url",
		"sessions":           "url peer-tls-cert peer-tls-key peer-tls-ca slow kick kick-client json",
		"ring":               "url join leave json",
		"drain":              "url peer-tls-cert peer-tls-key peer-tls-ca shutdown force",
		"debug":              "url peer-tls-cert peer-tls-key peer-tls-ca output timeout",
		"rebalance-sessions": "url peer-tls-cert peer-tls-key peer-tls-ca percent dry-run",
		"send":               "url token key expect json",
		"get":                "url token at strong json",
		"query":              "url token follow page json",
		"events":             "url token store stream after category all cursor follow with-state",
		"verify":             "store json",
		"bench":              "url token duration rate connections subscribers aggregates reconnect-every json",
		"log accept-loss":    "store yes",
		"groups":             "store json",
		"group reset":        "store to",
		"group resize":       "store segments",
		"group pause":        "store",
		"group resume":       "store",
		"group retry":        "store sequence",
		"group skip":         "store sequence position",
		"processors":         "store json",
		"processor pause":    "store",
		"processor resume":   "store",
		"processor rebuild":  "store",
		"processor retry":    "store key",
		"processor skip":     "store key position",
		"processor verify":   "store json",
		"relays":             "store url json",
		"intakes":            "url json",
		"wakes":              "store limit json",
		"wake pause":         "store",
		"wake resume":        "store",
		"wake retry":         "store",
	} {
		found := flags(t, command)
		for name := range strings.FieldsSeq(names) {
			if found[name] == nil {
				t.Errorf("%s has no --%s", command, name)
			}
		}
	}
}

func TestFlagVariablesDeriveFromNames(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"dev", "node", "members", "verify", "healthcheck"} {
		for name, f := range flags(t, command) {
			if slices.Contains([]string{"help", "json", "print-config", "seed", "watch", "until-eof"}, name) { // only on the command line
				continue
			}
			want := "GANGLION_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			if got := annotation(f, variable); got != want || !f.Hidden && !strings.HasSuffix(f.Usage, "($"+want+")") {
				t.Errorf("%s --%s has the variable %q, want %s; its help is %q", command, name, got, want, f.Usage)
			}
		}
	}
}

func TestHelpShowsDefaultsOfFlags(t *testing.T) {
	t.Parallel()
	for command, want := range map[string]map[string]string{
		"dev":     {"listen": "127.0.0.1:8080", "data": "./ganglion-data", "nodes": "1"},
		"node":    {"listen": ":8080", "peer-listen": ":9080", "gossip-listen": ":7946", "cluster": "ganglion"},
		"members": {"url": "http://127.0.0.1:8080"},
	} {
		for name, byDefault := range want {
			found := pflag.NewFlagSet(command, pflag.ContinueOnError)
			found.AddFlag(flags(t, command)[name])
			if shown := found.FlagUsages(); !strings.Contains(shown, byDefault) {
				t.Errorf("%s --%s: %q lacks %s", command, name, shown, byDefault)
			}
		}
	}
}

// TestEveryCommandHasAnExample also parses the examples, so none shows a removed
// flag.
func TestEveryCommandHasAnExample(t *testing.T) {
	t.Parallel()
	each(newRoot(testProgram()), func(cmd *cobra.Command) {
		if cmd.HasSubCommands() || cmd.Hidden {
			return
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "ganglion ")
		examples := 0
		for line := range strings.Lines(cmd.Example) {
			_, call, ok := strings.Cut(line, "ganglion "+path)
			if !strings.HasPrefix(line, "  ") || !ok {
				continue
			}
			examples++
			call, _, _ = strings.Cut(strings.TrimSpace(call), "|")
			call, _, _ = strings.Cut(call, ")")
			args := append(strings.Fields(path), strings.Fields(strings.ReplaceAll(call, "'", ""))...)
			if i := slices.Index(args, "--config"); i >= 0 { // the file, which would set the required flags, does not exist here
				args = append(slices.Delete(args, i, i+2), "--store", "there")
			}
			if _, err := parsed(t, "", args...); err != nil {
				t.Errorf("the example '%s' of %s is rejected: %v", strings.TrimSpace(line), path, err)
			}
		}
		if examples == 0 {
			t.Errorf("'ganglion %s --help' shows no example:\n%s", path, cmd.Example)
		}
	})
}

// TestCommandsThatPrintTablesHaveJSON lists the commands by hand, because nothing in
// the code marks a command that prints tables.
func TestCommandsThatPrintTablesHaveJSON(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"members", "ring", "sessions", "rebalance-sessions", "verify", "groups", "processors", "processor verify", "relays", "intakes", "wakes", "bench"} {
		if flags(t, command)["json"] == nil {
			t.Errorf("%s has no --json", command)
		}
	}
}

// TestEveryLimitHasDocumentedFlag sets all flags of limits and looks for them in
// gateway.Limits and in the documentation.
func TestEveryLimitHasDocumentedFlag(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	var given gateway.Limits
	set := pflag.NewFlagSet("limits", pflag.ContinueOnError)
	limitFlags(set, &given)
	given = gateway.Limits{} // a flag's default is no evidence that the flag sets the field
	var args []string
	set.VisitAll(func(f *pflag.Flag) {
		args = append(args, "--"+f.Name, map[bool]string{true: "7s", false: "7"}[f.Value.Type() == "duration"])
		if !strings.Contains(string(docs), "\n| `--"+f.Name+"` |") {
			t.Errorf("docs/limits.md does not explain --%s", f.Name)
		}
	})
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	limits := reflect.ValueOf(given)
	for i := range limits.NumField() {
		if limits.Field(i).IsZero() {
			t.Errorf("no flag sets %s", limits.Type().Field(i).Name)
		}
	}
}

func TestSurplusCountsSessionsBeyondShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		open    []int
		percent float64
		want    []int
	}{
		{[]int{1000, 1000, 0}, 5, []int{50, 50, 0}},
		{[]int{1000, 1000, 0}, 100, []int{333, 333, 0}},
		{[]int{10, 9, 9}, 100, []int{0, 0, 0}}, // cannot be more even
		{[]int{3, 0}, 1, []int{1, 0}},
		{[]int{0, 0}, 5, []int{0, 0}},
		{[]int{7}, 5, []int{0}},
	} {
		list := make([]tally, len(c.open))
		for i, n := range c.open {
			list[i].Open = n
		}
		if got := surplus(list, c.percent); !slices.Equal(got, c.want) {
			t.Errorf("of %v at most %v %%: got %v, want %v", c.open, c.percent, got, c.want)
		}
	}
}

func TestErrorIsPrintedAsOneSentence(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("eventstore: postgres: can't connect:\n\thost a: refused\n\thost b: refused\n"), "can't connect: host a: refused; host b: refused"},
		{errors.Join(errors.New("gateway: this is wrong"), errors.New("that too")), "this is wrong; that too"},
		{errors.New("n4 is not a member of this cluster: n1, n2"), "n4 is not a member of this cluster: n1, n2"},
		{errors.New("plain"), "plain"},
	} {
		if got := sentence(c.err); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestUsageErrorNamesHelpToRead(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"":                                    "'ganglion --help'",
		"nosuch":                              "'ganglion --help'",
		"memberz":                             `unknown command "memberz": did you mean "members"?`,
		"nodde --rolez x":                     `unknown command "nodde": did you mean "node"?`,
		"config":                              "a command is missing: check",
		"gen tz":                              `did you mean "ts"?`,
		"dev --nodez 3":                       `unknown flag --nodez: did you mean "nodes"? (see 'ganglion dev --help'`,
		"dev --nodes x":                       `--nodes does not accept "x": invalid syntax`,
		"dev --nodes":                         "needs an argument",
		"dev 3":                               `unexpected argument "3"`,
		"node --rolez x":                      "'ganglion node --help'",
		"node --roles gateway,boss":           `--roles does not accept "gateway,boss": it must be domain or gateway`,
		"node":                                "--store is missing",
		"owner":                               "AGGREGATE is missing (see 'ganglion owner --help'",
		"export --store x --resume --after 1": "[after resume]",
		"revoke --client a --everybody":       "--jwt-revocations is missing",
		"sessions --kick a --kick-client b":   "[kick kick-client]",
		"events --stream a/1 --category b":    "[stream category all]",
		"log accept-loss --stor x":            "'ganglion log accept-loss --help'",
		"--log-level wow":                     "it must be debug or info or warn or error (see 'ganglion --help'",
		"completion sh":                       "it must be bash or zsh or fish",
	} {
		var usage usageError
		if _, err := parsed(t, "", strings.Fields(args)...); !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("ganglion %s: %v does not mention %s", args, err, want)
		}
	}
}

func TestInvalidNodeURLIsRejected(t *testing.T) {
	t.Parallel()
	for _, wrong := range []string{"", "here", "127.0.0.1:8080", "localhost:8080", "ftp://host", "http://", ":", "ws://host"} {
		var usage usageError
		if _, err := nodeURL(wrong); !errors.As(err, &usage) || !strings.Contains(err.Error(), "http://HOST:PORT") {
			t.Errorf("%q: %v does not show a valid URL", wrong, err)
		}
	}
	if base, err := nodeURL("https://host:1/under/"); base != "https://host:1/under" || err != nil {
		t.Errorf("got %q, %v", base, err)
	}
}

func TestMembersShowsStateOfEachLink(t *testing.T) {
	t.Parallel()
	status := node.ClusterStatus{Node: "n1", Links: []router.LinkStatus{
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

func TestMembersListsProblemsBelowTable(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := printMembers(&out, node.ClusterStatus{
		Node: "n1",
		Members: []node.MemberStatus{
			{ID: "n1", State: "ready", Roles: []string{"domain"}, Version: "v1.2.3", AgeSeconds: 90_061},
			{ID: "n2", State: node.NotReady, Problem: "the log went back", Roles: []string{"domain"}, AgeSeconds: 59},
			{ID: "n4", State: "ready", Problem: "its database stores nothing", Roles: []string{"domain"}},
		},
		Lost: []node.LostMember{{ID: "n3", Roles: []string{"gateway"}, Version: "v1.2.2", LostSeconds: 185}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`^n1 +ready +domain .* 1d1h +v1\.2\.3 `, `^n2 +not-ready +domain .* 59s +- `, `^n3 +lost +gateway .* v1\.2\.2 `,
		`^n2 is not ready: the log went back$`, `^n4: its database stores nothing$`, `^n3 is lost: n1 last heard from it 3m5s ago`,
	} {
		if !regexp.MustCompile(`(?m)` + want).MatchString(out.String()) {
			t.Errorf("the output lacks %s:\n%s", want, out.String())
		}
	}
}

// TestRingReportMatchesRingOfNode computes plans for a ring of three members.
func TestRingReportMatchesRingOfNode(t *testing.T) {
	t.Parallel()
	owners := ring.New([]string{"n1", "n2", "n3"})
	status := node.ClusterStatus{Node: "n1", Ring: node.RingStatus{Signature: node.RingSignature(owners), Partitions: ring.Partitions}}
	for _, id := range owners.Members() {
		status.Members = append(status.Members, node.MemberStatus{ID: id, State: "ready", Roles: []string{"domain"}})
	}
	status.Members = append(status.Members,
		node.MemberStatus{ID: "g1", State: "ready", Roles: []string{"gateway"}},
		node.MemberStatus{ID: "n4", State: "draining", Roles: []string{"domain"}})

	report, err := ringCmd{Join: []string{"n5"}, Leave: []string{"n2"}}.report(status)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := report.write(&text); err != nil {
		t.Fatal(err)
	}
	then := ring.New([]string{"n1", "n3", "n5"})
	for _, o := range report.Plan.Owners {
		if o.Partitions != then.Counts()[o.Member] {
			t.Errorf("%s would own %d partitions, want %d", o.Member, o.Partitions, then.Counts()[o.Member])
		}
	}
	if len(report.Owners) != 3 || len(report.Plan.Owners) != 3 || report.Plan.Moved < owners.Counts()["n2"] || strings.Count(text.String(), "\n") != 7 {
		t.Errorf("the report is %+v\n%s", report, text.String())
	}

	for want, c := range map[string]ringCmd{
		"g1 owns no partitions": {Leave: []string{"g1"}},
		"n4 owns no partitions": {Leave: []string{"n4"}},
		"n1 already owns":       {Join: []string{"n1"}},
	} {
		if _, err := c.report(status); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want '%s'", c, err, want)
		}
	}
	status.Ring.Signature = "0000000000000001"
	if _, err := (ringCmd{}).report(status); err == nil || !strings.Contains(err.Error(), "retry") {
		t.Errorf("another ring: %v", err)
	}
}

// TestHelpNamesTheProgramThatEmbeds checks that no help of another program tells its
// users to call ganglion.
func TestHelpNamesTheProgramThatEmbeds(t *testing.T) {
	t.Parallel()
	root := newRoot(newProgram(&domain.Catalog, Options{Name: "diner", Pages: http.NotFoundHandler()}))
	calls := regexp.MustCompile("(^|[ `'\"(])ganglion [a-z]")
	each(root, func(cmd *cobra.Command) {
		if !strings.HasPrefix(cmd.CommandPath(), "diner") {
			t.Errorf("a command is %q", cmd.CommandPath())
		}
		help := cmd.Short + "\n" + cmd.Long + "\n" + cmd.Example + "\n" + cmd.LocalFlags().FlagUsages()
		for line := range strings.Lines(help) {
			if calls.MatchString(line) {
				t.Errorf("%s --help: %s", cmd.CommandPath(), line)
			}
		}
	})
	if dev, _, err := root.Find([]string{"dev"}); err != nil || dev.Flag("data").DefValue != "./diner-data" {
		t.Errorf("dev keeps its log in %v, %v", dev.Flag("data").DefValue, err)
	}
	if node, _, err := root.Find([]string{"node"}); err != nil || node.Flag("examples") != nil {
		t.Errorf("a program with pages of its own has --examples: %v", err)
	}
}

func TestProgramsOwnAuthenticatorIsTheDefault(t *testing.T) {
	t.Parallel()
	own := gateway.Development()
	for args, want := range map[string]gateway.Authenticator{"": own, "--auth=program": own, "--auth=dev": nil} {
		p := newProgram(&domain.Catalog, Options{Auth: own})
		var c nodeCmd
		cmd := &cobra.Command{Use: "node"}
		c.addTo(cmd, p)
		if err := cmd.ParseFlags(append(strings.Fields(args), "--store=there")); err != nil {
			t.Fatal(err)
		}
		config, _, err := c.configure(t.Context(), p, slog.New(slog.DiscardHandler))
		if err != nil || config.Auth != want {
			t.Errorf("%q: Auth is %v, want %v; %v", args, config.Auth, want, err)
		}
	}
	var c nodeCmd
	if err := func() error {
		cmd := &cobra.Command{Use: "node"}
		c.addTo(cmd, newProgram(&domain.Catalog, Options{Auth: own}))
		if err := cmd.ParseFlags([]string{"--jwt-issuer=there"}); err != nil {
			return err
		}
		_, err := c.authenticator(t.Context(), slog.New(slog.DiscardHandler))
		return err
	}(); err == nil {
		t.Error("a setting of tokens without --auth jwt is accepted")
	}
}

func TestConsumersAndClientsNeedTheGatewayRole(t *testing.T) {
	t.Parallel()
	p := newProgram(&domain.Catalog, Options{Consumers: []node.Consumer{{}}, Clients: func(node.Clients) {}})
	for roles, want := range map[string]bool{"domain": false, "gateway": true, "domain,gateway": true} {
		var c nodeCmd
		cmd := &cobra.Command{Use: "node"}
		c.addTo(cmd, p)
		if err := cmd.ParseFlags([]string{"--store=there", "--roles=" + roles}); err != nil {
			t.Fatal(err)
		}
		config, _, err := c.configure(t.Context(), p, slog.New(slog.DiscardHandler))
		if got := config.Clients != nil && len(config.Consumers) == 1; err != nil || got != want {
			t.Errorf("roles %s: has consumers and clients: %v, %v", roles, got, err)
		}
	}
}
