package cli

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	client "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain"
)

// hello is the first frame of a follower.
type hello struct {
	Op, ID, Log   string
	Subscriptions []struct{ ID, Category, Cursor string }
}

// scripted starts a server that answers the hello of each connection with the next
// message of a script, and then closes the connection. HELLO and SUB in a message
// stand for the ids of the hello and of its subscription. It returns the server's
// URL and the hellos.
func scripted(t *testing.T, code websocket.StatusCode, script ...string) (url string, hellos chan hello) {
	t.Helper()
	hellos = make(chan hello, len(script))
	next := make(chan string, len(script))
	for _, answers := range script {
		next <- answers
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"ganglion.v1"}})
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.CloseNow()
		_, text, err := conn.Read(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		var h hello
		if err := json.Unmarshal(text, &h); err != nil || len(h.Subscriptions) != 1 {
			t.Errorf("%s: %v", text, err)
			return
		}
		hellos <- h
		answer := strings.NewReplacer("HELLO", h.ID, "SUB", h.Subscriptions[0].ID).Replace(<-next)
		if err := conn.Write(r.Context(), websocket.MessageText, []byte(answer)); err != nil {
			t.Error(err)
		}
		conn.Close(code, "over")
	}))
	t.Cleanup(server.Close)
	return server.URL, hellos
}

func follow(t *testing.T, url string) error {
	t.Helper()
	command := eventsCmd{gatewayFlags: gatewayFlags{URLs: []string{url}, Token: "dev:operator"}, Category: "counter", Follow: true, catalog: &domain.Catalog}
	return command.fromGateway(t.Context(), encoder(io.Discard), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func TestFollowerReportsLostEvents(t *testing.T) {
	t.Parallel()
	url, hellos := scripted(t, 4200,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"subscribed","id":"SUB","cursor":"7"}`+"\n"+`{"op":"live","sub":"SUB","cursor":"7"}`,
		`{"op":"welcome","id":"HELLO","log":"L2"}`)
	err := follow(t, url)
	if err == nil || !strings.Contains(err.Error(), "cursor_ahead: the cursor belongs to another log than L2") {
		t.Errorf("ends with %v", err)
	}
	first, second := <-hellos, <-hellos
	if first.Log != "" || first.Subscriptions[0].Cursor != "0" {
		t.Errorf("the first hello is %+v", first)
	}
	if second.Log != "L1" || second.Subscriptions[0].Cursor != "7" {
		t.Errorf("the second hello is %+v, which does not let the gateway compare logs", second)
	}
}

func TestReconnectingFollowerSkipsNoEvent(t *testing.T) {
	t.Parallel()
	url, hellos := scripted(t, 4200,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"heartbeat","cursor":"900","behind":[{"sub":"SUB","cursor":"5"}]}`,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"unsubscribed","sub":"SUB","code":"forbidden","message":"enough"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("ends with %v", err)
	}
	<-hellos
	if second := <-hellos; second.Subscriptions[0].Cursor != "5" {
		t.Errorf("resumes at %s, but received events only up to 5", second.Subscriptions[0].Cursor)
	}
}

func TestFollowerGivesUpWhenTokenIsRejected(t *testing.T) {
	t.Parallel()
	url, _ := scripted(t, 4003, `{"op":"welcome","id":"HELLO","log":"L1"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "over (4003)") {
		t.Errorf("ends with %v", err)
	}
	url, hellos := scripted(t, 4001,
		`{"op":"welcome","id":"HELLO","log":"L1"}`, // the token expires
		`{"op":"error","id":"HELLO","code":"unauthenticated","message":"the token has expired","retry":"no"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "unauthenticated: the token has expired") {
		t.Errorf("ends with %v", err)
	}
	if len(hellos) != 2 {
		t.Errorf("it sent %d hellos", len(hellos))
	}
}

func TestUnknownCategoryIsAnErrorUnlessItWasServed(t *testing.T) {
	t.Parallel()
	const unknown = `{"op":"welcome","id":"HELLO","log":"L1"}` + "\n" + `{"op":"error","id":"SUB","code":"not_found","message":"there is no type counter","retry":"no"}`
	url, hellos := scripted(t, 1001, unknown)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "not_found: there is no type counter") {
		t.Errorf("ends with %v", err)
	}
	if len(hellos) != 1 {
		t.Errorf("it sent %d hellos", len(hellos))
	}
	url, hellos = scripted(t, 1001,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"subscribed","id":"SUB","cursor":"7"}`+"\n"+`{"op":"live","sub":"SUB","cursor":"7"}`,
		unknown, // from an older gateway, during an upgrade
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"unsubscribed","sub":"SUB","code":"forbidden","message":"enough"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("a follower that was served ends with %v", err)
	}
	if len(hellos) != 3 {
		t.Errorf("it sent %d hellos", len(hellos))
	}
}

func TestFollowerReconnectsAfterTemporaryClose(t *testing.T) {
	t.Parallel()
	url, hellos := scripted(t, 4200,
		`{"op":"welcome","id":"HELLO","log":"L1"}`,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"unsubscribed","sub":"SUB","code":"forbidden","message":"enough"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("ends with %v", err)
	}
	if len(hellos) != 2 {
		t.Errorf("it sent %d hellos", len(hellos))
	}
}

// TestFollowerReconnectsAfterUnseenConnection watches a client whose first
// connection had ended before watch began.
func TestFollowerReconnectsAfterUnseenConnection(t *testing.T) {
	t.Parallel()
	url, hellos := scripted(t, 1001, `{"op":"welcome","id":"HELLO","log":"L1"}`)
	gateway, err := client.Connect(t.Context(), client.Options{
		URLs: []string{url}, ClientID: "operator",
		Random: func() float64 { return 1e6 }, // makes the pause before the next attempt long
	})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	events := gateway.Category("counter").Follow(client.FromStart())
	defer events.Close()
	<-hellos
	for status := range gateway.Statuses(t.Context()) {
		if status == client.Offline && gateway.Log() != "" {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	logged := writer(func(p []byte) { cancel() })
	if err := watch(ctx, gateway, []string{url}, true, slog.New(slog.NewTextHandler(logged, nil))); err != nil || ctx.Err() == nil {
		t.Errorf("it gives up (%v) and logs no loss", err)
	}
}

// TestFirstConnectionIsNoLoss watches a client that knows its log and is still
// connecting for the first time, as one that has connected since watch saw its status.
func TestFirstConnectionIsNoLoss(t *testing.T) {
	t.Parallel()
	refuse := make(chan struct{})
	starting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-refuse
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer starting.Close()
	gateway, err := client.Connect(t.Context(), client.Options{URLs: []string{starting.URL}, ClientID: "operator", Log: "L1"})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	logged := make(chan string, 100)
	lines := writer(func(p []byte) { logged <- string(p) })
	ended := make(chan error, 1)
	go func() {
		ended <- watch(ctx, gateway, []string{starting.URL}, true, slog.New(slog.NewTextHandler(lines, nil)))
	}()
	close(refuse)
	if line := <-logged; !strings.Contains(line, "503") {
		t.Errorf("the first connection is logged as lost: %s", line)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// writer is a function that is called with each write.
type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestFollowerFailsIfItNeverConnected(t *testing.T) {
	t.Parallel()
	starting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"op":"error","code":"unavailable","message":"the node is starting"}`)
	}))
	t.Cleanup(starting.Close)
	if err := follow(t, starting.URL); err == nil || !strings.Contains(err.Error(), "the node is starting") {
		t.Errorf("at a starting node: %v", err)
	}
	strange := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(strange.Close)
	if err := follow(t, strange.URL); err == nil || !strings.Contains(err.Error(), "is it a gateway of Ganglion?") {
		t.Errorf("at another kind of server: %v", err)
	}
}
