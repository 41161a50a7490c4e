package gateway_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// logged keeps the lines of a log.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

// panickingCatalog is a catalog whose code panics: the rules for the id boom, the
// rule for the category counter, and the upcaster of form 3.
type panickingCatalog struct{ catalog }

func (panickingCatalog) MaySend(_ string, claims map[string]any, _, id, _ string) bool {
	return id != "boom" || claims["role"].(string) == "admin"
}

func (panickingCatalog) MayRead(_ string, claims map[string]any, _, id string) bool {
	return id != "boom" || claims["role"].(string) == "admin"
}

func (panickingCatalog) MayReadAll(_ string, claims map[string]any, typ string) bool {
	return typ != "counter" || claims["role"].(string) == "admin"
}

func (b panickingCatalog) Show(typ, event string, form int, data json.RawMessage) (json.RawMessage, error) {
	if form == 3 {
		panic("boom in an upcaster")
	}
	return b.catalog.Show(typ, event, form, data)
}

func TestPanickingRulesDenyAccess(t *testing.T) {
	t.Parallel()
	var log logged
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Catalog, c.Logger = panickingCatalog{}, log.logger(slog.LevelInfo) })
	c := n.join("ada")
	for range 3 {
		c.send(`{"op":"command","id":"1","aggregate":"counter/boom","command":"add","data":{"by":1}}`)
		c.wantFault("1", command.CodeForbidden)
		c.send(`{"op":"get","id":"2","aggregate":"counter/boom"}`)
		c.wantFault("2", command.CodeForbidden)
		c.send(`{"op":"subscribe","id":"3","stream":"counter/boom"}`)
		c.wantFault("3", command.CodeForbidden)
		c.send(`{"op":"subscribe","id":"4","category":"counter"}`)
		c.wantFault("4", command.CodeForbidden)
		for _, path := range []string{"/v1/aggregates/counter/boom", "/v1/streams/counter/boom/events", "/v1/categories/counter/events"} {
			if status, body := n.do("GET", path, "ada", ""); status != http.StatusForbidden {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
	}
	c.send(`{"op":"command","id":"5","aggregate":"counter/a","command":"add","data":{"by":1}}`)
	want[frame.Result](c)
	text := log.String()
	if got := strings.Count(text, "application code panicked"); got != 3 || !strings.Contains(text, "guard_test.go") {
		t.Errorf("panics were logged %d times, want each of 3 places once, with a stack:\n%s", got, text)
	}
}

func TestPanickingUpcasterEndsItsSubscriptionOnly(t *testing.T) {
	t.Parallel()
	var log logged
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Catalog, c.Logger = panickingCatalog{}, log.logger(slog.LevelInfo) })
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"a","stream":"counter/a","after":0}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	w.append(eventstore.StreamID{Type: "counter", ID: "a"}, eventstore.Event{Type: "added", Form: 3, Data: []byte(`{}`)})
	if f := want[frame.Unsubscribed](c); f.Sub != "a" || f.Code != command.CodeUnavailable || f.Cursor != "0" {
		t.Errorf("got %s", f.Append(nil))
	}
	c.send(`{"op":"subscribe","id":"b","stream":"counter/b","after":0}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	w.add("counter/b", 1)
	c.wantEvents("b", 1)
	if text := log.String(); strings.Count(text, "application code panicked") != 1 || !strings.Contains(text, "guard_test.go") {
		t.Errorf("the log does not name the panic once:\n%s", text)
	}
}

// panickingAuth is an Authenticator that panics for some tokens. For others it
// returns an error whose Error method panics.
type panickingAuth struct{ gateway.Authenticator }

type panickingError struct{ text string }

func (e *panickingError) Error() string { return e.text }

func (j panickingAuth) Token(ctx context.Context, token string) (gateway.Identity, error) {
	switch token {
	case "dev:boom":
		panic("boom in Auth")
	case "dev:textless":
		var e *panickingError
		return gateway.Identity{Client: "admin"}, e
	}
	return j.Authenticator.Token(ctx, token)
}

func (panickingAuth) Revoked(id gateway.Identity) error {
	if id.Client == "eve" {
		panic("boom in Revoked")
	}
	return nil
}

func (panickingAuth) Revocations() <-chan struct{} { panic("boom in Revocations") }

func TestPanickingAuthenticatorRejectsEveryClient(t *testing.T) {
	t.Parallel()
	var log logged
	n := newWorld(t).node(func(c *gateway.Config) { c.Auth, c.Logger = panickingAuth{c.Auth}, log.logger(slog.LevelInfo) })
	for _, token := range []string{"dev:boom", "dev:textless"} {
		c := n.dial()
		c.sendf(`{"op":"hello","id":"h","token":%q}`, token)
		c.wantFault("h", command.CodeUnavailable)
		c.wantClose(frame.CloseLost)
		if status, body := n.do("GET", "/v1/aggregates/counter/a", strings.TrimPrefix(token, "dev:"), ""); status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", token, status, body)
		}
	}
	c := n.dial()
	c.send(`{"op":"hello","id":"h","token":"dev:eve"}`)
	c.wantClose(frame.CloseUnauthenticated)
	n.join("ada")
	for _, place := range []string{"Config.Auth.Token", "Config.Auth.Revoked", "Config.Auth.Revocations"} {
		waitFor(t, func() bool { return strings.Contains(log.String(), "in="+place+" ") }) // Revocations is called by a goroutine of the gateway
		if text := log.String(); strings.Count(text, "in="+place+" ") != 1 {
			t.Errorf("the log does not name %s once:\n%s", place, text)
		}
	}
}

func TestDebugLevelShowsEachCommandsOutcomeOnce(t *testing.T) {
	t.Parallel()
	var log logged
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Logger = log.logger(slog.LevelDebug) })
	c := n.join("ada")
	c.send(`{"op":"command","id":"1","aggregate":"counter/a","command":"add","key":"k1","data":{"by":1}}`)
	want[frame.Result](c)
	c.send(`{"op":"command","id":"2","aggregate":"counter/a","command":"fail","key":"k2","data":{}}`)
	c.wantFault("2", command.CodeRejected)
	c.send(`{"op":"command","id":"3","aggregate":"counter/a","command":"add","key":"k3","data":{"ammount":1}}`)
	c.wantFault("3", command.CodeBadRequest)
	if status, body := n.do("POST", "/v1/commands", "bob", `{"aggregate":"counter/a","command":"add","key":"k4","data":{"by":1}}`); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	text := log.String()
	for key, says := range map[string][]string{
		"k1": {"stream=counter/a", "command=add", "client=ada", "outcome=granted", "version=1", "duration="},
		"k2": {"command=fail", "outcome=rejected", "reason=zero"},
		"k3": {"outcome=bad_request"},
		"k4": {"client=bob", "outcome=granted", "version=2"},
	} {
		line := ""
		for l := range strings.Lines(text) {
			if strings.Contains(l, "key="+key+" ") {
				line += l
			}
		}
		if strings.Count(line, "\n") != 1 {
			t.Errorf("key %s has these lines:\n%s", key, line)
		}
		for _, say := range says {
			if !strings.Contains(line, say) {
				t.Errorf("the line of %s lacks %q: %s", key, say, line)
			}
		}
	}
}
