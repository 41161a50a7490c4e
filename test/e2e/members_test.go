package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestMembersShowLostAndUnreadyNodes kills, restarts and stops the only domain
// node. Each time ganglion members, the metrics and the log of a gateway show how
// the node ended, and that the other gateway is not ready.
func TestMembersShowLostAndUnreadyNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, database(t), []string{"domain", "gateway", "gateway"})
	gateway := c.members[1]
	shown := func(what string, lines ...string) {
		t.Helper()
		harness.Eventually(t, what, func() error {
			out, errs, code := call(t, "members", "--url", gateway.URLs[0])
			for _, line := range lines {
				if code != 0 || !regexp.MustCompile(`(?m)^`+line).MatchString(out) {
					return fmt.Errorf("no line %s in:\n%s%s", line, out, errs)
				}
			}
			return nil
		})
	}
	lost := func(want float64) {
		t.Helper()
		if got := gauge(t, gateway.URLs[0], "ganglion_members_lost"); got != want {
			t.Errorf("ganglion_members_lost is %v, want %v", got, want)
		}
	}
	shown("all nodes serve", `n1 +ready `, `n2 +ready `, `n3 +ready `)
	lost(0)

	if first, _, _ := strings.Cut(gateway.Output(), "\n"); !regexp.MustCompile(`msg=starting node=n2 version=\S`).MatchString(first) {
		t.Errorf("the first log line does not name the node and its version: %s", first)
	}

	c.members[0].Kill()
	shown("a lost owner", `n1 +lost +domain `, `n1 is lost: n2 last heard from it `, `n2 +not-ready `,
		`n3 +not-ready `, `n3 is not ready: no ready domain node is in sight`)
	lost(1)
	if !regexp.MustCompile(`level=WARN msg="member gone".* member=n1 .*left=false`).MatchString(gateway.Output()) {
		t.Errorf("the log has no warning of the loss:\n%s", gateway.Output())
	}

	out, errs, code := call(t, "members", "--json", "--url", gateway.URLs[0])
	var status node.ClusterStatus
	if err := json.Unmarshal([]byte(out), &status); code != 0 || err != nil {
		t.Fatalf("members --json: exit %d, %v\n%s", code, err, errs)
	}
	if len(status.Lost) != 1 || status.Lost[0].ID != "n1" || status.Lost[0].Version != status.Version {
		t.Errorf("lost members are %+v", status.Lost)
	}
	if len(status.Members) != 2 {
		t.Fatalf("members are %+v", status.Members)
	}
	for _, m := range status.Members {
		if m.State != node.NotReady || m.Problem == "" || m.Version != status.Version {
			t.Errorf("%s is %+v", m.ID, m)
		}
	}

	c.start(0)
	shown("the owner is back", `n1 +ready `, `n2 +ready `, `n3 +ready `)
	lost(0)
	c.members[0].Signal(syscall.SIGTERM)
	harness.Eventually(t, "the owner has left", func() error {
		if !regexp.MustCompile(`level=INFO msg="member gone".* member=n1 .*left=true`).MatchString(gateway.Output()) {
			return errors.New(gateway.Output())
		}
		return nil
	})
	if out, _, _ := call(t, "members", "--url", gateway.URLs[0]); strings.Contains(out, "lost") {
		t.Errorf("a node that left is shown as lost:\n%s", out)
	}
	lost(0)
}
