package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/internal/stomp"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// stomper is a STOMP client. A frame is written as its lines with ";" between them, an
// empty one before the body: "SEND;destination:/topic/a;;hello".
type stomper struct {
	t       testing.TB
	conn    *websocket.Conn
	decoder stomp.Decoder
	rest    []byte
	beats   int
}

// stomp dials and sends nothing.
func (n *node) stomp(path, protocol string) *stomper {
	n.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	opts := &websocket.DialOptions{}
	if protocol != "" {
		opts.Subprotocols = []string{protocol}
	}
	conn, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(n.url, "http")+path, opts)
	if err != nil {
		n.w.t.Fatal(err)
	}
	if got := conn.Subprotocol(); got != protocol {
		n.w.t.Fatalf("the subprotocol is %q, want %q", got, protocol)
	}
	conn.SetReadLimit(16 << 20)
	n.w.t.Cleanup(func() { _ = conn.CloseNow() })
	c := &stomper{t: n.w.t, conn: conn}
	c.decoder.Limits = stomp.Limits{Headers: 100, HeaderBytes: 1 << 16, BodyBytes: 1 << 20}
	return c
}

// joinSTOMP connects with version 1.2.
func (n *node) joinSTOMP(who string) *stomper {
	n.w.t.Helper()
	c := n.stomp("/v1/stomp", "v12.stomp")
	c.send("CONNECT;accept-version:1.2;login:" + who)
	c.want("CONNECTED", "version", "1.2", "user-name", who)
	c.decoder.Version = stomp.V12
	return c
}

func (c *stomper) send(frames ...string) {
	c.t.Helper()
	c.raw(text(frames...))
}

// text writes frames as they are on the wire.
func text(frames ...string) string {
	var b strings.Builder
	for _, f := range frames {
		head, body, _ := strings.Cut(f, ";;")
		b.WriteString(strings.ReplaceAll(head, ";", "\n") + "\n\n" + body)
		b.WriteByte(0)
	}
	return b.String()
}

func (c *stomper) raw(message string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		c.t.Fatalf("send %.100s: %v", message, err)
	}
}

// next returns the next frame.
func (c *stomper) next() (*stomp.Frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		for len(c.rest) > 0 {
			if c.rest[0] == '\n' {
				c.beats++
			}
			f, rest, err := c.decoder.Decode(c.rest)
			if err != nil {
				return nil, err
			}
			if c.rest = rest; f != nil {
				return f, nil
			}
		}
		var err error
		if _, c.rest, err = c.conn.Read(ctx); err != nil {
			return nil, err
		}
	}
}

// want reads the next frame, which must have the command and the headers.
func (c *stomper) want(command string, headers ...string) *stomp.Frame {
	c.t.Helper()
	f, err := c.next()
	if err != nil {
		c.t.Fatalf("want %s: %v", command, err)
	}
	for i := 0; i < len(headers) && f.Command == command; i += 2 {
		if got, ok := f.Get(headers[i]); got != headers[i+1] || !ok {
			c.t.Fatalf("got %+v %s, want the header %s: %s", f, f.Body, headers[i], headers[i+1])
		}
	}
	if f.Command != command {
		c.t.Fatalf("got %+v %s, want %s", f, f.Body, command)
	}
	return f
}

// wantMessage reads a MESSAGE with a body.
func (c *stomper) wantMessage(body string, headers ...string) *stomp.Frame {
	c.t.Helper()
	f := c.want("MESSAGE", headers...)
	if string(f.Body) != body {
		c.t.Fatalf("got %+v %s, want the body %s", f, f.Body, body)
	}
	return f
}

// wantQuiet checks that nothing but the answer of a frame is there.
func (c *stomper) wantQuiet() {
	c.t.Helper()
	c.send("ACK;id:none-0;receipt:quiet")
	c.want("RECEIPT", "receipt-id", "quiet")
}

// wantEnd reads an ERROR and the close frame that follows.
func (c *stomper) wantEnd(code command.Code, status int, headers ...string) {
	c.t.Helper()
	f := c.want("ERROR", append([]string{"code", string(code)}, headers...)...)
	if len(f.Body) == 0 {
		c.t.Errorf("the ERROR %+v has no text", f)
	}
	c.wantClose(status)
}

func (c *stomper) wantClose(status int) {
	c.t.Helper()
	f, err := c.next()
	if got := websocket.CloseStatus(err); int(got) != status {
		c.t.Fatalf("got %+v, %v, want the close code %d", f, err, status)
	}
}

func TestSTOMPIsChosenByItsSubprotocolOrPath(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for _, to := range [][2]string{{"/v1/ws", "v12.stomp"}, {"/v1/ws", "v11.stomp"}, {"/v1/stomp", "v10.stomp"}, {"/v1/stomp", ""}} {
		c := n.stomp(to[0], to[1])
		c.send("STOMP;accept-version:1.0,1.1,2.0;host:/;login:ada")
		f := c.want("CONNECTED", "version", "1.1", "user-name", "ada", "server", "ganglion/v0.0.1", "cursor", "0")
		if log, session := get(f, "log"), get(f, "session"); log == "" || session == "" {
			t.Errorf("CONNECTED is %+v", f)
		}
	}
	c := n.stomp("/v1/stomp", "")
	c.send("CONNECT;login:ada")
	c.want("CONNECTED", "version", "1.0")
	_, resp, err := websocket.Dial(t.Context(), n.url+"/v1/stomp", &websocket.DialOptions{Subprotocols: []string{"v13.stomp"}})
	if err == nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an unknown subprotocol is answered %v, %v", resp, err)
	}
}

func get(f *stomp.Frame, name string) string {
	value, _ := f.Get(name)
	return value
}

func TestSTOMPClientsIdentifyThemselves(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for _, credentials := range []string{"login:ada", "login:ada;passcode:secret", "passcode:dev:ada", "Authorization:Bearer dev:ada", "login:x;Authorization:Bearer dev:ada"} {
		c := n.stomp("/v1/stomp", "v12.stomp")
		c.send("CONNECT;accept-version:1.2;" + credentials)
		c.want("CONNECTED", "user-name", "ada")
	}
	c := n.stomp("/v1/stomp", "v12.stomp")
	c.send("CONNECT;accept-version:1.2;passcode:guest")
	c.wantEnd(command.CodeUnauthenticated, frame.CloseUnauthenticated, "retry", "no")
	c = n.stomp("/v1/stomp", "v12.stomp")
	c.send("CONNECT;accept-version:3.0")
	c.wantEnd(command.CodeBadRequest, frame.CloseBadFrame, "version", "1.0,1.1,1.2")
	c = n.stomp("/v1/stomp", "v12.stomp")
	c.send("SEND;destination:/topic/a;receipt:1")
	c.wantEnd(command.CodeBadRequest, frame.CloseBadFrame, "receipt-id", "1")
}

// TestLargestTokenFitsIntoSTOMPFrames connects with it in both headers, and renews it.
func TestLargestTokenFitsIntoSTOMPFrames(t *testing.T) {
	t.Parallel()
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	auth, err := token.New(t.Context(), token.Config{HMACFile: secrets})
	if err != nil {
		t.Fatal(err)
	}
	largest, err := "", errors.New("none yet")
	for pad := 8 << 10; err != nil; pad-- { // Sign refuses longer ones
		largest, err = token.Sign(secrets, token.Grant{Client: "ada", ExpiresIn: time.Hour, Claims: map[string]any{"pad": strings.Repeat("p", pad)}})
	}
	if len(largest) < 8<<10-4 {
		t.Fatalf("the largest token has %d bytes", len(largest))
	}
	n := newWorld(t).node(func(c *gateway.Config) { c.Auth = auth })
	for _, credentials := range []string{"passcode:", "Authorization:Bearer "} {
		c := n.stomp("/v1/stomp", "v12.stomp")
		c.send("CONNECT;accept-version:1.0,1.1,1.2;host:gateway.example.com;heart-beat:10000,10000;login:ada;log:"+strings.Repeat("1", 64)+";"+credentials+largest,
			"SEND;destination:/app/auth;receipt:1;;"+largest)
		c.want("CONNECTED", "user-name", "ada")
		c.decoder.Version = stomp.V12
		c.want("RECEIPT", "receipt-id", "1")
	}
}

func TestSTOMPCommandsAreAnsweredByReceiptsAndReplies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().joinSTOMP("ada")
	c.send(`SEND;destination:/app/counter/a/add;receipt:1;key:k1;;{"by":1}`)
	c.want("RECEIPT", "receipt-id", "1", "version", "1", "position", "1", "key", "k1")
	c.send(`SEND;destination:/app/counter/a/add;receipt:2;key:k1;;{"by":1}`)
	c.want("RECEIPT", "receipt-id", "2", "version", "1", "key", "k1", "replayed", "true")
	c.send(`SEND;destination:/app/counter/b/add;reply-to:/temp-queue/x;correlation-id:7;;{"by":1}`)
	c.wantMessage(`{"ok":true}`, "destination", "/temp-queue/x", "subscription", "/temp-queue/x", "correlation-id", "7", "version", "1")
	c.send("SUBSCRIBE;id:r;destination:/user/queue/replies", `SEND;destination:/app/counter/c/add;reply-to:/user/queue/replies;;{"by":1}`)
	c.wantMessage(`{"ok":true}`, "destination", "/user/queue/replies", "subscription", "r")

	c.send(`SEND;destination:/app/counter/a/fail;receipt:3;key:k2;;{}`)
	c.wantMessage(`{"code":"rejected","reason":"zero","message":"add something"}`,
		"destination", "/user/queue/errors", "subscription", "/user/queue/errors", "receipt-id", "3", "code", "rejected", "reason", "zero", "retry", "no", "key", "k2")
	c.send("SUBSCRIBE;id:e;destination:/user/queue/errors;receipt:4")
	c.want("RECEIPT", "receipt-id", "4")
	for _, send := range []string{
		`SEND;destination:/app/counter/a/add;expect:7;;{"by":1}`, `SEND;destination:/app/counter/a/nothing;;{}`,
		`SEND;destination:/app/counter/a/add;;{"ammount":1}`, `SEND;destination:/app/counter/a/add;;{"by":1},"key":"x"`,
		`SEND;destination:/app/counter/a/add;timeout-ms:99999999;;{}`, `SEND;destination:/app/query/none`,
	} {
		c.send(send)
		c.want("MESSAGE", "destination", "/user/queue/errors", "subscription", "e", "retry", "no")
	}
	c.wantQuiet()
}

func TestSTOMPSubscriptionsHaveEveryEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 2)
	n.catchUp()
	c := n.joinSTOMP("ada")
	for i, from := range []string{"", "after:0", "cursor:1", "last:1", "cursor:0"} {
		c.send(fmt.Sprintf("SUBSCRIBE;id:s%d;destination:/topic/counter/a;receipt:%d;%s", i, i, from))
		c.want("RECEIPT", "receipt-id", fmt.Sprint(i), "cursor", "2")
		for position := []int{3, 1, 2, 2, 1}[i]; position <= 2; position++ {
			f := c.want("MESSAGE", "subscription", fmt.Sprint("s", i), "destination", "/topic/counter/a", "stream", "counter/a", "version", fmt.Sprint(position),
				"position", fmt.Sprint(position), "cursor", fmt.Sprint(position), "event", "added", "content-type", "application/json")
			if id := get(f, "message-id"); !strings.HasSuffix(id, fmt.Sprint("-", position)) || get(f, "cause") == "" || get(f, "time") == "" {
				t.Errorf("the message is %+v", f)
			}
		}
		c.send(fmt.Sprintf("UNSUBSCRIBE;id:s%d;receipt:u", i))
		c.want("RECEIPT", "receipt-id", "u")
	}
	for _, all := range []string{"/topic/counter", "/topic/counter.*", "/topic/counter.#", "/topic/counter/*"} {
		c.send("SUBSCRIBE;id:c;destination:" + all + ";cursor:0;receipt:r")
		c.want("RECEIPT", "receipt-id", "r")
		c.wantMessage(`{"by":0}`, "destination", all, "version", "1")
		c.wantMessage(`{"by":1}`, "destination", all, "version", "2")
		c.send("UNSUBSCRIBE;id:c;receipt:u")
		c.want("RECEIPT", "receipt-id", "u")
	}
	c.send("SUBSCRIBE;id:d;destination:/topic/counter.a;state:true;receipt:r")
	c.want("RECEIPT", "receipt-id", "r")
	c.wantMessage(`{"version":2}`, "subscription", "d", "event", "state", "version", "2")
	w.add("counter/a", 1)
	c.wantMessage(`{"by":0}`, "subscription", "d", "version", "3")
	c.send("SUBSCRIBE;id:once;destination:/app/counter/a")
	c.wantMessage(`{"version":3}`, "subscription", "once", "version", "3")
	c.send("UNSUBSCRIBE;id:once;receipt:u")
	c.want("RECEIPT", "receipt-id", "u")
}

func TestPlainTopicsCarryBodiesAndHeadersOfEverySender(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	ada, bob := n.joinSTOMP("ada"), n.joinSTOMP("bob")
	bob.send("SUBSCRIBE;id:s;destination:/topic/prices.gold;receipt:1")
	bob.want("RECEIPT", "receipt-id", "1")
	ada.send("SEND;destination:/topic/prices.gold;content-type:text/plain;priority:9;priority:8;a\\cb:x\\ny;;12.5 €")
	f := bob.wantMessage("12.5 €", "destination", "/topic/prices.gold", "content-type", "text/plain", "priority", "9", "a:b", "x\ny", "stream", "topic/prices.gold")
	if strings.Count(fmt.Sprint(f.Headers), "priority") != 1 {
		t.Errorf("a repeated header is %+v", f.Headers)
	}
	ada.raw("SEND\ndestination:/topic/prices.gold\ncontent-length:5\n\n\x00a\x00b\xff\x00")
	bob.wantMessage("\x00a\x00b\xff", "content-length", "5")
	ada.send("SEND;destination:/topic/prices.gold;position:9;message-id:false;reply-to:/temp-queue/q")
	if f := bob.wantMessage("", "position", "3", "reply-to", "/temp-queue/q"); strings.HasPrefix(get(f, "message-id"), "false") {
		t.Errorf("a sender has set the headers of the gateway: %+v", f)
	}
}

func TestSTOMPFramesMaySpanMessagesAndShareThem(t *testing.T) {
	t.Parallel()
	c := newWorld(t).node().joinSTOMP("ada")
	c.send("SUBSCRIBE;id:s;destination:/topic/t", "SEND;destination:/topic/t", "SEND;destination:/topic/t")
	c.want("MESSAGE")
	c.want("MESSAGE")
	for _, piece := range strings.SplitAfter(text("SEND;destination:/topic/t;;"+strings.Repeat("long ", 10_000)), "o") {
		c.raw(piece)
	}
	c.wantMessage(strings.Repeat("long ", 10_000))
}

func TestUserQueuesHaveTheEventsOfTheirName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	c := n.joinSTOMP("ada")
	for id, queue := range []string{"events", "added", "changed"} {
		c.send(fmt.Sprintf("SUBSCRIBE;id:%d;destination:/user/queue/%s;receipt:r", id, queue))
		c.want("RECEIPT", "receipt-id", "r")
	}
	inbox := eventstore.StreamID{Type: "client", ID: "ada"}
	w.append(inbox, eventstore.Event{Type: "added", Form: 1, Data: []byte(`{"n":1}`)}, eventstore.Event{Type: "changed", Form: 1, Data: []byte(`{"n":2}`)})
	got := make(map[string]string)
	for range 4 {
		f := c.want("MESSAGE")
		got[get(f, "subscription")] += string(f.Body)
	}
	if want := map[string]string{"0": `{"n":1}{"n":2}`, "1": `{"n":1}`, "2": `{"n":2}`}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the queues have %v, want %v", got, want)
	}
	c.wantQuiet()
	anonymous := n.stomp("/v1/stomp", "v12.stomp")
	anonymous.send("CONNECT;accept-version:1.2", "SUBSCRIBE;id:1;destination:/user/queue/events")
	anonymous.want("CONNECTED")
	anonymous.wantEnd(command.CodeUnauthenticated, frame.CloseUnauthenticated)
}

func TestSTOMPSubscriptionRestsUntilItsMessagesAreAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 7)
	n.catchUp()
	c := n.joinSTOMP("ada")
	c.send("SUBSCRIBE;id:s;destination:/topic/counter/a;cursor:0;ack:client;prefetch-count:3")
	var acks []string
	for v := 1; v <= 3; v++ {
		acks = append(acks, get(c.want("MESSAGE", "version", fmt.Sprint(v)), "ack"))
	}
	c.wantQuiet()
	c.send("ACK;id:" + acks[1]) // and the first
	acks = append(acks, get(c.want("MESSAGE", "version", "4"), "ack"), get(c.want("MESSAGE", "version", "5"), "ack"))
	c.wantQuiet()
	c.send("ACK;id:" + acks[0]) // again
	c.wantQuiet()
	w.add("counter/a", 1)
	n.catchUp()
	c.wantQuiet()
	c.send("ACK;id:" + acks[4])
	for v := 6; v <= 8; v++ {
		c.want("MESSAGE", "version", fmt.Sprint(v))
	}
	c.wantQuiet()
}

func TestRefusedMessagesComeAgainWithoutTheAcknowledgedOnes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small)
	w.add("counter/a", 5)
	n.catchUp()
	c := n.joinSTOMP("ada")
	c.send("SUBSCRIBE;id:s;destination:/topic/counter/a;cursor:0;ack:client-individual;prefetch-count:4")
	var acks []string
	for v := 1; v <= 4; v++ {
		f := c.want("MESSAGE", "version", fmt.Sprint(v))
		if get(f, "redelivered") != "" {
			t.Errorf("the first delivery is %+v", f)
		}
		acks = append(acks, get(f, "ack"))
	}
	c.send("ACK;id:"+acks[2], "NACK;id:"+acks[1])
	c.want("MESSAGE", "version", "2", "redelivered", "true", "ack", acks[1])
	c.want("MESSAGE", "version", "4", "redelivered", "true", "ack", acks[3])
	c.wantQuiet()
	// A NACK of the acknowledged message changes nothing: 4 does not come again before 5.
	c.send("NACK;id:"+acks[2], "ACK;id:"+acks[0], "ACK;id:"+acks[1])
	if f := c.want("MESSAGE", "version", "5"); get(f, "redelivered") != "" {
		t.Errorf("the first delivery is %+v", f)
	}
}

func TestOlderSTOMPVersionsAcknowledgeByMessageID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 2)
	n.catchUp()
	for version, more := range map[string]string{"1.0": "", "1.1": ";subscription:s"} {
		c := n.stomp("/v1/stomp", "")
		c.send("CONNECT;login:ada;accept-version:"+version, "SUBSCRIBE;id:s;destination:/topic/counter/a;cursor:0;ack:client;prefetch-count:1")
		c.want("CONNECTED", "version", version)
		f := c.want("MESSAGE", "version", "1")
		c.send("ACK;message-id:" + get(f, "message-id") + more)
		c.want("MESSAGE", "version", "2")
		c.send("UNSUBSCRIBE;destination:/topic/counter/a;id:s;receipt:1")
		c.want("RECEIPT", "receipt-id", "1")
	}
}

func TestSTOMPTransactionsAreHandledInOrderAtCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	c := n.joinSTOMP("ada")
	c.send("SUBSCRIBE;id:s;destination:/topic/t", "BEGIN;transaction:a", "BEGIN;transaction:b;receipt:1")
	c.want("RECEIPT", "receipt-id", "1")
	c.send("SEND;destination:/topic/t;transaction:b;;1")
	c.send("SEND;destination:/topic/t;transaction:a;;2")
	c.send("SEND;destination:/topic/t;transaction:b;;3")
	c.wantQuiet()
	c.send("ABORT;transaction:a", "COMMIT;transaction:b;receipt:2")
	got := ""
	for range 3 { // the receipt does not wait for the messages
		f, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		got += string(f.Body)
	}
	if got != "13" {
		t.Errorf("the transaction sent %q, want 13", got)
	}
	c.send("COMMIT;transaction:b")
	c.wantEnd(command.CodeBadRequest, frame.CloseBadFrame)

	c = n.joinSTOMP("ada")
	for i := range 16 {
		c.send(fmt.Sprint("BEGIN;transaction:", i))
	}
	c.send("BEGIN;transaction:17;receipt:r")
	c.wantEnd(command.CodeRateLimited, frame.CloseTooMany, "receipt-id", "r")

	c = n.joinSTOMP("ada")
	c.send("BEGIN;transaction:t")
	for range 20 {
		c.send("SEND;transaction:t;destination:/topic/t;;" + strings.Repeat("x", 60_000))
	}
	c.wantEnd(command.CodeTooLarge, frame.CloseTooLarge)
}

func TestDisconnectIsConfirmedAfterTheOtherReplies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().joinSTOMP("ada")
	c.send("SEND;destination:/app/counter/a/wait;receipt:1;;{}", "DISCONNECT;receipt:2", "SEND;destination:/topic/late")
	close(w.router.release)
	c.want("RECEIPT", "receipt-id", "1")
	c.want("RECEIPT", "receipt-id", "2")
	c.wantClose(1000)
	c = w.node().joinSTOMP("ada")
	c.send("DISCONNECT;receipt:3")
	c.want("RECEIPT", "receipt-id", "3")
	c.wantClose(1000)
	if late, err := w.store.StreamHead(t.Context(), eventstore.StreamID{Type: "topic", ID: "late"}); err != nil || late.Version != 0 {
		t.Errorf("a frame after DISCONNECT was handled: %+v, %v", late, err)
	}
}

func TestSTOMPErrorsEndTheSession(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(func(c *gateway.Config) { c.Limits.Subscriptions = 2 })
	for sent, code := range map[string]command.Code{
		"SEND;destination:/queue/orders;receipt:r":                                          command.CodeBadRequest,
		"SEND;destination:/nowhere;receipt:r":                                               command.CodeBadRequest,
		"SEND;receipt:r":                                                                    command.CodeBadRequest,
		"SEND;destination:/topic/counter/a;receipt:r":                                       command.CodeBadRequest,
		"SEND;destination:/app/counter/a/add;expect:x;receipt:r":                            command.CodeBadRequest,
		"SUBSCRIBE;id:1;destination:/topic/client/bob;receipt:r":                            command.CodeForbidden,
		"SUBSCRIBE;id:1;destination:/topic/client;receipt:r":                                command.CodeForbidden,
		"SUBSCRIBE;id:1;destination:/topic/a.*;receipt:r":                                   command.CodeBadRequest,
		"SUBSCRIBE;id:1;destination:/topic/counter/;receipt:r":                              command.CodeBadRequest,
		"SUBSCRIBE;id:1;destination:/topic/counter/a;cursor:9;receipt:r":                    command.CodeCursorAhead,
		"SUBSCRIBE;id:1;destination:/topic/counter/a;ack:maybe;receipt:r":                   command.CodeBadRequest,
		"SUBSCRIBE;id:1;destination:/topic/counter;after:1;receipt:r":                       command.CodeBadRequest,
		"SUBSCRIBE;destination:/topic/counter/a;receipt:r":                                  command.CodeBadRequest,
		"SUBSCRIBE;id:1;destination:/app/counter/a/add;receipt:r":                           command.CodeBadRequest,
		"SUBSCRIBE;id:1;destination:/topic/counter/a;ack:client;prefetch-count:0;receipt:r": command.CodeBadRequest,
		"UNSUBSCRIBE;id:9;receipt:r":                                                        command.CodeBadRequest,
		"ACK;id:9;receipt:r":                                                                command.CodeBadRequest,
		"BEGIN;receipt:r":                                                                   command.CodeBadRequest,
		"WHAT;receipt:r":                                                                    command.CodeBadRequest,
		"CONNECT;receipt:r":                                                                 command.CodeBadRequest,
		"SEND;receipt:r;content-length:2000000000;destination:/topic/t":                     command.CodeTooLarge,
	} {
		c := n.joinSTOMP("ada")
		c.send(sent)
		f := c.want("ERROR", "receipt-id", "r", "code", string(code))
		if len(f.Body) == 0 {
			t.Errorf("%s: the ERROR has no text", sent)
		}
		if _, err := c.next(); websocket.CloseStatus(err) == -1 {
			t.Errorf("%s: after the ERROR comes %v", sent, err)
		}
	}
	c := n.joinSTOMP("ada")
	c.send("SUBSCRIBE;id:1;destination:/topic/a", "SUBSCRIBE;id:2;destination:/topic/b", "SUBSCRIBE;id:3;destination:/user/queue/errors")
	c.wantEnd(command.CodeRateLimited, frame.CloseTooMany)
}

func TestSTOMPSessionsAreDrainedAndClosedByOperators(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	c := n.joinSTOMP("ada")
	if n.KickClient("ada") != 1 {
		t.Fatal("no session was closed")
	}
	c.wantEnd(command.CodeForbidden, frame.CloseForbidden, "retry", "no")
	c = n.joinSTOMP("bob")
	drained := make(chan error)
	go func() { drained <- n.Drain(context.Background()) }()
	c.wantEnd(command.CodeUnavailable, frame.CloseDraining, "retry", "later")
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestSTOMPHeartBeatsComeToClientsThatWantThem(t *testing.T) {
	t.Parallel()
	for wanted, beats := range map[string]int{"0,10": 3, "0,0": 0, "": 0} {
		stompBubble(t, func(c *gateway.Config) { c.Heartbeat = 10 * time.Second }, func(t *testing.T, _ *gateway.Gateway, dial func() *stomper) {
			c := dial()
			c.send("CONNECT;accept-version:1.2;login:ada;heart-beat:" + wanted)
			c.want("CONNECTED", "heart-beat", "10000,10000")
			c.send("SUBSCRIBE;id:s;destination:/topic/counter/a;receipt:1")
			c.want("RECEIPT")
			answered := make(chan struct{})
			go func() { // the client's library answers pings while it reads
				defer close(answered)
				c.want("RECEIPT", "receipt-id", "2")
			}()
			time.Sleep(35 * time.Second) // of the bubble: three heartbeats
			c.send("ACK;id:none-0;receipt:2")
			<-answered
			if c.beats != beats {
				t.Errorf("heart-beat:%s: got %d, want %d", wanted, c.beats, beats)
			}
		})
	}
}

func TestSTOMPClientsResumeAtAnotherGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.node(), w.node()
	c := first.stomp("/v1/stomp", "v11.stomp")
	c.send("CONNECT;accept-version:1.1;login:ada", "SUBSCRIBE;id:s;destination:/topic/counter/a;receipt:1")
	log := get(c.want("CONNECTED"), "log")
	c.want("RECEIPT")
	w.add("counter/a", 3)
	last := c.want("MESSAGE", "version", "1") // and no more, since its gateway dies
	first.stop()
	w.add("counter/a", 2)
	second.catchUp()
	c = second.stomp("/v1/stomp", "v12.stomp")
	c.send("CONNECT;accept-version:1.2;login:ada;log:"+log, "SUBSCRIBE;id:s;destination:/topic/counter/a;cursor:"+get(last, "cursor"))
	c.want("CONNECTED", "log", log)
	for v := 2; v <= 5; v++ {
		c.want("MESSAGE", "version", fmt.Sprint(v))
	}
	w.add("counter/a", 1)
	c.want("MESSAGE", "version", "6")

	c = second.stomp("/v1/stomp", "v12.stomp")
	c.send("CONNECT;accept-version:1.2;login:ada;log:other", "SUBSCRIBE;id:s;destination:/topic/counter/a;cursor:3;receipt:r")
	c.want("CONNECTED", "log", log)
	c.wantEnd(command.CodeCursorAhead, frame.CloseBadFrame, "receipt-id", "r", "retry", "no")
}

func TestSTOMPSessionsAreDescribed(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	c := n.joinSTOMP("ada")
	c.send("SUBSCRIBE;id:s;destination:/topic/counter/a;receipt:1")
	c.want("RECEIPT")
	_, list := n.Find("ada", 1)
	if len(list) != 1 || list[0].Protocol != "stomp" || list[0].Topics[0].Name != "counter/a" {
		t.Errorf("the session is %+v", list)
	}
}

func TestSTOMPAnswersAndFollowsQueries(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 30, "", "a")
	w := newWorld(t)
	first, second := w.node(with(rows)), w.node(with(rows))
	c := first.joinSTOMP("ada")
	c.send(`SEND;destination:/app/query/cheap;receipt:1;correlation-id:7;;{"max":50}`)
	if f := c.want("MESSAGE", "destination", "/user/queue/replies", "correlation-id", "7", "position", "1"); !strings.Contains(string(f.Body), `"key":"a"`) {
		t.Errorf("the answer is %s", f.Body)
	}
	c.want("RECEIPT", "receipt-id", "1")
	c.send(`SUBSCRIBE;id:once;destination:/app/query/cheap;data:{"max"\c50}`)
	c.want("MESSAGE", "subscription", "once", "destination", "/app/query/cheap")
	c.send(`SUBSCRIBE;id:live;destination:/topic/query/cheap;data:{"max"\c50};receipt:2`)
	c.want("RECEIPT", "receipt-id", "2")
	c.want("MESSAGE", "subscription", "live", "event", "state")
	c.want("MESSAGE", "subscription", "live", "event", "live")
	rows.put("ada", 40, "", "a")
	if f := c.want("MESSAGE", "subscription", "live", "event", "update"); !strings.HasPrefix(string(f.Body), `{"key":"a",`) {
		t.Errorf("the update is %s", f.Body)
	}
	cursor := get(c.want("MESSAGE", "subscription", "live", "event", "synced"), "cursor")
	log := w.store.LogID()
	rows.put("ada", 60, "", "a")
	c = second.stomp("/v1/stomp", "v12.stomp")
	c.send("CONNECT;accept-version:1.2;login:ada;log:"+log, `SUBSCRIBE;id:live;destination:/topic/query/cheap;data:{"max"\c50};cursor:`+cursor)
	c.want("CONNECTED")
	c.wantMessage(`{"keys":[]}`, "subscription", "live", "event", "keys") // no row is left
}

// stompBubble runs a test in a synctest bubble, against a gateway in memory.
func stompBubble(t *testing.T, change func(*gateway.Config), test func(t *testing.T, g *gateway.Gateway, dial func() *stomper)) {
	t.Helper()
	bubbleWithTransport(t, change, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
		test(t, g, func() *stomper {
			c, _, err := dialWith(t, "http://gateway", &http.Client{Transport: transport}, "Sec-WebSocket-Protocol", "v12.stomp")
			if err != nil {
				t.Fatal(err)
			}
			s := &stomper{t: t, conn: c.conn}
			s.decoder.Limits = stomp.Limits{Headers: 100, HeaderBytes: 1 << 16, BodyBytes: 1 << 20}
			return s
		})
	})
}

func TestSTOMPTokensAreRenewed(t *testing.T) {
	t.Parallel()
	stompBubble(t, func(c *gateway.Config) {
		c.Auth = expiring{c.Auth, time.Minute}
	}, func(_ *testing.T, _ *gateway.Gateway, dial func() *stomper) {
		const connect = "CONNECT;accept-version:1.2;passcode:dev:ada"
		c := dial()
		c.send(connect, "SUBSCRIBE;id:s;destination:/user/queue/session", "SEND;destination:/app/auth;receipt:1;;dev:ada")
		c.want("CONNECTED")
		c.want("RECEIPT", "receipt-id", "1")
		c.wantMessage(`{"in_ms":30000}`, "subscription", "s", "event", "expiring")
		c.wantEnd(command.CodeUnauthenticated, frame.CloseUnauthenticated)
		c = dial()
		c.send(connect, "SEND;destination:/app/auth;receipt:2;;dev:bob")
		c.want("CONNECTED")
		c.want("MESSAGE", "destination", "/user/queue/errors", "receipt-id", "2", "code", "unauthenticated")
		c.wantEnd(command.CodeUnauthenticated, frame.CloseUnauthenticated)
	})
}

func TestFrequentSTOMPHeartBeatsMustComeFromTheClientItself(t *testing.T) {
	t.Parallel()
	for heartbeat, isStrict := range map[time.Duration]bool{time.Second: true, 10 * time.Second: false} {
		stompBubble(t, func(c *gateway.Config) { c.Heartbeat = heartbeat }, func(t *testing.T, g *gateway.Gateway, dial func() *stomper) {
			c := dial()
			c.send("CONNECT;accept-version:1.2;login:ada;heart-beat:1000,0")
			c.want("CONNECTED")
			ended := make(chan struct{})
			go func() { // its library answers pings while it reads
				defer close(ended)
				_, _ = c.next()
			}()
			time.Sleep(50 * time.Second) // of the bubble
			if closed := g.Stats().Sessions == 0; closed != isStrict {
				t.Errorf("heartbeats every %v: the silent session is closed: %v", heartbeat, closed)
			}
			_ = c.conn.CloseNow()
			<-ended
		})
	}
}

// A client may beat less often than the gateway.
func TestSTOMPClientIsSilentByItsOwnInterval(t *testing.T) {
	t.Parallel()
	stompBubble(t, func(c *gateway.Config) { c.Heartbeat = time.Second }, func(t *testing.T, g *gateway.Gateway, dial func() *stomper) {
		c := dial()
		c.send("CONNECT;accept-version:1.2;login:ada;heart-beat:4000,0")
		c.want("CONNECTED")
		ended := make(chan struct{})
		go func() { // its library answers pings while it reads
			defer close(ended)
			_, _ = c.next()
		}()
		for range 5 {
			time.Sleep(4 * time.Second) // of the bubble
			if err := c.conn.Write(t.Context(), websocket.MessageText, []byte("\n")); err != nil {
				t.Fatalf("a client that beats every 4 s is closed: %v", err)
			}
		}
		time.Sleep(30 * time.Second) // three intervals, and what a close may take
		if n := g.Stats().Sessions; n != 0 {
			t.Errorf("after 30 s of silence there are %d sessions, want none", n)
		}
		_ = c.conn.CloseNow()
		<-ended
	})
}
