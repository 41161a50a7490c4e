package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestSessionsMoveToANewGateway adds a gateway to a cluster whose links have
// certificates. An operator then rebalances the sessions, and closes those of a
// client.
func TestSessionsMoveToANewGateway(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	must(t, "certs", "--dir", dir, "--node", "n1", "--node", "n2", "--node", "operator")
	tlsOf := func(name string) []string {
		return []string{
			"--peer-tls-cert", filepath.Join(dir, name+".pem"), "--peer-tls-key", filepath.Join(dir, name+".key"), "--peer-tls-ca", filepath.Join(dir, "ca.pem"),
		}
	}
	c := startCluster(t, database(t), []string{""}, tlsOf("{node}")...)
	const all = 20
	type parting struct {
		goodbye string // its reason
		code    websocket.StatusCode
	}
	partings := make(chan parting, all)
	var readers sync.WaitGroup
	t.Cleanup(readers.Wait)
	for range all {
		s := dial(t, c.urls()[0])
		s.send(`{"op":"hello","id":"1","client":"ada"}`)
		s.until("welcome")
		readers.Go(func() {
			var p parting
			for {
				_, message, err := s.conn.Read(t.Context())
				if err != nil {
					p.code = websocket.CloseStatus(err)
					partings <- p
					return
				}
				if _, goodbye, ok := strings.Cut(string(message), `"op":"goodbye","reason":"`); ok {
					p.goodbye, _, _ = strings.Cut(goodbye, `"`)
				}
			}
		})
	}
	operator := append(tlsOf("operator"), "--url", c.urls()[0])
	if out, _ := must(t, append([]string{"rebalance-sessions"}, operator...)...); !strings.HasPrefix(out, "no session needs to move") {
		t.Errorf("with one gateway: %s", out)
	}

	c.start(c.add("gateway"))
	c.settled()
	// members prints the sessions of each member, "-" while they are unknown.
	spread := func(n1, n2 int) {
		t.Helper()
		harness.Eventually(t, "the sessions are spread as expected", func() error {
			out, _ := must(t, "members", "--url", c.urls()[1])
			lines := strings.Split(out, "\n")
			if len(lines) < 3 || !strings.Contains(lines[0], "SESSIONS") {
				return errors.New(out)
			}
			for i, want := range []int{n1, n2} {
				if fields := strings.Fields(lines[1+i]); len(fields) < 5 || fields[4] != fmt.Sprint(want) {
					return fmt.Errorf("want %d and %d:\n%s", n1, n2, out)
				}
			}
			return nil
		})
	}
	spread(all, 0)

	must(t, append([]string{"rebalance-sessions", "--dry-run"}, operator...)...)
	spread(all, 0)
	// n1 has ten sessions more than its share, but may move only 25 % of its twenty.
	out, _ := must(t, append([]string{"rebalance-sessions", "--percent", "25"}, operator...)...)
	if fields := strings.Fields(out); strings.Join(fields[len(fields)-6:], " ") != "n1 20 5 n2 0 0" {
		t.Errorf("it prints %s", out)
	}
	for range 5 {
		if p := <-partings; p.goodbye != "rebalancing" || p.code != 1012 {
			t.Errorf("a session ended with %+v, want a goodbye for rebalancing and 1012", p)
		}
	}
	var eve []*raw
	for range 2 {
		s := dial(t, c.urls()[1])
		s.send(`{"op":"hello","id":"1","client":"eve"}`)
		s.until("welcome")
		eve = append(eve, s)
	}
	spread(all-5, 2)

	must(t, append([]string{"sessions", "--kick-client", "eve"}, operator...)...)
	for _, s := range eve {
		if code := s.closed(); code != 4004 {
			t.Errorf("closed by an operator with %d, want 4004", code)
		}
	}
	spread(all-5, 0)
	if out, _ := must(t, append([]string{"sessions", "--slow", "3"}, operator...)...); strings.Join(strings.Fields(out), " ") != "MEMBER SESSIONS SLOW n1 15 0 n2 0 0" {
		t.Errorf("it prints\n%s", out)
	}

	other := filepath.Join(t.TempDir(), "certs")
	must(t, "certs", "--dir", other, "--node", "operator")
	stranger := []string{
		"--peer-tls-cert", filepath.Join(other, "operator.pem"), "--peer-tls-key", filepath.Join(other, "operator.key"), "--peer-tls-ca", filepath.Join(other, "ca.pem"),
	}
	for who, flags := range map[string][]string{"an operator of another authority": stranger, "an operator without a certificate": nil} {
		args := append([]string{"sessions", "--kick-client", "ada", "--url", c.urls()[0]}, flags...)
		if out, errs, code := call(t, args...); code != 1 || !strings.Contains(errs, "files of the same authority") {
			t.Errorf("%s may ask (exit %d): %s%s", who, code, out, errs)
		}
	}
	spread(all-5, 0)
}
