package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// nextOf calls the group over HTTP as a member.
func (n *node) nextOf(member, rest string) frame.Batch {
	n.w.t.Helper()
	status, body := n.do("POST", "/v1/groups/mailer/next", "ada", fmt.Sprintf(`{"member":%q%s}`, member, rest))
	if status != http.StatusOK {
		n.w.t.Fatalf("got %d %s", status, body)
	}
	b, err := frame.ParseBatch([]byte(body))
	if err != nil {
		n.w.t.Fatalf("%s: %v", body, err)
	}
	return b
}

// positions returns the positions of the events, as "segment:position".
func positions(t testing.TB, b frame.Batch) string {
	t.Helper()
	var all []string
	for _, raw := range b.Events {
		e, err := frame.ParseBatchEvent(raw)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		all = append(all, fmt.Sprintf("%s:%d", e.Segment, e.Position))
	}
	return strings.Join(all, " ")
}

// protocol: http POST /v1/groups/{group}/next, status 200, status 409
func TestNextAcknowledgesAndWaitsForEvents(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	if b := n.nextOf("m", `,"wait_ms":0`); len(b.Segments) != 0 || len(b.Events) != 0 || b.AckWithinMS != time.Hour.Milliseconds() || b.Log != w.store.LogID() {
		t.Errorf("got %s", b.Append(nil))
	}
	epoch := g.give("m", "0")
	waiting := make(chan frame.Batch)
	go func() { waiting <- n.nextOf("m", `,"wait_ms":30000,"max":2`) }()
	waitFor(t, func() bool { return n.Stats().Consumers == 1 })
	w.add("auction/1", 1)
	b := <-waiting
	if got := positions(t, b); got != "0:1" || len(b.Segments) != 1 || b.Segments[0] != (frame.Held{Segment: "0", Epoch: epoch, Cursor: "0"}) {
		t.Errorf("got %s", b.Append(nil))
	}
	w.add("auction/1", 4)
	n.catchUp()
	if got := positions(t, n.nextOf("m", `,"wait_ms":0,"max":3`)); got != "0:2 0:3" { // 1 is not acknowledged
		t.Errorf("got %s", got)
	}
	ack := func(p eventstore.Position) string {
		return fmt.Sprintf(`,"wait_ms":0,"max":3,"acks":[{"segment":"0","epoch":%d,"cursor":"%d"}]`, epoch, p)
	}
	if got := positions(t, n.nextOf("m", ack(2))); got != "0:4 0:5" {
		t.Errorf("got %s", got)
	}
	waitFor(t, func() bool { return g.at("0") == 2 })
	if b := n.nextOf("m", ack(2)); len(b.Events) != 0 { // "still working"
		t.Errorf("got %s", b.Append(nil))
	}
	park := fmt.Sprintf(`,"wait_ms":0,"parks":[{"segment":"0","epoch":%d,"position":4,"reason":"bad address"}]`, epoch)
	n.nextOf("m", park)
	if g.parked["auction/1"] != 4 {
		t.Errorf("parked: %v", g.parked)
	}
	g.change("0", func(t *tenure) { t.Revoking = true })
	if b := n.nextOf("m", ""); len(b.Segments) != 1 || !b.Segments[0].IsRevoking {
		t.Errorf("got %s", b.Append(nil))
	}
	if b := n.nextOf("m", ack(3)); len(b.Revoked) != 1 || len(b.Segments) != 0 || b.Revoked[0].Epoch != epoch { // all is acknowledged or parked
		b = n.nextOf("m", "")
		if len(b.Revoked) != 1 || len(b.Segments) != 0 {
			t.Errorf("got %s", b.Append(nil))
		}
	}
	if b := n.nextOf("m", ack(5)); len(b.Revoked) != 1 || b.Revoked[0].Epoch != epoch {
		t.Errorf("got %s", b.Append(nil))
	}
	// A session of the same member takes its place.
	n.consume("m", 1)
	if status, body := n.do("POST", "/v1/groups/mailer/next", "ada", `{"member":"m"}`); status != http.StatusConflict || !strings.Contains(body, `"code":"replaced"`) {
		t.Errorf("got %d %s", status, body)
	}
}

func TestInvalidCallsOfNextSayWhatToDo(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g), limited(func(l *gateway.Limits) { l.SessionsPerClient = 1 }))
	n.nextOf("m", `,"wait_ms":0`)
	epoch := g.give("m", "0")
	w.add("auction/1", 1)
	if got := positions(t, n.nextOf("m", "")); got != "0:1" {
		t.Fatalf("got %q", got)
	}
	for _, c := range []struct {
		path, who, body string
		status          int
		has             string
	}{
		{"unicorns", "ada", `{"member":"m"}`, 429, `"code":"rate_limited"`},
		{"unicorns", "bob", `{"member":"m"}`, 404, "the groups are mailer"},
		{"mailer", `bob {"out":true}`, `{"member":"m"}`, 403, "may not consume mailer"},
		{"mailer", "", `{"member":"m"}`, 403, "may not consume mailer"},
		{"mailer", "bob", `{"member":"a/b"}`, 400, `"field":"member"`},
		{"mailer", "ada", `{}`, 400, `"field":"member"`},
		{"mailer", "ada", `[]`, 400, "JSON object"},
		{"mailer", "ada", `nonsense`, 400, "not JSON"},
		{"mailer", "ada", `{"member":"m","max":0}`, 400, `"field":"max"`},
		{"mailer", "ada", `{"member":"m","max":1001}`, 400, `"field":"max"`},
		{"mailer", "ada", `{"member":"m","wait_ms":30001}`, 400, `"field":"wait_ms"`},
		{"mailer", "ada", `{"member":"m","acks":{}}`, 400, `"field":"acks"`},
		{"mailer", "ada", `{"member":"m","acks":[7]}`, 400, `acks[0]`},
		{"mailer", "ada", `{"member":"m","acks":[{"segment":"0","epoch":1}]}`, 400, `"field":"acks[0].cursor"`},
		{"mailer", "ada", fmt.Sprintf(`{"member":"m","acks":[{"segment":"0","epoch":%d,"cursor":"7"}]}`, epoch), 400, `"field":"acks[0].cursor"`},
		{"mailer", "ada", fmt.Sprintf(`{"member":"m","parks":[{"segment":"0","epoch":%d,"position":7,"reason":"r"}]}`, epoch), 400, `"field":"parks[0].position"`},
	} {
		if status, body := n.do("POST", "/v1/groups/"+c.path+"/next", c.who, c.body); status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s: got %d %s", c.body, status, body)
		}
	}
	if status, body := n.do("POST", "/v1/groups/mailer/next?max=1", "ada", `{"member":"m"}`); status != 400 || !strings.Contains(body, "into the body") {
		t.Errorf("got %d %s", status, body)
	}
	n.nextOf("m", fmt.Sprintf(`,"wait_ms":0,"acks":[{"segment":"0","epoch":%d,"cursor":"1"}]`, epoch))
	waitFor(t, func() bool { return g.at("0") == 1 })
	none := w.node()
	if status, body := none.do("POST", "/v1/groups/mailer/next", "ada", `{"member":"m"}`); status != 400 || !strings.Contains(body, `"code":"unsupported"`) {
		t.Errorf("got %d %s", status, body)
	}
}

// TestMemberOverHTTPLeavesWithoutCalls lets a member be away for longer than it may
// hold an event.
func TestMemberOverHTTPLeavesWithoutCalls(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	g.within = 50 * time.Millisecond
	w := newWorld(t)
	n := w.node(consuming(g))
	n.nextOf("idle", `,"wait_ms":0`)
	waitFor(t, func() bool { return len(g.present()) == 0 && n.Stats().Consumers == 0 })
	n.nextOf("holds", `,"wait_ms":0`)
	g.give("holds", "0")
	w.add("auction/1", 1)
	for status, body := 0, ""; status != http.StatusGatewayTimeout; { // it calls, and acknowledges nothing
		status, body = n.do("POST", "/v1/groups/mailer/next", "ada", `{"member":"holds","wait_ms":5}`)
		if status == http.StatusOK && strings.Contains(body, `"segments":[]`) { // it was away for too long
			g.give("holds", "0")
		}
	}
	waitFor(t, func() bool { return len(g.present()) == 0 })
}

func TestNewerCallOfAMemberEndsTheWaitOfTheOlder(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	n := w.node(consuming(g))
	n.nextOf("m", `,"wait_ms":0`)
	done := make(chan frame.Batch)
	for range 2 {
		go func() { done <- n.nextOf("m", `,"wait_ms":30000`) }()
	}
	if b := <-done; len(b.Events) != 0 {
		t.Errorf("got %s", b.Append(nil))
	}
	g.give("m", "0")
	w.add("auction/1", 1)
	if b := <-done; positions(t, b) != "0:1" {
		t.Errorf("got %s", b.Append(nil))
	}
}

// TestStoppingGatewayEndsItsMembersOverHTTP has one member in a call, and one between
// two calls.
func TestStoppingGatewayEndsItsMembersOverHTTP(t *testing.T) {
	t.Parallel()
	g := newMailer(1)
	w := newWorld(t)
	for name, end := range map[string]func(*node){
		"a drain":           func(n *node) { _ = n.Drain(t.Context()) },
		"a suspension":      func(n *node) { n.Suspend(frame.CloseLost, "no log") },
		"the log went back": func(n *node) { n.Begin(0) },
		"the end":           func(n *node) { n.stop() },
	} {
		n := w.node(consuming(g))
		n.nextOf("away", `,"wait_ms":0`)
		status := make(chan int)
		go func() {
			got, _ := n.do("POST", "/v1/groups/mailer/next", "ada", `{"member":"here","wait_ms":30000}`)
			status <- got
		}()
		waitFor(t, func() bool { return n.Stats().Consumers == 2 })
		end(n)
		if got := <-status; got != http.StatusServiceUnavailable {
			t.Errorf("%s: got %d", name, got)
		}
		waitFor(t, func() bool { return n.Stats().Consumers == 0 && len(g.present()) == 0 })
	}
}
