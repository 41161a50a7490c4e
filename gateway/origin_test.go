package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway"
)

// TestPagesOfAllowedOriginsMayUseHTTP asks as a browser does, before and with
// a request.
func TestPagesOfAllowedOriginsMayUseHTTP(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(func(c *gateway.Config) { c.Origins = []string{"app.example"} })
	ask := func(method, path string, header ...string) (int, http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, n.url+path, strings.NewReader(`{"aggregate":"counter/a","command":"add","data":{"by":1}}`))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := oneShot.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	const page = "https://app.example"

	status, h := ask("OPTIONS", "/v1/commands", "Origin", page, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,content-type")
	if status != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != page || h.Get("Access-Control-Allow-Methods") != "POST" ||
		h.Get("Access-Control-Allow-Headers") != "authorization,content-type" || h.Get("Access-Control-Max-Age") != "600" {
		t.Errorf("a preflight: got %d %v", status, h)
	}
	if status, h = ask("OPTIONS", "/v1/commands", "Origin", page, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "cookie"); h.Get("Access-Control-Allow-Headers") != "" {
		t.Errorf("a preflight for another header: got %d %v", status, h)
	}
	if status, h = ask("OPTIONS", "/v1/commands", "Origin", page, "Access-Control-Request-Method", "DELETE"); h.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("a preflight for another method: got %d %v", status, h)
	}
	if status, h = ask("OPTIONS", "/v1/commands", "Origin", "https://evil.example", "Access-Control-Request-Method", "POST"); status != http.StatusForbidden || h.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a preflight from elsewhere: got %d %v", status, h)
	}

	status, h = ask("POST", "/v1/commands", "Origin", page, "Authorization", "Bearer dev:ada")
	if status != http.StatusOK || h.Get("Access-Control-Allow-Origin") != page || !strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin") ||
		!strings.Contains(h.Get("Access-Control-Expose-Headers"), "Ganglion-Cursor") {
		t.Errorf("a command: got %d %v", status, h)
	}
	if _, ok := h["Access-Control-Allow-Credentials"]; ok {
		t.Errorf("credentials that a browser adds by itself are allowed: %v", h)
	}
	if status, h = ask("POST", "/v1/commands", "Origin", page); status != http.StatusUnauthorized || h.Get("Access-Control-Allow-Origin") != page {
		t.Errorf("the page may not read why it was refused: got %d %v", status, h)
	}
	before, _ := n.w.store.Head(t.Context())
	for _, origin := range []string{"https://evil.example", "null"} {
		if status, h = ask("POST", "/v1/commands", "Origin", origin, "Authorization", "Bearer dev:ada"); status != http.StatusForbidden || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("a command from %s: got %d %v", origin, status, h)
		}
	}
	if after, _ := n.w.store.Head(t.Context()); after != before {
		t.Error("a command from elsewhere was carried out")
	}
}
