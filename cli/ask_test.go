package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

func init() { completeTimeout = time.Minute } // a busy machine needs more than a person waits

// devNode runs a node in development mode with an empty log, and returns its URL.
func devNode(t *testing.T) (url, data string) {
	t.Helper()
	data = t.TempDir()
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: &domain.Catalog, Listen: "127.0.0.1:0", Store: data, Ready: ready}, 1)
	})
	return urls[0], data
}

// ask runs a command line, and returns what it prints.
func ask(t *testing.T, p *program, in string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	root := newRoot(p)
	root.SetIn(strings.NewReader(in))
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

const openLamp = `{"item":"lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}`

// sold opens auction/42, bids twice and closes it.
func sold(t *testing.T, url string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bid.json")
	if err := os.WriteFile(file, []byte(`{"amount":1500}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ client, in, command string }{
		{"ada", openLamp, "open -"},
		{"bob", "", "bid @" + file},
		{"cy", "", `bid {"amount":1600}`},
		{"ada", "", "close"},
	} {
		args := append([]string{"send", "auction/42"}, strings.Fields(s.command)...)
		if _, err := ask(t, testProgram(), s.in, append(args, "--url", url, "--token", "dev:"+s.client)...); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
}

func TestSendPrintsVersionAndRejection(t *testing.T) {
	t.Parallel()
	url, _ := devNode(t)
	send := func(args ...string) (string, error) {
		return ask(t, testProgram(), "", append([]string{"send", "--url", url, "--token", "dev:ada"}, args...)...)
	}
	for range 2 {
		if out, err := send("auction/1", "open", openLamp, "--key", "k"); err != nil || !strings.HasPrefix(out, "auction/1 is at version 1, position 1") {
			t.Errorf("%q, %v", out, err)
		}
	}
	out, err := send("auction/1", "open", openLamp, "--key", "k", "--json")
	var got sent
	if jsonErr := json.Unmarshal([]byte(out), &got); err != nil || jsonErr != nil || !got.Replayed || got.Stream != "auction/1" || got.Version != 1 || got.Key != "k" {
		t.Errorf("%q, %v", out, err)
	}
	for want, args := range map[string][]string{
		"rejected: own_auction: sellers may not bid": {"auction/1", "bid", `{"amount":1500}`},
		"conflict: ":                 {"auction/1", "close", "--expect", "7"},
		"not_found: ":                {"auction/1", "bidd"},
		"bad_request: data.amount":   {"auction/1", "bid", `{"amount":"much"}`},
		"unauthenticated: ":          {"auction/1", "close", "--token", "what"},
		"DATA is not JSON":           {"auction/1", "bid", "{amount:1}"},
		"can't read DATA: ":          {"auction/1", "bid", "@missing.json"},
		"does not name an aggregate": {"auction", "bid"},
	} {
		if out, err := send(args...); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "may have been executed") || out != "" {
			t.Errorf("%v: %v, want %q; it prints %q", args, err, want, out)
		}
	}
}

func TestNextGatewayIsAskedIfOneDoesNotAnswer(t *testing.T) {
	t.Parallel()
	const down, off = "http://127.0.0.1:1", "http://127.0.0.1:2"
	url, _ := devNode(t)
	urls := []string{"--url", down, "--url", off + "," + url}
	for _, args := range [][]string{
		{"send", "auction/1", "open", openLamp, "--token", "dev:ada"},
		{"get", "auction/1"},
		{"query", "open_auctions"},
		{"events", "--all"},
	} {
		if out, err := ask(t, testProgram(), "", append(args, urls...)...); err != nil || out == "" {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
	stranger := newProgram(&aggregate.Catalog{}, Options{}) // knows only what the node says
	if out, err := ask(t, stranger, "", slices.Concat([]string{"__complete", "query"}, urls, []string{""})...); err != nil || !strings.Contains(out, "open_auctions\n") {
		t.Errorf("completions: %q, %v", out, err)
	}
	for _, args := range [][]string{{"send", "auction/1", "bid"}, {"get", "auction/1"}, {"query", "open_auctions", "--follow"}, {"events", "--all"}} {
		_, err := ask(t, testProgram(), "", append(args, "--url", down, "--url", off)...)
		if err == nil || !strings.Contains(err.Error(), "no node answers at "+down+": ") || !strings.Contains(err.Error(), "no node answers at "+off+": ") ||
			strings.Contains(err.Error(), "may have been executed") {
			t.Errorf("%v without a gateway: %v", args, err)
		}
	}
	if _, err := ask(t, testProgram(), "", "get", "auction/1", "--url", url, "--url", "8081"); err == nil || !strings.Contains(err.Error(), `--url "8081" is not a URL of a node`) {
		t.Errorf("with a wrong URL: %v", err)
	}
	if _, err := ask(t, testProgram(), "", "get", "auction/1", "--url="); err == nil || !strings.Contains(err.Error(), "--url is empty") {
		t.Errorf("without a URL: %v", err)
	}
}

func TestGetPrintsStateAtVersion(t *testing.T) {
	t.Parallel()
	url, _ := devNode(t)
	sold(t, url)
	get := func(args ...string) (string, error) {
		return ask(t, testProgram(), "", append([]string{"get", "auction/42", "--url", url}, args...)...)
	}
	out, err := get()
	// The notification of the outbid client may be stored before the auction is closed.
	if err != nil || !regexp.MustCompile(`^auction/42 at version 4, position [45]\n{\n`).MatchString(out) || !strings.Contains(out, `"closed": true`) {
		t.Errorf("%s%v", out, err)
	}
	newest, err := get("--json", "--strong")
	if err != nil {
		t.Fatal(err)
	}
	if made, err := get("--json", "--at", "4"); err != nil || made != newest {
		t.Errorf("%v; made of its events the state is\n%s, and the node has\n%s", err, made, newest)
	}
	if out, err := get("--json", "--at", "2"); err != nil || !strings.Contains(out, `"bids":1`) || !strings.Contains(out, `"position":2`) {
		t.Errorf("%s%v", out, err)
	}
	if out, err := get("--at", "0"); err != nil || !strings.Contains(out, `"seller": ""`) {
		t.Errorf("%s%v", out, err)
	}
	if _, err := get("--at", "5"); err == nil || !strings.Contains(err.Error(), "--at 5 is past the newest version of auction/42, 4") {
		t.Error(err)
	}
	stranger := newProgram(&aggregate.Catalog{}, Options{})
	if _, err := ask(t, stranger, "", "get", "auction/42", "--at", "1", "--url", url); err == nil || !strings.Contains(err.Error(), `no aggregates of type "auction"`) {
		t.Error(err)
	}
}

// TestEventsShowStateAfterEach compares the states that the command makes of the
// events in a log, of a gateway's stream, and of all aggregates.
func TestEventsShowStateAfterEach(t *testing.T) {
	t.Parallel()
	url, data := devNode(t)
	sold(t, url)
	for range 3 {
		if _, err := ask(t, testProgram(), "", "send", "counter/a", "add", `{"by":2}`, "--url", url); err != nil {
			t.Fatal(err)
		}
	}
	list := func(args ...string) (lines []line) {
		t.Helper()
		out, err := ask(t, testProgram(), "", append([]string{"events", "--with-state"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(out) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, l)
		}
		return lines
	}
	all := list("--all", "--url", url)
	if len(all) != 7 || !slices.IsSortedFunc(all, func(a, b line) int { return int(a.Position) - int(b.Position) }) {
		t.Errorf("--all prints %+v", all)
	}
	if last := all[len(all)-1]; last.Stream != "counter/a" || string(last.State) != `{"value":6}` {
		t.Errorf("the last event is %+v, state %s", last, last.State)
	}
	later := list("--stream", "auction/42", "--after", "2", "--url", url)
	stored := list("--store", data, "--stream", "auction/42", "--after", "2")
	if len(later) != 2 || len(stored) != 2 {
		t.Fatalf("after version 2: %+v, %+v", later, stored)
	}
	for i, l := range later {
		if string(l.State) != string(all[i+2].State) || string(stored[i].State) != string(l.State) || len(l.State) == 0 {
			t.Errorf("version %d: %s, %s and %s", l.Version, l.State, stored[i].State, all[i+2].State)
		}
	}
}

func TestFollowedEventsOfAllTypesArrive(t *testing.T) {
	t.Parallel()
	url, _ := devNode(t)
	sold(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	root := newRoot(testProgram())
	root.SetOut(in)
	root.SetArgs([]string{"events", "--all", "--follow", "--with-state", "--url", url})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx); in.Close() }()
	lines := json.NewDecoder(out)
	next := func(stream string) {
		t.Helper()
		var l line
		if err := lines.Decode(&l); err != nil || l.Stream != stream || len(l.State) == 0 {
			t.Errorf("the next event is %+v, %v; want one of %s", l, err, stream)
		}
	}
	for range 4 {
		next("auction/42")
	}
	for _, stream := range []string{"counter/a", "counter/b"} {
		if _, err := ask(t, testProgram(), "", "send", stream, "add", `{"by":1}`, "--url", url); err != nil {
			t.Fatal(err)
		}
		next(stream)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestQueryPrintsRows(t *testing.T) {
	t.Parallel()
	url, _ := devNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	root := newRoot(testProgram())
	root.SetOut(in)
	root.SetArgs([]string{"query", "open_auctions", "--follow", "--json", "--url", url})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx); in.Close() }()
	results := json.NewDecoder(out)
	until := func(rows int) result { // a live query may yield any number of earlier results
		t.Helper()
		for {
			var r result
			if err := results.Decode(&r); err != nil {
				t.Fatal(err)
			}
			if len(r.Rows) == rows {
				return r
			}
		}
	}
	until(0)
	if _, err := ask(t, testProgram(), "", "send", "auction/42", "open", openLamp, "--url", url, "--token", "dev:ada"); err != nil {
		t.Fatal(err)
	}
	if r := until(1); r.Rows[0].Key != "42" || !strings.Contains(string(r.Rows[0].Data), `"price":1000`) {
		t.Errorf("the row is %+v", r)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}

	query := func(args ...string) (string, error) {
		return ask(t, testProgram(), "", append([]string{"query", "--url", url}, args...)...)
	}
	table, err := query("open_auctions", `{"budget":1000}`)
	if err != nil || !strings.HasPrefix(table, "KEY   ITEM   PRICE   CLOSES_AT") || !strings.Contains(table, "\n42    lamp   1000    2099-01-01") ||
		!strings.HasSuffix(table, "1 row at position 1\n") {
		t.Errorf("%s%v", table, err)
	}
	if out, err := query("open_auctions", `{"budget":1}`); err != nil || out != "no rows at position 1\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := query("opened"); err == nil || !strings.Contains(err.Error(), "not_found: ") {
		t.Error(err)
	}
	if _, err := query("open_auctions", `{"budjet":1}`); err == nil || !strings.Contains(err.Error(), "bad_request: ") {
		t.Error(err)
	}
}

func TestTableKeepsRowsOnOneLine(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	err := writeTable(&out, []row{
		{Key: "a", Data: json.RawMessage(`{"text":"two\nlines\u001b[2J","tags":["x","y"]}`)},
		{Key: "b", Data: json.RawMessage(`{"other":null}`)},
	})
	want := "KEY   TEXT            TAGS        OTHER\na     two lines [2J   [\"x\",\"y\"]   -\nb     -               -           null\n"
	if err != nil || out.String() != want {
		t.Errorf("%v\n%q, want\n%q", err, out.String(), want)
	}
}

func TestShellCompletesNamesOfContract(t *testing.T) {
	t.Parallel()
	url, _ := devNode(t)
	var stranger aggregate.Catalog
	for want, args := range map[string][]string{
		"auction/\nclient/\ncounter/\ntopic/\n:6": {"send", ""},
		"bid\nclose\nopen\n:4":                    {"send", "auction/42", ""},
		":0":                                      {"send", "auction/42", "bid", ""},
		"auction\nclient\ncounter\ntopic\n:4":     {"events", "--category", ""},
		"bids_of\nopen_auctions\n:4":              {"query", ""},
	} {
		for _, p := range []*program{testProgram(), newProgram(&stranger, Options{})} {
			line := append([]string{"__complete"}, args...)
			if p.catalog == &stranger { // knows only what the node says
				line = append([]string{"__complete", args[0], "--url", url}, args[1:]...)
			}
			out, err := ask(t, p, "", line...)
			if err != nil || !strings.HasPrefix(out, want+"\n") {
				t.Errorf("%v: %q, %v; want %q", line, out, err, want)
			}
		}
	}
	if err := errors.Join(stranger.Err()); err != nil {
		t.Error(err)
	}
}
