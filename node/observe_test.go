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

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// ended are the spans that have ended.
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

func TestACommandIsOneTraceFromFrameToDelivery(t *testing.T) {
	t.Parallel()
	spans := make(ended, 1000)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan string, 2), make(chan error, 1)
	go func() {
		done <- RunDev(ctx, Config{
			Catalog: &domain.Catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Tracing: provider,
			Suspect: 10 * time.Second, // a busy machine must not make the router send the command to another node as well
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
	// An aggregate that the asked gateway does not own: the command has to hop.
	// Until the nodes have found each other, each owns everything.
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
	send("unsampled", "00-"+trace+"-"+frame+"-00") // takes no span
	send("sampled", "00-"+trace+"-"+frame+"-01")

	// One after another for the first three; then each gateway's delivery.
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
				t.Errorf("%s lies below %s, want %s", c.name, got, want)
			}
			if node := attributeOf(s, "ganglion.node"); !strings.Contains(c.nodes, node) || attributeOf(s, "ganglion.stream") != aggregate {
				t.Errorf("%s was taken on %s of %s", c.name, node, attributeOf(s, "ganglion.stream"))
			}
		}
		if len(byName[c.name]) != len(strings.Fields(c.nodes)) {
			t.Errorf("%s was taken %d times", c.name, len(byName[c.name]))
		}
	}
}

func TestTracingCostsNothingWhileItIsOff(t *testing.T) {
	o := newObserver("n1", nil)
	const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	executor := observedExecutor{answering{}, o}
	c, reply := command.Command{Trace: traceparent}, func(command.Outcome) {}
	if n := testing.AllocsPerRun(100, func() { executor.Submit(c, reply) }); n > 0 {
		t.Errorf("executing a command allocates %v times", n)
	}
}

// answering is an executor that answers at once, and wants a command's trace
// as it came.
type answering struct{}

func (answering) Submit(c command.Command, reply func(command.Outcome)) {
	if c.Trace != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
		panic("the trace was changed")
	}
	reply(command.Outcome{})
}

func (answering) Get(context.Context, command.Get) (command.State, error) {
	return command.State{}, nil
}

func TestTheLogLevelChangesWhileANodeRuns(t *testing.T) {
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
	if code, _ := ask("GET", "/debug/pprof/goroutine?debug=1", ""); code != 200 {
		t.Errorf("profiles answer %d", code)
	}
	for given, want := range map[string]string{":6060": "127.0.0.1:6060", "10.0.0.1:6060": "10.0.0.1:6060"} {
		if got := adminAddr(given); got != want {
			t.Errorf("%s listens on %s", given, got)
		}
	}
}

func TestStoreIsUpAgainAMinuteAfterItsLastRefusal(t *testing.T) {
	t.Parallel()
	var (
		s      storeHealth
		now    = time.Unix(1_000_000, 0)
		full   = fmt.Errorf("%w: no space left on device", eventstore.ErrUnavailable)
		none   = eventstore.Appended{Commands: []eventstore.Place{{Version: 1}}}
		one    = eventstore.Appended{Commands: []eventstore.Place{{Version: 1}, {Version: 2, Position: 7}}}
		states = []struct {
			what string
			do   func()
			up   bool
		}{
			{"at first", func() {}, true},
			{"an append is refused", func() { s.appended(none, full, now) }, false},
			{"it answers questions", func() { s.checked(nil) }, false},
			{"an append finds a conflict, which stores nothing", func() { s.appended(none, &eventstore.ConflictError{}, now) }, false},
			{"an append without events succeeds", func() { s.appended(none, nil, now) }, false},
			{"an append with events succeeds", func() { s.appended(one, nil, now) }, true},
			{"an append's fate is unknown", func() { s.appended(none, eventstore.ErrUnknown, now) }, false},
			{"half a minute without appends", func() { now = now.Add(refusedFor / 2) }, false},
			{"a minute", func() { now = now.Add(refusedFor / 2) }, true},
			{"it is silent", func() { s.checked(full) }, false},
			{"a minute more", func() { now = now.Add(refusedFor) }, false},
			{"the log went back, which the store has answered", func() { s.checked(eventstore.ErrWentBack) }, true},
		}
	)
	for _, step := range states {
		step.do()
		if got := s.up(now); got != step.up {
			t.Errorf("%s: up is %v", step.what, got)
		}
	}
}

// appends is a store that answers appends with an error, or with none.
type appends struct {
	eventstore.Store
	err error
}

func (a appends) Append(context.Context, eventstore.Unit) (eventstore.Appended, error) {
	return eventstore.Appended{}, a.err
}

func TestAppendsThatAnOutageRefusedAreNotMeasured(t *testing.T) {
	t.Parallel()
	o := newObserver("n1", nil)
	for _, err := range []error{
		nil, &eventstore.ConflictError{}, // the database has answered both
		fmt.Errorf("%w: no space left on device", eventstore.ErrUnavailable), eventstore.ErrUnknown,
	} {
		_, _ = observedStore{appends{err: err}, o}.Append(t.Context(), eventstore.Unit{})
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(o.appends)
	measured, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if n := measured[0].Metric[0].Histogram.GetSampleCount(); n != 2 {
		t.Errorf("%d of four appends are measured, want the 2 that the database answered", n)
	}
}
