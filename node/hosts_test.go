package node

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/gateway"
)

// everybody authenticates like Development, but has another type.
type everybody struct{ gateway.Authenticator }

// runNode runs a node with an embedded store until the test ends, and returns the
// URLs for clients and operators.
func runNode(t *testing.T, cfg Config) (client, admin string) {
	t.Helper()
	ready := make(chan string, 1)
	cfg.Catalog, cfg.Name, cfg.Store = &domain.Catalog, "n1", t.TempDir()
	cfg.Listen, cfg.PeerListen, cfg.GossipListen, cfg.AdminListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Ready = func(url string) { ready <- url }
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	n, err := newNode(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case client = <-ready:
	case <-time.After(time.Minute):
		t.Fatal("the node is not ready after a minute")
	}
	return client, "http://" + n.admin.Addr().String()
}

func TestDevelopmentModeRejectsForeignHosts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg    Config
		strict bool
	}{
		"development":       {Config{Origins: []string{"app.example", "https://*.shop.example"}}, true},
		"an authentication": {Config{Auth: everybody{gateway.Development()}, Origins: []string{"app.example"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, admin := runNode(t, c.cfg)
			for host, good := range map[string]bool{
				"": true, "localhost:8080": true, "LOCALHOST": true, "localhost.": true, "app.localhost:1": true, "127.0.0.1:8080": true,
				"192.168.1.4:8080": true, "[::1]:8080": true, "[fe80::1]": true, "app.example": true, "app.example:8080": true,
				"de.shop.example": true, "evil.example": false, "evil.example:8080": false, "127.0.0.1.evil.example": false,
				"localhost.evil.example": false, "notlocalhost": false, "2130706433.example": false,
			} {
				for _, url := range []string{
					client + "/v1/aggregates/auction/1", client + "/v1/ws", client + "/v1/cluster", client + "/metrics", client + "/healthz", client + "/page",
					admin + "/log-level", admin + "/debug/pprof/",
				} {
					status, body := getAs(t, url, host)
					refused := status == http.StatusForbidden && strings.Contains(body, "--origins")
					if want := c.strict && !good; refused != want {
						t.Errorf("%s as %q: got %d %.100s", url, host, status, body)
					}
				}
			}
		})
	}
}

func getAs(t *testing.T, url, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	req.Close = true // so no connection outlives the test
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
