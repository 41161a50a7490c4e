package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ganglion-es/ganglion/domain"
)

// ended receives ended spans.
type ended chan sdktrace.ReadOnlySpan

func (ended) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (e ended) OnEnd(s sdktrace.ReadOnlySpan)                 { e <- s }
func (ended) Shutdown(context.Context) error                  { return nil }
func (ended) ForceFlush(context.Context) error                { return nil }

func attributeOf(s sdktrace.ReadOnlySpan, name string) string {
	for _, a := range s.Attributes() {
		if string(a.Key) == name {
			return a.Value.AsString()
		}
	}
	return ""
}

func TestCommandHasOneTraceFromFrameToDelivery(t *testing.T) {
	t.Parallel()
	spans := make(ended, 1000)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan string, 2), make(chan error, 1)
	go func() {
		done <- RunDev(ctx, Config{
			Catalog: &domain.Catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Tracing: provider,
			Suspect: 10 * time.Second, // or a busy machine would make the router try another node too
			Ready:   func(url string) { ready <- url },
		}, 2)
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var urls [2]string
	for i := range urls {
		select {
		case urls[i] = <-ready:
		case err := <-done:
			done <- nil
			t.Fatal(err)
		}
	}
	get := func(url string, body any) {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(body); err != nil {
			t.Fatal(err)
		}
	}
	// Find an aggregate that the asked gateway does not own, so that the command is
	// forwarded. Until the nodes have found each other, each owns everything.
	aggregate, owner := "", ""
	for i := 0; owner != "dev2"; i++ {
		aggregate = fmt.Sprintf("counter/traced-%d", i)
		var status ClusterStatus
		get(urls[0]+"/v1/cluster?aggregate="+aggregate, &status)
		owner = status.Owner.Member
	}
	const trace, frame = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	send := func(key, traceparent string) {
		t.Helper()
		body := fmt.Sprintf(`{"aggregate":%q,"command":"add","data":{"by":1},"key":%q,"trace":%q}`, aggregate, key, traceparent)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, urls[0]+"/v1/commands", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer dev:ada")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			t.Fatalf("status %d: %s", resp.StatusCode, answer)
		}
	}
	send("unsampled", "00-"+trace+"-"+frame+"-00") // gets no span
	send("sampled", "00-"+trace+"-"+frame+"-01")

	// The first three spans end one after another, then each gateway's delivery.
	byName := map[string][]sdktrace.ReadOnlySpan{}
	for len(byName["command"]) == 0 || len(byName["deliver"]) < 2 {
		select {
		case s := <-spans:
			byName[s.Name()] = append(byName[s.Name()], s)
			if s.SpanContext().TraceID().String() != trace {
				t.Errorf("%s is of trace %s", s.Name(), s.SpanContext().TraceID())
			}
		case <-t.Context().Done():
			t.Fatalf("spans are missing: got %v", byName)
		}
	}
	for _, c := range []struct{ name, parent, nodes string }{
		{"command", "", "dev1"}, {"execute", "command", "dev2"}, {"append", "execute", "dev2"}, {"deliver", "execute", "dev1 dev2"},
	} {
		want := frame
		if c.parent != "" {
			want = byName[c.parent][0].SpanContext().SpanID().String()
		}
		for _, s := range byName[c.name] {
			if got := s.Parent().SpanID().String(); got != want {
				t.Errorf("%s has the parent %s, want %s", c.name, got, want)
			}
			if node := attributeOf(s, "ganglion.node"); !strings.Contains(c.nodes, node) || attributeOf(s, "ganglion.stream") != aggregate {
				t.Errorf("%s is a span of %s about %s", c.name, node, attributeOf(s, "ganglion.stream"))
			}
		}
		if len(byName[c.name]) != len(strings.Fields(c.nodes)) {
			t.Errorf("%s has %d spans", c.name, len(byName[c.name]))
		}
	}
}

func TestLogLevelChangesAtRunTime(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	level := new(slog.LevelVar)
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
	handler := adminHandler(level, log)
	ask := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	log.Debug("before")
	for _, c := range []struct {
		method, body string
		code         int
		says         string
	}{
		{"GET", "", 200, "info"},
		{"PUT", "wow", 400, "write debug, info, warn or error"},
		{"PUT", "debug\n", 200, "debug"},
		{"GET", "", 200, "debug"},
	} {
		if code, text := ask(c.method, "/log-level", c.body); code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s %q: %d %s", c.method, c.body, code, text)
		}
	}
	log.Debug("after")
	if logged := out.String(); strings.Contains(logged, "before") || !strings.Contains(logged, "after") {
		t.Errorf("logged: %s", logged)
	}
	for _, c := range []struct {
		path string
		code int
		says string
	}{
		{"/debug/pprof/", 200, "goroutine "},
		{"/debug/pprof/goroutine?debug=1", 200, "goroutine profile: total"},
		{"/debug/pprof/heap?gc=1", 200, "\x1f\x8b"}, // gzip
		{"/debug/pprof/profile?seconds=0.05", 200, "\x1f\x8b"},
		{"/debug/pprof/trace?seconds=0.01", 200, "go 1."},
		{"/debug/pprof/trace?seconds=-1", 400, "write a number up to 600"},
		{"/debug/pprof/profile?seconds=1h", 400, "write a number up to 600"},
		{"/debug/pprof/heap?debug=yes", 400, "debug is a number"},
		{"/debug/pprof/wow", 404, "/debug/pprof/ lists them"},
	} {
		if code, text := ask("GET", c.path, ""); code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%s: %d %.100q", c.path, code, text)
		}
	}
	for given, want := range map[string]string{":6060": "127.0.0.1:6060", "10.0.0.1:6060": "10.0.0.1:6060"} {
		if got := adminAddr(given); got != want {
			t.Errorf("%s listens on %s", given, got)
		}
	}
}
