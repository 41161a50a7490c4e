package main

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
)

// hello is what a follower says first.
type hello struct {
	Op, ID, Log   string
	Subscriptions []struct{ ID, Category, Cursor string }
}

// scripted is a server that answers the hello of each connection by a script,
// one message a connection, and then closes it. HELLO and SUB stand for the ids
// of the hello and of its subscription. It returns its URL and what it was told.
func scripted(t *testing.T, code websocket.StatusCode, script ...string) (url string, said chan hello) {
	t.Helper()
	said = make(chan hello, len(script))
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
		said <- h
		answer := strings.NewReplacer("HELLO", h.ID, "SUB", h.Subscriptions[0].ID).Replace(<-next)
		if err := conn.Write(r.Context(), websocket.MessageText, []byte(answer)); err != nil {
			t.Error(err)
		}
		conn.Close(code, "over")
	}))
	t.Cleanup(server.Close)
	return server.URL, said
}

func follow(t *testing.T, url string) error {
	t.Helper()
	command := eventsCmd{URL: url, Token: "dev:operator", Category: "counter", Follow: true}
	return command.fromGateway(t.Context(), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

func TestAFollowerIsToldThatItsEventsWereLost(t *testing.T) {
	t.Parallel()
	url, said := scripted(t, 4200,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"subscribed","id":"SUB","cursor":"7"}`+"\n"+`{"op":"live","sub":"SUB","cursor":"7"}`,
		`{"op":"welcome","id":"HELLO","log":"L2"}`)
	err := follow(t, url)
	if err == nil || !strings.Contains(err.Error(), "cursor_ahead: the cursor belongs to another log than L2") {
		t.Errorf("ends with %v", err)
	}
	first, second := <-said, <-said
	if first.Log != "" || first.Subscriptions[0].Cursor != "0" {
		t.Errorf("says hello with %+v at first", first)
	}
	if second.Log != "L1" || second.Subscriptions[0].Cursor != "7" {
		t.Errorf("comes back with %+v, which does not let the gateway compare logs", second)
	}
}

func TestAFollowerThatCatchesUpSkipsNothing(t *testing.T) {
	t.Parallel()
	url, said := scripted(t, 4200,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"heartbeat","cursor":"900","behind":[{"sub":"SUB","cursor":"5"}]}`,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"unsubscribed","sub":"SUB","code":"forbidden","message":"enough"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("ends with %v", err)
	}
	<-said
	if second := <-said; second.Subscriptions[0].Cursor != "5" {
		t.Errorf("resumes at %s, with events up to 5 only", second.Subscriptions[0].Cursor)
	}
}

func TestAFollowerThatIsTurnedAwayStaysAway(t *testing.T) {
	t.Parallel()
	url, _ := scripted(t, 4003, `{"op":"welcome","id":"HELLO","log":"L1"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "over (4003)") {
		t.Errorf("ends with %v", err)
	}
	url, said := scripted(t, 4001,
		`{"op":"welcome","id":"HELLO","log":"L1"}`, // the token expires
		`{"op":"error","id":"HELLO","code":"unauthenticated","message":"the token has expired","retry":"no"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "unauthenticated: the token has expired") {
		t.Errorf("ends with %v", err)
	}
	if len(said) != 2 {
		t.Errorf("says hello %d times", len(said))
	}
}

func TestAFollowerThatIsSentAwayForAWhileComesBack(t *testing.T) {
	t.Parallel()
	url, said := scripted(t, 4200,
		`{"op":"welcome","id":"HELLO","log":"L1"}`,
		`{"op":"welcome","id":"HELLO","log":"L1"}`+"\n"+`{"op":"unsubscribed","sub":"SUB","code":"forbidden","message":"enough"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("ends with %v", err)
	}
	if len(said) != 2 {
		t.Errorf("says hello %d times", len(said))
	}
}

// TestAFollowerThatMissedItsConnectionComesBack watches a client whose first
// connection was over before anybody looked.
func TestAFollowerThatMissedItsConnectionComesBack(t *testing.T) {
	t.Parallel()
	url, said := scripted(t, 1001, `{"op":"welcome","id":"HELLO","log":"L1"}`)
	gateway, err := client.Connect(t.Context(), client.Options{
		URLs: []string{url}, ClientID: "operator",
		Random: func() float64 { return 1e6 }, // of the pause before the next attempt
	})
	if err != nil {
		t.Fatal(err)
	}
	defer gateway.Close()
	events := gateway.Category("counter").Follow(client.FromStart())
	defer events.Close()
	<-said
	for status := range gateway.Statuses(t.Context()) {
		if status == client.Offline && gateway.Log() != "" {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := writer(func(p []byte) { cancel() })
	if err := (eventsCmd{Follow: true}).watch(ctx, gateway, url, slog.New(slog.NewTextHandler(told, nil))); err != nil || ctx.Err() == nil {
		t.Errorf("it gives up (%v), and tells nothing of a loss", err)
	}
}

// writer is called with what is written.
type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestAFollowerThatWasNeverServedDoesNotWait(t *testing.T) {
	t.Parallel()
	starting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"op":"error","code":"unavailable","message":"the node is starting"}`)
	}))
	t.Cleanup(starting.Close)
	if err := follow(t, starting.URL); err == nil || !strings.Contains(err.Error(), "the node is starting") {
		t.Errorf("at a node that is starting: %v", err)
	}
	strange := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(strange.Close)
	if err := follow(t, strange.URL); err == nil || !strings.Contains(err.Error(), "is it a gateway of Ganglion?") {
		t.Errorf("at a server of another kind: %v", err)
	}
}
