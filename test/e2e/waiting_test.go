package e2e

import (
	"net"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// startAlone starts a node without waiting until it is ready, and returns its URL.
func startAlone(t *testing.T, store string, extra ...string) (*harness.Node, string) {
	t.Helper()
	listen := harness.FreeAddress(t)
	return harness.Spawn(t, binary, append([]string{
		"node", "--name", "n1", "--store", store, "--listen", listen, "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0",
	}, extra...)...), "http://" + listen
}

// TestStartingNodeWaitsForItsDatabase starts a node before its database.
func TestStartingNodeWaitsForItsDatabase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	store := server.URL("postgres")
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	n, url := startAlone(t, store)
	readyz(t, url, 503, "can't connect")
	resp, err := harness.HTTP.Get(url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("healthz of a waiting node returns %s", resp.Status)
	}
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	readyz(t, url, 200, "ready")
	if !n.Running() {
		t.Error("the node has ended")
	}
}

// TestStartingNodeGivesUpAfterStoreWait starts a node whose database resets every
// connection. With --store-wait 10s it exits.
func TestStartingNodeGivesUpAfterStoreWait(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}()
	n, url := startAlone(t, "postgres://u@"+l.Addr().String()+"/db?sslmode=disable", "--store-wait", "10s")
	readyz(t, url, 503, "waiting for the database")
	if code := n.Wait(); code != 1 {
		t.Errorf("the node exits with status %d, want 1", code)
	}
	if out := n.Output(); !strings.Contains(out, "the database could not be opened within 10s") {
		t.Errorf("the log lacks the reason for the exit: %s", out)
	}
}

// TestStartingNodeReportsMisconfigurationPromptly starts nodes whose database
// server runs and refuses them. They exit instead of waiting for the 5 minutes of
// --store-wait.
func TestStartingNodeReportsMisconfigurationPromptly(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for what, c := range map[string]struct{ store, text string }{
		"a database that does not exist": {server.URL("missing"), "create the database"},
		"a role that does not exist":     {strings.Replace(server.URL("postgres"), "postgres@", "stranger@", 1), "check the role"},
	} {
		n, _ := startAlone(t, c.store)
		if code := n.Wait(); code != 1 {
			t.Errorf("%s: the node exits with status %d, want 1", what, code)
		}
		if out := n.Output(); !strings.Contains(out, c.text) {
			t.Errorf("%s: the log lacks %q: %s", what, c.text, out)
		}
	}
}
