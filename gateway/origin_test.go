package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway"
)

// TestPagesOfAllowedOriginsMayUseHTTP sends a browser's preflight and its
// request.
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
		t.Error("a command of a foreign page was executed")
	}
}

// logging returns a node and the lines of its log.
func (w *world) logging(change ...func(*gateway.Config)) (*node, *logged) {
	lines := &logged{}
	return w.node(append(change, func(c *gateway.Config) { c.Logger = lines.logger(slog.LevelInfo) })...), lines
}

// ask sends a request as it is given, but with \n for the ends of lines.
func (n *node) ask(request string) (status int, body string) {
	n.w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.w.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		n.w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		n.w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestRefusedOriginNamesBothValues(t *testing.T) {
	t.Parallel()
	n, lines := newWorld(t).logging(func(c *gateway.Config) { c.Origins = []string{"app.example"} })
	for range 3 {
		status, body := n.ask("GET /v1/ws HTTP/1.1\nHost: 10.0.0.7:8080\nOrigin: https://shop.example\nConnection: Upgrade\nUpgrade: websocket\n" +
			"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n")
		if status != http.StatusForbidden {
			t.Errorf("got %d", status)
		}
		for _, part := range []string{"https://shop.example", "10.0.0.7:8080", "--origins", "proxy_set_header Host $http_host"} {
			if !strings.Contains(body, part) {
				t.Errorf("the answer does not name %s: %s", part, body)
			}
		}
	}
	said := lines.String()
	if strings.Count(said, "level=WARN") != 1 {
		t.Errorf("three refusals left the lines\n%s", said)
	}
	for _, part := range []string{"origin=https://shop.example", "host=10.0.0.7:8080", "origins=[app.example]", "proxy_set_header Host $http_host"} {
		if !strings.Contains(said, part) {
			t.Errorf("the log does not name %s:\n%s", part, said)
		}
	}
}

// nginx passes neither header unless configured, and speaks HTTP/1.0.
func TestRefusedUpgradeNamesTheDroppedHeaders(t *testing.T) {
	t.Parallel()
	const key = "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n"
	for name, c := range map[string]struct{ request, upgrade, connection, protocol string }{
		"both dropped, HTTP/1.0": {"GET /v1/ws HTTP/1.0\nHost: gw\nConnection: close\n" + key, "", "close", "HTTP/1.0"},
		"Upgrade dropped":        {"GET /v1/ws HTTP/1.1\nHost: gw\nConnection: upgrade\n" + key, "", "upgrade", "HTTP/1.1"},
		"Connection dropped":     {"GET /v1/ws HTTP/1.1\nHost: gw\nUpgrade: websocket\n" + key, "websocket", "", "HTTP/1.1"},
		"HTTP/1.0":               {"GET /v1/ws HTTP/1.0\nHost: gw\nUpgrade: websocket\nConnection: upgrade\n" + key, "websocket", "upgrade", "HTTP/1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, lines := newWorld(t).logging()
			for range 3 {
				status, body := n.ask(c.request)
				if status != http.StatusUpgradeRequired {
					t.Errorf("got %d", status)
				}
				for _, part := range []string{
					fmt.Sprintf(`came over %s with Upgrade: \"%s\" and Connection: \"%s\"`, c.protocol, c.upgrade, c.connection),
					"proxy_set_header Upgrade $http_upgrade", "proxy_http_version 1.1",
				} {
					if !strings.Contains(body, part) {
						t.Errorf("the answer does not say %s: %s", part, body)
					}
				}
			}
			said := lines.String()
			if strings.Count(said, "level=WARN") != 1 || !strings.Contains(said, "proxy_set_header Upgrade $http_upgrade") ||
				!strings.Contains(said, fmt.Sprintf("upgrade=%s connection=%s protocol=%s", orQuotes(c.upgrade), orQuotes(c.connection), c.protocol)) {
				t.Errorf("three refusals left the lines\n%s", said)
			}
		})
	}
}

// orQuotes returns a value as slog writes it.
func orQuotes(s string) string {
	if s == "" {
		return `""`
	}
	return s
}
