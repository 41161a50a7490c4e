package stomp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-stomp/stomp/v3"
)

// TestClientsOfNpmWorkInNode plays js/clients.js: stompjs, rx-stomp and
// webstomp-client. test/browser plays it in Chromium.
func TestClientsOfNpmWorkInNode(t *testing.T) {
	t.Parallel()
	for _, s := range []server{rabbit(), gateway(t)} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "node", "node.js", s.url, s.login, s.passcode)
			cmd.Dir = "js"
			out, err := cmd.Output()
			var failures []string
			if err == nil {
				err = json.Unmarshal(out, &failures)
			}
			if err != nil {
				t.Fatalf("node: %v\n%s", err, out)
			}
			for _, failure := range failures {
				t.Error(failure)
			}
		})
	}
}

// TestClientOfGoStompWorks has the client of go-stomp over a WebSocket.
func TestClientOfGoStompWorks(t *testing.T) {
	t.Parallel()
	for _, s := range []server{rabbit(), gateway(t)} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for _, version := range []stomp.Version{stomp.V10, stomp.V11, stomp.V12} {
				playGoStomp(t, s, version)
			}
		})
	}
}

func playGoStomp(t *testing.T, s server, version stomp.Version) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", version, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, s.url, &websocket.DialOptions{Subprotocols: versions})
	check(err)
	kind := websocket.MessageText
	if s.name == rabbit().name {
		kind = websocket.MessageBinary // as it is configured
	}
	c, err := stomp.Connect(websocket.NetConn(ctx, ws, kind), stomp.ConnOpt.Login(s.login, s.passcode),
		stomp.ConnOpt.Host("/"), stomp.ConnOpt.AcceptVersion(version), stomp.ConnOpt.HeartBeat(time.Minute, time.Minute))
	check(err)
	topic := newTopic()
	sub, err := c.Subscribe(topic, stomp.AckClientIndividual)
	check(err)
	check(c.Send(topic, "text/plain", []byte("first"), stomp.SendOpt.Receipt, stomp.SendOpt.Header("own", "x")))
	first := receive(t, sub)
	if string(first.Body) != "first" || first.ContentType != "text/plain" || first.Header.Get("own") != "x" {
		t.Fatalf("%s: got %+v", version, first)
	}
	check(c.Ack(first))
	dropped, kept := c.Begin(), c.Begin()
	check(dropped.Send(topic, "text/plain", []byte("dropped")))
	check(kept.Send(topic, "text/plain", []byte("kept")))
	check(dropped.Abort())
	check(kept.Commit())
	check(c.Ack(wantBody(t, receive(t, sub), "kept")))
	check(sub.Unsubscribe())
	if s.name == rabbit().name { // whose plugin ends the connection without the receipt
		check(c.MustDisconnect())
		return
	}
	if err := c.Disconnect(); !errors.Is(err, net.ErrClosed) { // after the receipt, the gateway closes the connection
		check(err)
	}
}

func receive(t *testing.T, sub *stomp.Subscription) *stomp.Message {
	t.Helper()
	select {
	case m := <-sub.C:
		if m == nil || m.Err != nil {
			t.Fatalf("the subscription ended: %+v", m)
		}
		return m
	case <-time.After(patience):
		t.Fatal("no message after " + fmt.Sprint(patience))
	}
	return nil
}

func wantBody(t *testing.T, m *stomp.Message, body string) *stomp.Message {
	t.Helper()
	if string(m.Body) != body {
		t.Fatalf("got the message %q, want %q", m.Body, body)
	}
	return m
}
