package cli

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestCollectorReceivesAllSpansOfCommand exports spans as --trace-endpoint does, to
// a receiver that accepts OTLP only.
func TestCollectorReceivesAllSpansOfCommand(t *testing.T) {
	t.Parallel()
	received := make(chan *otlp.ResourceSpans, 100)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", r.URL.Path, r.Header.Get("Content-Type"), err)
		}
		for _, spans := range request.ResourceSpans {
			received <- spans
		}
		w.Header().Set("Content-Type", "application/x-protobuf") // an empty answer accepts all spans
	}))
	defer endpoint.Close()
	provider, err := tracingFlags{TraceEndpoint: endpoint.URL, TraceRatio: 1}.provider(t.Context(), "ganglion", "n1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}

	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return runTraced(ctx, provider, func(ctx context.Context) error {
			return node.RunDev(ctx, node.Config{Catalog: &domain.Catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Tracing: provider, Ready: ready}, 1)
		})
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, urls[0]+"/v1/commands", strings.NewReader(`{"aggregate":"counter/traced","command":"add","data":{"by":1}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer dev:ada")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}

	byName := map[string]*otlp.Span{}
	for len(byName) < 4 {
		select {
		case spans := <-received:
			resource := map[string]string{}
			for _, a := range spans.Resource.Attributes {
				resource[a.Key] = a.Value.GetStringValue()
			}
			if resource["service.name"] != "ganglion" || resource["service.instance.id"] != "n1" {
				t.Errorf("spans of %v", resource)
			}
			for _, scope := range spans.ScopeSpans {
				for _, s := range scope.Spans {
					byName[s.Name] = s
				}
			}
		case <-time.After(50 * time.Millisecond): // the exporter would wait 5 s
			if err := provider.ForceFlush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, parent := range map[string]string{"command": "", "execute": "command", "append": "execute", "deliver": "execute"} {
		s, above := byName[name], byName[parent]
		if s == nil {
			t.Fatalf("the span %s is missing: %v", name, byName)
		}
		if string(s.ParentSpanId) != string(above.GetSpanId()) || string(s.TraceId) != string(byName["command"].TraceId) {
			t.Errorf("%s has the parent %x in the trace %x", name, s.ParentSpanId, s.TraceId)
		}
		if s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s ended before it began", name)
		}
	}
}
