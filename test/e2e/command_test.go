package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/test/harness"
)

// call runs a ganglion command to its end, without a time limit, since the
// machine may be busy.
func call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestMistakesAreReportedInOneLine runs commands with wrong arguments or in a
// wrong environment. Each prints one clear sentence on standard error.
func TestMistakesAreReportedInOneLine(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // after the subtests, which run in parallel
	future := database(t)
	fromTheFuture(t, future)
	secret := "hunter2"
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("too short"), 0o600); err != nil {
		t.Fatal(err)
	}
	const data = "DATA" // stands for a folder of the case
	node := func(args ...string) []string {
		return append([]string{"node", "--name", "n", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0"}, args...)
	}

	for _, c := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"an unknown flag", []string{"dev", "--nodez", "3"}, 2, "--nodez"},
		{"an unknown command", []string{"nodde"}, 2, "nodde"},
		{"no command", nil, 2, "a command is missing"},
		{"no store", node(), 2, "--store"},
		{"nodes that are not a number", []string{"dev", "--nodes", "three"}, 2, "nodes"},
		{"no nodes", []string{"dev", "--nodes", "0"}, 2, "--nodes"},
		{"an unknown role", node("--store", data, "--roles", "leader"), 2, "roles"},
		{"an unreachable database", node("--store-wait", "0", "--store", "postgres://u:"+secret+"@127.0.0.1:1/db"), 1, "database"},
		{"an unknown kind of store", node("--store", "mysql://localhost/db"), 1, "neither a postgres:// URL nor a folder"},
		{"a taken port for clients", []string{"dev", "--listen", taken.Addr().String(), "--data", data}, 1, "address already in use"},
		{"a taken port for links", node("--store", data, "--peer-listen", taken.Addr().String()), 1, "address already in use"},
		{"a taken port for gossip", node("--store", data, "--gossip-listen", taken.Addr().String()), 1, "address already in use"},
		{"an invalid address", node("--store", data, "--listen", "here"), 2, "HOST:PORT"},
		{"more nodes than ports", []string{"dev", "--listen", "127.0.0.1:65535", "--nodes", "2", "--data", data}, 2, "no ports for 2 nodes"},
		{"an invalid log level", []string{"dev", "--log-level", "loud", "--data", data}, 2, "debug"},
		{"a schema from the future", node("--store", future), 1, "newer than this program"},
		{"open links to the world", node("--store", data, "--peer-listen", ":0"), 2, "--insecure-peers"},
		{"open gossip to the world", node("--store", data, "--gossip-listen", ":0"), 2, "GossipKeyFile (--gossip-key-file), or InsecurePeers (--insecure-peers)"},
		{"half of a certificate", node("--store", data, "--peer-tls-ca", key), 2, "go together"},
		{"a gossip key of the wrong size", node("--store", data, "--gossip-key-file", key), 2, "key: line 1 is not a gossip key of 32 bytes"},
		{"a missing key file", node("--store", data, "--gossip-key-file", key+"x"), 2, "can't read"},
		{"an invalid aggregate id", []string{"owner", "auction"}, 2, "type/id"},
		{"no node at the URL", []string{"members", "--url", "http://127.0.0.1:1"}, 1, "no node answers at http://127.0.0.1:1: "},
		{"no node at the address", []string{"healthcheck", "--listen", "127.0.0.1:1"}, 1, "no node answers"},
		{"an invalid URL", []string{"members", "--url", "127.0.0.1:8080"}, 2, "http://HOST:PORT"},
		{"no gateway at the URL", []string{"events", "--stream", "counter/a", "--follow", "--url", "http://127.0.0.1:1"}, 1, "no node answers"},
		{"events without a target", []string{"events"}, 2, "--stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for i, arg := range c.args {
				if arg == data {
					c.args[i] = t.TempDir()
				}
			}
			out, errs, code := call(t, c.args...)
			if code != c.code {
				t.Errorf("exit %d, want %d", code, c.code)
			}
			if line := strings.TrimSpace(errs); !strings.HasPrefix(line, "ganglion: ") || !strings.Contains(line, c.text) || strings.Contains(line, "\n") {
				t.Errorf("prints %q, want one line with %q", line, c.text)
			}
			for _, never := range []string{"goroutine ", "panic:", ".go:", secret} {
				if strings.Contains(out+errs, never) {
					t.Errorf("the output has %q:\n%s%s", never, out, errs)
				}
			}
		})
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// fromTheFuture gives a database the schema version of a newer Ganglion.
func fromTheFuture(t *testing.T, url string) {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "insert into schema_version (version_id, is_applied) values (999, true)"); err != nil {
		t.Fatal(err)
	}
}

// TestOneProcessPerStore checks that only one process at a time can write an
// embedded store, and that other processes can read it in the meantime.
func TestOneProcessPerStore(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	dev := harness.Start(t, binary, 3, "dev", "--nodes", "3", "--listen", "127.0.0.1:0", "--data", data)
	for _, writer := range [][]string{{"dev", "--listen", "127.0.0.1:0", "--data", data}, {"import", "--store", data, "-"}, {"log", "accept-loss", "--yes", "--store", data}} {
		_, errs, code := call(t, writer...)
		if code != 1 || !strings.Contains(errs, data) || !strings.Contains(errs, "another process") {
			t.Errorf("%s beside the store's process: exit %d, %q", writer[0], code, errs)
		}
	}

	ctx := t.Context()
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[0])}}
	defer client.Leave()
	for i := range 10 {
		if _, err := client.Do(ctx, "counter/a", "add", "k"+string(rune('0'+i)), map[string]int{"by": 1}); err != nil {
			t.Fatal(err)
		}
	}
	var members string
	harness.Eventually(t, "all members are ready", func() (err error) {
		var code int
		if members, _, code = call(t, "members", "--url", dev.URLs[1]); code != 0 || strings.Count(members, " ready ") != 3 {
			err = fmt.Errorf("exit %d\n%s", code, members)
		}
		return err
	})
	owner, _, code := call(t, "owner", "counter/a", "--url", dev.URLs[2])
	if code != 0 || !strings.Contains(members, strings.TrimSpace(owner)+" ") {
		t.Errorf("owner: exit %d, %q is no member", code, owner)
	}
	events, _, code := call(t, "events", "--stream", "counter/a", "--url", dev.URLs[1], "--after", "4")
	if code != 0 || strings.Count(events, "\n") != 6 {
		t.Errorf("events after 4 of 10: exit %d\n%s", code, events)
	}

	for text, reader := range map[string][]string{
		"10 events":     {"verify", "--store", data},
		`"end":10`:      {"export", "--store", data},
		`"position":10`: {"events", "--store", data},
	} {
		if out, errs := must(t, reader...); !strings.Contains(out, text) {
			t.Errorf("%s beside the store's process prints %q and %q", reader[0], out, errs)
		}
	}
	if _, err := client.Do(ctx, "counter/a", "add", "after", map[string]int{"by": 1}); err != nil {
		t.Errorf("after commands have read the store: %v", err)
	}

	dev.Signal(syscall.SIGTERM)
	if code := dev.Wait(); code != 0 {
		t.Errorf("after SIGTERM: exit %d", code)
	}
	out, errs, code := call(t, "verify", "--store", data)
	if code != 0 || !strings.Contains(out, "11 events") {
		t.Errorf("verify: exit %d, %q %q", code, out, errs)
	}
	out, errs, code = call(t, "events", "--store", data, "--category", "counter")
	if code != 0 || strings.Count(out, "\n") != 11 {
		t.Errorf("events: exit %d\n%s%s", code, out, errs)
	}
	for _, past := range [][]string{{"--cursor", "12"}, {"--stream", "counter/a", "--after", "12"}} {
		if _, errs, code = call(t, append([]string{"events", "--store", data}, past...)...); code != 1 || !strings.Contains(errs, "12 is past") {
			t.Errorf("events %v of 11: exit %d, %q", past, code, errs)
		}
	}
}

// TestNodesLogStartDrainAndStop checks the log of a cluster: it has the start, the
// drain and the stop of each node, one warning of development authentication for
// all nodes, and no failure for an orderly stop.
func TestNodesLogStartDrainAndStop(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 3, "dev", "--nodes", "3", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	dev.Signal(syscall.SIGTERM)
	if code := dev.Wait(); code != 0 {
		t.Errorf("after SIGTERM: exit %d", code)
	}
	for text, times := range map[string]int{"DEVELOPMENT AUTHENTICATION": 1, "msg=ready ": 3, "msg=draining ": 3, "msg=stopped ": 3} {
		if got := strings.Count(dev.Output(), text); got != times {
			t.Errorf("%q is logged %d times, want %d:\n%s", text, got, times, dev.Output())
		}
	}
	_, stop, _ := strings.Cut(dev.Output(), "msg=draining ")
	// A busy machine may let a probe fail, or a node pause for longer than it or its
	// peers wait. Neither is part of the stop.
	stop = regexp.MustCompile(`(?m)^.*(UDP probes failed|Refuting a|the peer was silent for too long|was paused).*$`).ReplaceAllString(stop, "")
	if failure := regexp.MustCompile(`(?m)^.*(level=WARN|level=ERROR|err(or)?=|left without confirmation|EOF).*$`).FindString(stop); failure != "" {
		t.Errorf("an orderly stop logs %q:\n%s", failure, dev.Output())
	}
}

// scrape returns the metrics of a node.
func scrape(t *testing.T, url string) string {
	t.Helper()
	resp, err := harness.HTTP.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// gauge returns the value of a metric.
func gauge(t *testing.T, url, name string) float64 {
	t.Helper()
	m := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(name) + " (.*)$").FindStringSubmatch(scrape(t, url))
	if m == nil {
		t.Fatalf("/metrics has no %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMetricsAreServedAndExplained checks the values of a node's metrics, and that
// docs/observe.md explains exactly the metrics that exist.
func TestMetricsAreServedAndExplained(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "dev.toml")
	away := "amqp://" + harness.FreeAddress(t) // no broker: the metrics exist all the same
	file := fmt.Sprintf("[[relay]]\nname = \"orders\"\nurl = %q\nexchange = \"events\"\n[[intake]]\nname = \"orders\"\nurl = %[1]q\nqueue = \"commands\"\n", away)
	if err := os.WriteFile(config, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := harness.Start(t, binary, 2, "dev", "--config", config, "--nodes", "2", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	harness.Eventually(t, "the first node shares the ring with the other one", func() error {
		s, err := harness.Status(dev.URLs[0])
		if err == nil && s.Ring.Owners != 2 {
			err = fmt.Errorf("it sees %d owners", s.Ring.Owners)
		}
		return err
	})
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[0])}}
	defer client.Leave()
	for i := range 20 { // each node owns some
		if _, err := client.Do(t.Context(), fmt.Sprint("counter/", i), "add", "k", map[string]int{"by": 1}); err != nil {
			t.Fatal(err)
		}
	}
	var body string
	harness.Eventually(t, "the nodes agree on the ring, and rows show the log", func() error {
		body = scrape(t, dev.URLs[0])
		if !regexp.MustCompile("(?m)^ganglion_cluster_ring_disagreements 0").MatchString(body) {
			return errors.New("they do not")
		}
		if !regexp.MustCompile(`(?m)^ganglion_projection_position{projection="listings",state="active"} 20$`).MatchString(body) {
			return errors.New("the rows of listings have not caught up")
		}
		return nil
	})
	for _, want := range []string{
		"ganglion_ready 1", "ganglion_sessions 1", "ganglion_commands_total 20", "ganglion_cluster_members 2", "go_goroutines [1-9]",
		"ganglion_host_commits_total [1-9]", `ganglion_commands_routed_total{way="local"} [1-9]`, `ganglion_commands_routed_total{way="forwarded"} [1-9]`,
		"ganglion_ring_changes_total [1-9]", `ganglion_link_up{member="[^"]+"} 1`, `ganglion_link_silence_seconds{member="[^"]+"} [0-9]`,
		"ganglion_feed_position [1-9]", `ganglion_state{state="ready"} 1`, `ganglion_state{state="drained"} 0`, "ganglion_store_up 1", "ganglion_store_database_bytes [1-9]", "ganglion_store_transaction_age 0",
		`ganglion_limit{limit="sessions"} 65536`, "ganglion_connections [1-9]",
		`ganglion_projection_builds{projection="listings",state="active"} 1`, `ganglion_projection_lag_events{projection="listings",state="active"} 0`,
	} {
		if !regexp.MustCompile("(?m)^" + want).MatchString(body) {
			t.Errorf("/metrics has no %q", want)
		}
	}

	docs, err := os.ReadFile("../../docs/observe.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(docs), "\n## Metrics\n")
	table, _, _ = strings.Cut(table, "\n## ")
	if !found {
		t.Fatal("docs/observe.md has no section 'Metrics'")
	}
	explained := regexp.MustCompile("`(ganglion_[a-z_]+)(\\{[a-z]+\\})?`").FindAllStringSubmatch(table, -1)
	have := regexp.MustCompile(`(?m)^# HELP (ganglion_[a-z_]+) \S`).FindAllStringSubmatch(body, -1)
	for _, metric := range have {
		if !slices.ContainsFunc(explained, func(e []string) bool { return e[1] == metric[1] }) {
			t.Errorf("docs/observe.md does not explain %s", metric[1])
		}
	}
	for _, metric := range explained {
		switch metric[1] {
		case "ganglion_certificate_expiry_timestamp_seconds", "ganglion_files_bad":
			continue // only nodes with secret files, such as certificates, have it
		case "ganglion_memory_projection_position", "ganglion_memory_projection_stopped":
			continue // this catalog has no projection in memory
		}
		if strings.HasPrefix(metric[1], "ganglion_group_") {
			continue // this catalog has no consumer group
		}
		if !slices.ContainsFunc(have, func(h []string) bool { return h[1] == metric[1] }) {
			t.Errorf("docs/observe.md explains %s, which is not in /metrics", metric[1])
		}
	}
}

// TestFollowedEventsSurviveGatewayRestart checks that `events --follow` prints new
// events once each, even after a restart of its gateway.
func TestFollowedEventsSurviveGatewayRestart(t *testing.T) {
	t.Parallel()
	listen, data := harness.FreeAddress(t), t.TempDir()
	start := func() *harness.Node {
		return harness.Start(t, binary, 1, "dev", "--listen", listen, "--data", data)
	}
	dev := start()
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(dev.URLs[0])}}
	defer client.Leave()
	added := 0
	add := func() {
		t.Helper()
		added++
		if _, err := client.Do(t.Context(), "counter/a", "add", fmt.Sprint("k", added), map[string]int{"by": added}); err != nil {
			t.Fatal(err)
		}
	}
	add()
	follow := harness.Spawn(t, binary, "events", "--category", "counter", "--cursor", "0", "--follow", "--url", dev.URLs[0])
	seen := func() {
		t.Helper()
		harness.Eventually(t, "events --follow", func() error {
			var want []string
			for by := range added {
				want = append(want, fmt.Sprintf(`"data":{"by":%d}`, by+1))
			}
			got := regexp.MustCompile(`"data":\{[^}]*\}`).FindAllString(follow.Output(), -1)
			if !slices.Equal(got, want) {
				return errors.New(follow.Output())
			}
			return nil
		})
	}
	seen()
	add()
	seen()
	dev.Signal(syscall.SIGTERM)
	if code := dev.Wait(); code != 0 {
		t.Errorf("the gateway after SIGTERM: exit %d", code)
	}
	start()
	add()
	seen()
	follow.Signal(syscall.SIGINT)
	if code := follow.Wait(); code != 0 {
		t.Errorf("after SIGINT: exit %d", code)
	}
	if got := strings.Count(follow.Output(), "lost the gateway"); got != 1 {
		t.Errorf("the loss of the gateway is reported %d times:\n%s", got, follow.Output())
	}
}

// TestFollowedQueryContinuesAtAnotherGateway kills the gateway that serves
// `query --follow`, which has the URLs of two.
func TestFollowedQueryContinuesAtAnotherGateway(t *testing.T) {
	t.Parallel()
	c := startCluster(t, database(t), []string{"domain", "gateway", "gateway"})
	first, second := c.members[1], c.members[2]
	follow := harness.Spawn(t, binary, "query", "open_auctions", "--follow", "--json", "--url", first.URLs[0], "--url", second.URLs[0])
	shows := func(rows int) {
		t.Helper()
		harness.Eventually(t, "query --follow", func() error {
			results := regexp.MustCompile(`(?m)^\{"position":.*`).FindAllString(follow.Output(), -1)
			if len(results) == 0 {
				return errors.New(follow.Output())
			}
			if got := strings.Count(results[len(results)-1], `"key":`); got != rows {
				return fmt.Errorf("it shows %d rows, want %d:\n%s", got, rows, follow.Output())
			}
			return nil
		})
	}
	open := func(id string, gateway member) {
		t.Helper()
		_, errs, code := call(t, "send", "auction/"+id, "open", `{"item":"lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}`, "--url", gateway.URLs[0])
		if code != 0 {
			t.Fatal(errs)
		}
	}
	open("1", first)
	shows(1)
	s, err := harness.Status(first.URLs[0])
	if err != nil {
		t.Fatal(err)
	}
	killed, other := first, second
	if s.Sessions == 0 {
		killed, other = second, first
	}
	killed.Kill()
	open("2", other)
	shows(2)
	if !follow.Running() || strings.Count(follow.Output(), "lost the gateway") != 1 {
		t.Errorf("it prints\n%s", follow.Output())
	}
}

// TestRunningNodeServesTheRepositoryContract checks that the documents that commands
// generate from a running gateway equal those of the repository.
func TestRunningNodeServesTheRepositoryContract(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	for document, args := range map[string][]string{
		"schema.json":   {"schema"},
		"asyncapi.yaml": {"schema", "--format", "asyncapi"},
		"contract.ts":   {"gen", "ts"},
	} {
		want, err := os.ReadFile(filepath.Join("../../domain/api", document))
		if err != nil {
			t.Fatal(err)
		}
		out, errs, code := call(t, append(args, "--url", dev.URLs[0])...)
		if code != 0 || out != string(want) {
			t.Errorf("%s: exit %d, %s; equal to domain/api/%s: %v", strings.Join(args, " "), code, errs, document, out == string(want))
		}
	}
	if _, errs, code := call(t, "schema", "--url", dev.URLs[0]+"/elsewhere"); code != 1 || !strings.Contains(errs, "404") {
		t.Errorf("without a gateway: exit %d, %s", code, errs)
	}
}
