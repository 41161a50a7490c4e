package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/node/trust"
)

// TestInvalidPeerFilesAreConfigError matters to supervisors: they do not restart a
// process after a ConfigError, and would restart it forever after another error.
func TestInvalidPeerFilesAreConfigError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := trust.MakeCerts(dir, []string{"n1"}); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Config{
		Name: "n1", Store: t.TempDir(), Catalog: new(aggregate.Catalog), Domain: true,
		PeerTLS: trust.PeerTLS{Cert: empty, Key: filepath.Join(dir, "n1.key"), CA: filepath.Join(dir, "ca.pem")},
		Listen:  "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
	})
	if wrong := new(ConfigError); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "failed to find any PEM data") || strings.Count(err.Error(), "ganglion: ") != 1 {
		t.Errorf("got %v", err)
	}
}

func TestAdvertisedHostCanBeRoute(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{"": "", "n1.example": "n1.example", "route:127.0.0.1": "127.0.0.1", "route:localhost": "127.0.0.1"} {
		if got, err := advertisedHost(host); err != nil || got != want && got != "::1" {
			t.Errorf("%q is advertised as %q: %v", host, got, err)
		}
	}
	if _, err := advertisedHost("route:no.such.host.invalid"); err == nil || !strings.Contains(err.Error(), "no route to no.such.host.invalid") {
		t.Errorf("an unknown name: %v", err)
	}
}
