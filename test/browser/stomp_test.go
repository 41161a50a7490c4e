package browser

import (
	_ "embed"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

//go:embed stomp.html
var stompPage []byte

// TestSTOMPClientsOfNpmWork plays the scenarios of test/stomp/js, which that package
// plays in Node: stompjs, rx-stomp and webstomp-client.
func TestSTOMPClientsOfNpmWork(t *testing.T) {
	t.Parallel()
	const bundle = "../stomp/js/build/clients.js"
	if _, err := os.Stat(bundle); err != nil {
		t.Fatal("the clients are not built: run scripts/stomp-js.sh")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(stompPage) })
	mux.HandleFunc("GET /clients.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, bundle) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	node := harness.Start(t, binary, 1, "node", "--name", "stomp", "--store", t.TempDir(), "--heartbeat", "1s", "--origins", "127.0.0.1:*",
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")

	query := url.Values{"url": {harness.WS(node.URLs[0]) + "/v1/stomp"}, "login": {"ada"}}
	p := open(t, server.URL+"/?"+query.Encode())
	p.until("window.failures")
	for _, failure := range value[[]string](p, "failures") {
		t.Error(failure)
	}
}
