package gateway_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

func limited(change func(*gateway.Limits)) func(*gateway.Config) {
	return func(c *gateway.Config) { change(&c.Limits) }
}

// wantLimited waits until a limit was reached n times.
func (n *node) wantLimited(limit string, times uint64) {
	n.w.t.Helper()
	waitFor(n.w.t, func() bool { return n.Stats().Limited[limit] >= times })
	for name, got := range n.Stats().Limited {
		if want := map[bool]uint64{true: times}[name == limit]; got != want {
			n.w.t.Errorf("the limit %s was reached %d times, want %d", name, got, want)
		}
	}
}

func TestLimitsReportEveryProblemTogether(t *testing.T) {
	t.Parallel()
	_, err := gateway.Limits{FrameBytes: 32<<10 - 1, HeaderBytes: 16<<10 - 1, HelloTimeout: -1, Sessions: -1, SessionsPerClient: -1, Subscriptions: -1, LiveQueries: -1, Queries: -1, OpenRequests: -1, OutboundBytes: -1, CommandsPerSecond: -1}.WithDefaults()
	for _, problem := range []string{"FrameBytes is 32767: give at least 32768", "HeaderBytes is 16383", "HelloTimeout", "Sessions", "SessionsPerClient", "Subscriptions", "LiveQueries is -1", "gateway: Queries is -1", "OpenRequests", "OutboundBytes", "CommandsPerSecond"} {
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%v does not mention %s", err, problem)
		}
	}
}

// protocol: rule Limits that a client cares for
func TestWelcomeStatesTheClientsLimits(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) {
		l.FrameBytes, l.OpenRequests, l.Subscriptions, l.CommandsPerSecond = 40<<10, 7, 8, 9
	}))
	c := n.dial()
	c.send(`{"op":"hello","id":"1"}`)
	if f := want[frame.Welcome](c); f.Limits != (frame.Limits{FrameBytes: 40 << 10, OpenRequests: 7, Subscriptions: 8, CommandsPerSecond: 9}) {
		t.Errorf("got %s", f.Append(nil))
	}
}

// protocol: close 1009, status 413
func TestMessageOrBodyOverTheFrameLimitIsRefused(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.FrameBytes = 32 << 10 }))
	c := n.join("ada")
	padded := func(bytes int) string {
		f := `{"op":"ping","id":"1","x":""}`
		return f[:len(f)-2] + strings.Repeat("x", bytes-len(f)) + f[len(f)-2:]
	}
	c.send(padded(32 << 10))
	want[frame.Pong](c)
	c.send(padded(32<<10 + 1))
	if reason := c.wantClose(frame.CloseTooLarge); !strings.Contains(reason, "more than 32768 bytes") {
		t.Errorf("the close reason %q does not name the limit", reason)
	}
	n.wantLimited("frame_bytes", 1)
	if status, body := n.do("POST", "/v1/commands", "ada", strings.Repeat(" ", 33<<10)); status != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d %s", status, body)
	}
	n.wantLimited("frame_bytes", 2)
}

func TestRequestWithALongHeaderIsRefused(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.HeaderBytes = 16 << 10 }))
	for status, length := range map[int]int{101: 15 << 10, 431: 16 << 10} {
		_, resp, err := n.tryDial("X-Long", strings.Repeat("x", length))
		if resp == nil || resp.StatusCode != status {
			t.Errorf("a header of %d bytes: got %v (%v), want %d", length, resp, err, status)
		}
	}
	n.wantLimited("header_bytes", 1)
}

// protocol: close 4101
func TestSessionsPastTheNodesLimitAreClosed(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.Sessions = 2 }))
	first := n.join("ada")
	n.join("bob")
	n.dial().wantClose(frame.CloseTooMany)
	n.wantLimited("sessions", 1)
	_ = first.conn.CloseNow()
	waitFor(t, func() bool { return n.Stats().Sessions == 1 })
	n.join("eve")
}

// protocol: error rate_limited, close 4101
func TestSessionsPastAClientsLimitAreClosed(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.SessionsPerClient = 2 }))
	first := n.join("ada")
	n.join("ada")
	third := n.dial("Authorization", "Bearer dev:ada")
	third.send(`{"op":"hello","id":"1"}`)
	if f := third.wantFault("1", command.CodeRateLimited); f.Retry != command.RetryLater || !strings.Contains(f.Message, "ada has 2 sessions") {
		t.Errorf("got %s", f.Append(nil))
	}
	third.wantClose(frame.CloseTooMany)
	n.wantLimited("sessions_per_client", 1)
	n.join("bob")
	for range 3 { // anonymous clients do not count as one
		n.join("")
	}
	_ = first.conn.CloseNow()
	waitFor(t, func() bool { return n.Stats().Sessions == 5 })
	n.join("ada")
}

func TestSubscriptionsPastTheLimitAreRefused(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.Subscriptions = 2 }))
	c := n.dial()
	c.send(`{"op":"hello","id":"1","subscriptions":[{"id":"a","stream":"auction/1"},{"id":"b","stream":"auction/1"}]}` + "\n" +
		`{"op":"subscribe","id":"c","stream":"auction/1"}`)
	want[frame.Welcome](c)
	answers := map[string]int{}
	for range 5 {
		f := c.read()
		answers[f.Op()]++
		if fault, ok := f.(frame.Fault); ok && (fault.ID != "c" || fault.Code != command.CodeRateLimited) {
			t.Errorf("got %s", fault.Append(nil))
		}
	}
	if answers["subscribed"] != 2 || answers["live"] != 2 || answers["error"] != 1 {
		t.Errorf("got %v", answers)
	}
	n.wantLimited("subscriptions", 1)
	c.send(`{"op":"unsubscribe","id":"2","sub":"a"}`)
	want[frame.Unsubscribed](c)
	c.send(`{"op":"subscribe","id":"c","stream":"auction/1"}`)
	want[frame.Subscribed](c)
}

// protocol: error rate_limited, close 4101
func TestHelloWithTooManySubscriptionsGetsOneRefusal(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.Subscriptions = 10 }))
	c := n.dial()
	c.send(`{"op":"hello","id":"1","subscriptions":[` + strings.Repeat("{},", 31_000) + `{}]}`)
	if f := c.wantFault("1", command.CodeRateLimited); f.Field != "subscriptions" || f.Retry != command.RetryNo || !strings.Contains(f.Message, "31001") {
		t.Errorf("got %s", f.Append(nil))
	}
	if f, err := c.next(); websocket.CloseStatus(err) != frame.CloseTooMany {
		t.Errorf("got %v (%v) after the refusal, want the close code 4101", f, err)
	}
	n.wantLimited("subscriptions", 1)
}

func TestReachedOpenRequestsLimitIsCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(limited(func(l *gateway.Limits) { l.OpenRequests = 2 }))
	c := n.join("ada")
	for i := range 3 {
		c.sendf(`{"op":"command","id":"%d","aggregate":"counter/a","command":"wait","data":{}}`, i)
	}
	n.wantLimited("open_requests", 1)
	close(w.router.release)
	for range 3 {
		want[frame.Result](c)
	}
}

// TestCommandsPastTheirRateAreRefused sends many commands: after the first
// refused one, none is executed before after_ms.
//
// protocol: error rate_limited
func TestCommandsPastTheirRateAreRefused(t *testing.T) {
	t.Parallel()
	bubble(t, limited(func(l *gateway.Limits) { l.CommandsPerSecond = 10 }), func(t *testing.T, g *gateway.Gateway, dial func() *client) {
		c := dial()
		c.send(`{"op":"hello","id":"h","client":"ada"}`)
		want[frame.Welcome](c)
		// send sends a command, which the owner rejects if it is admitted.
		id := 0
		send := func() frame.Fault {
			id++
			c.sendf(`{"op":"command","id":"%d","aggregate":"counter/a","command":"fail","data":{},"key":"k"}`, id)
			f := want[frame.Fault](c)
			if f.ID != fmt.Sprint(id) || f.Key != "k" {
				t.Errorf("got %s", f.Append(nil))
			}
			return f
		}
		run := func(codes ...command.Code) {
			for _, code := range codes {
				if f := send(); f.Code != code {
					t.Errorf("command %d: got %s, want %s", id, f.Append(nil), code)
				}
			}
		}
		run(slices.Repeat([]command.Code{command.CodeRejected}, 10)...)
		if f := send(); f.Code != command.CodeRateLimited || f.Retry != command.RetryLater || f.AfterMS != 500 {
			t.Errorf("got %s", f.Append(nil))
		}
		time.Sleep(400 * time.Millisecond) // the bucket has tokens again but stays shut, to keep the order
		if f := send(); f.Code != command.CodeRateLimited || f.AfterMS != 100 {
			t.Errorf("got %s", f.Append(nil))
		}
		time.Sleep(100 * time.Millisecond)
		run(slices.Repeat([]command.Code{command.CodeRejected}, 5)...)
		run(command.CodeRateLimited)
		time.Sleep(2 * time.Second)
		run(slices.Repeat([]command.Code{command.CodeRejected}, 10)...)
		run(command.CodeRateLimited)
		if got := g.Stats().Limited["commands_per_second"]; got != 4 {
			t.Errorf("counted %d refusals, want 4", got)
		}
		c.send(`{"op":"ping","id":"p"}`) // not a command
		want[frame.Pong](c)
		_ = c.conn.CloseNow()
	})
}

// protocol: status 429
func TestHTTPCommandsShareTheirClientsRate(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.CommandsPerSecond = 1 }))
	post := func(who string) (int, string) {
		return n.do("POST", "/v1/commands", who, `{"aggregate":"counter/a","command":"fail","data":{}}`)
	}
	if status, body := post("ada"); status != http.StatusUnprocessableEntity {
		t.Errorf("got %d %s", status, body)
	}
	refused := 0
	for refused == 0 { // even on a slow machine, two commands arrive within a second at some time
		if status, body := post("ada"); status == http.StatusTooManyRequests && strings.Contains(body, `"code":"rate_limited"`) && strings.Contains(body, `"after_ms":500`) {
			refused++
		}
	}
	if status, body := post("bob"); status != http.StatusUnprocessableEntity {
		t.Errorf("another client: got %d %s", status, body)
	}
	n.wantLimited("commands_per_second", 1)
}
