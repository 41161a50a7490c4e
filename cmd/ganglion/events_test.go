package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// hello is what a follower says first.
type hello struct {
	Op, Log       string
	Subscriptions []struct{ ID, Category, Cursor string }
}

// scripted is a server that answers the hello of each connection by a script,
// one message a connection, and then closes it. It returns its URL and what
// it was told.
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
		if err := json.Unmarshal(text, &h); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		said <- h
		if err := conn.Write(r.Context(), websocket.MessageText, []byte(<-next)); err != nil {
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
		`{"op":"welcome","id":"hello","log":"L1"}`+"\n"+`{"op":"subscribed","id":"events","cursor":"7"}`+"\n"+`{"op":"live","sub":"events","cursor":"7"}`,
		`{"op":"welcome","id":"hello","log":"L2"}`+"\n"+`{"op":"error","id":"events","code":"cursor_ahead","message":"lost here"}`)
	err := follow(t, url)
	var refused errRefused
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "cursor_ahead: lost here") {
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
		`{"op":"welcome","id":"hello","log":"L1"}`+"\n"+`{"op":"heartbeat","cursor":"900","behind":[{"sub":"events","cursor":"5"}]}`,
		`{"op":"unsubscribed","sub":"events","code":"forbidden","message":"enough"}`)
	if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("ends with %v", err)
	}
	<-said
	if second := <-said; second.Subscriptions[0].Cursor != "5" {
		t.Errorf("resumes at %s, with events up to 5 only", second.Subscriptions[0].Cursor)
	}
}

// protocol: close 4000, close 4001, close 4002, close 4003, close 4004
func TestAFollowerThatIsTurnedAwayStaysAway(t *testing.T) {
	t.Parallel()
	for _, code := range []websocket.StatusCode{4000, 4001, 4002, 4003, 4004} {
		url, _ := scripted(t, code, `{"op":"welcome","id":"hello","log":"L1"}`)
		var refused errRefused
		if err := follow(t, url); !errors.As(err, &refused) || !strings.Contains(err.Error(), fmt.Sprintf("over (%d)", code)) {
			t.Errorf("after a close with %d: %v", code, err)
		}
	}
}

// protocol: close 4100, close 4101, close 4102, close 4200
func TestAFollowerThatIsSentAwayForAWhileComesBack(t *testing.T) {
	t.Parallel()
	for _, code := range []websocket.StatusCode{4100, 4101, 4102, 4200} {
		url, said := scripted(t, code,
			`{"op":"welcome","id":"hello","log":"L1"}`,
			`{"op":"unsubscribed","sub":"events","code":"forbidden","message":"enough"}`)
		if err := follow(t, url); err == nil || !strings.Contains(err.Error(), "enough") {
			t.Errorf("after a close with %d: %v", code, err)
		}
		if len(said) != 2 {
			t.Errorf("after a close with %d: %d hellos", code, len(said))
		}
	}
}

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
