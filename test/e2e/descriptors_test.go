package e2e

import (
	"errors"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestNodeReportsTooFewDescriptors starts a node that may open 80 files, and opens
// 100 connections to it.
func TestNodeReportsTooFewDescriptors(t *testing.T) {
	t.Parallel()
	n := harness.Start(t, "/bin/sh", 1, "-c", `ulimit -n 80 && exec "$0" "$@"`, binary,
		"node", "--name", "n1", "--store", t.TempDir(), "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
	if !regexp.MustCompile(`level=WARN msg="the process may open too few files for its limit of sessions: .*limit=80 needed=98560 max_sessions=65536`).MatchString(n.Output()) {
		t.Errorf("the log has no warning of too few descriptors:\n%s", n.Output())
	}
	var conns []net.Conn
	for range 100 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.URLs[0], "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	const warning = `level=WARN msg="connections of clients can't be accepted at the moment"`
	harness.Eventually(t, "failed accepts are logged", func() error {
		if !regexp.MustCompile(warning + `.*too many open files.*80 open files.*--max-sessions`).MatchString(n.Output()) {
			return errors.New(n.Output())
		}
		return nil
	})
	for _, conn := range conns {
		conn.Close()
	}
	harness.Eventually(t, "the node answers again", func() error {
		resp, err := http.Get(n.URLs[0] + "/readyz")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if lines := strings.Count(n.Output(), warning); lines > 40 {
		t.Errorf("%d lines of failed accepts, want at most 20 per minute", lines)
	}
}
