package stomp

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/go-stomp/stomp/v3/frame"
)

// rules are what RabbitMQ and gateways have in common. The sections are those of the
// specification of STOMP 1.2.
var rules = []struct {
	name string
	run  func(*testing.T, server)
}{
	{"ServerChoosesTheHighestCommonVersion", serverChoosesTheHighestCommonVersion},
	{"ServerBeatsForClientsThatWantIt", serverBeatsForClientsThatWantIt},
	{"SilentClientIsDisconnected", silentClientIsDisconnected},
	{"MessageReachesEachSubscription", messageReachesEachSubscription},
	{"MessagesArriveInOrder", messagesArriveInOrder},
	{"UnsubscribedClientGetsNoMessages", unsubscribedClientGetsNoMessages},
	{"EachFrameGetsItsReceipt", eachFrameGetsItsReceipt},
	{"CumulativeAckReleasesEarlierMessages", cumulativeAckReleasesEarlierMessages},
	{"IndividualAckIsForOneMessage", individualAckIsForOneMessage},
	{"OlderVersionsAcknowledgeByMessageID", olderVersionsAcknowledgeByMessageID},
	{"RefusedMessageIsDeliveredAgain", refusedMessageIsDeliveredAgain},
	{"TransactionsHoldMessagesUntilCommit", transactionsHoldMessagesUntilCommit},
	{"TransactionsHoldAcknowledgementsUntilCommit", transactionsHoldAcknowledgementsUntilCommit},
	{"BodiesArriveUnchanged", bodiesArriveUnchanged},
	{"FramesMaySpanMessages", framesMaySpanMessages},
	{"CarriageReturnsMayEndLines", carriageReturnsMayEndLines},
	{"HeadersKeepSpecialCharacters", headersKeepSpecialCharacters},
	{"InvalidFramesGetAnError", invalidFramesGetAnError},
}

func TestServersFollowTheRules(t *testing.T) {
	t.Parallel()
	for _, s := range []server{rabbit(), gateway(t)} {
		for _, rule := range rules {
			t.Run(s.name+"/"+rule.name, func(t *testing.T) {
				t.Parallel()
				rule.run(t, s)
			})
		}
	}
}

// Section "Protocol Negotiation".
func serverChoosesTheHighestCommonVersion(t *testing.T, s server) {
	for accept, want := range map[string]string{
		"":                             "1.0",
		"accept-version:1.0\n":         "1.0",
		"accept-version:1.0,1.1,2.0\n": "1.1",
		"accept-version:1.2,1.1,1.0\n": "1.2",
		"accept-version:1.2\n":         "1.2",
	} {
		for _, command := range []string{"CONNECT", "STOMP"} {
			c := dial(t, s)
			c.send("%s\n%shost:/\nlogin:%s\npasscode:%s\n\n\x00", command, accept, s.login, s.passcode)
			if f := c.take("CONNECTED"); f.Header.Get("version") != want || f.Header.Get("session") == "" {
				t.Errorf("%s with %q gets\n%s, want version:%s and a session", command, accept, text(f), want)
			}
		}
	}
	c := dial(t, s)
	c.send("CONNECT\naccept-version:2.0,9.9\nhost:/\nlogin:%s\npasscode:%s\n\n\x00", s.login, s.passcode)
	if f := c.take("ERROR"); f.Header.Get("version") != "1.0,1.1,1.2" || f.Header.Get("message") == "" {
		t.Errorf("a client of other versions gets\n%s, want those of the server", text(f))
	}
}

// Section "Heart-beating".
func serverBeatsForClientsThatWantIt(t *testing.T, s server) {
	c := dial(t, s)
	c.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:%s\npasscode:%s\nheart-beat:1000,1000\n\n\x00", s.login, s.passcode)
	var sends, wants int
	f := c.take("CONNECTED")
	if _, err := fmt.Sscanf(f.Header.Get("heart-beat"), "%d,%d", &sends, &wants); err != nil || sends == 0 {
		t.Fatalf("CONNECTED is\n%s, want a heart-beat of the server", text(f))
	}
	// A client that answers each heart-beat stays connected.
	for range 3 {
		c.beat()
		c.send("\n")
	}
	topic := newTopic()
	c.subscribe("1", topic, "")
	c.publish(topic, "still here")
	c.message("1", "still here")
}

// The client answers pings of the WebSocket, but sends none of the heart-beats that
// it has promised.
func silentClientIsDisconnected(t *testing.T, s server) {
	c := dial(t, s)
	c.send("CONNECT\naccept-version:1.2\nhost:/\nlogin:%s\npasscode:%s\nheart-beat:1000,0\n\n\x00", s.login, s.passcode)
	c.take("CONNECTED")
	c.end()
}

// Sections "SEND", "MESSAGE".
func messageReachesEachSubscription(t *testing.T, s server) {
	topic := newTopic()
	a, b := connect(t, s), connect(t, s)
	a.subscribe("a1", topic, "")
	a.subscribe("a2", topic, "ack:auto\n")
	b.subscribe("b", topic, "")
	b.send("SEND\ndestination:%s\ncontent-type:text/x-test;charset=utf-8\nx-own:first\nx-own:second\ncontent-length:7\n\n\"häy\" \x00", topic)
	ids := map[string]bool{}
	for _, f := range []*frame.Frame{a.message("a1", `"häy" `), a.message("a2", `"häy" `), b.message("b", `"häy" `)} {
		for name, want := range map[string]string{"destination": topic, "content-type": "text/x-test;charset=utf-8", "x-own": "first", "content-length": "7"} {
			if got := f.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q:\n%s", name, got, want, text(f))
			}
		}
		if _, ok := f.Header.Contains("ack"); ok {
			t.Errorf("a message without acknowledgement has the header ack:\n%s", text(f))
		}
		ids[f.Header.Get("message-id")] = true
	}
	if ids[""] {
		t.Error("a message has no message-id")
	}
}

func messagesArriveInOrder(t *testing.T, s server) {
	topic := newTopic()
	from, to := connect(t, s), connect(t, s)
	to.subscribe("1", topic, "")
	const n = 200
	for i := range n {
		from.publish(topic, fmt.Sprint(i))
	}
	ids := map[string]bool{}
	for i := range n {
		ids[to.message("1", fmt.Sprint(i)).Header.Get("message-id")] = true
	}
	if len(ids) != n {
		t.Errorf("%d messages have %d different ids", n, len(ids))
	}
}

// Sections "SUBSCRIBE", "UNSUBSCRIBE".
func unsubscribedClientGetsNoMessages(t *testing.T, s server) {
	topic := newTopic()
	c := connect(t, s)
	c.subscribe("1", topic, "")
	c.publish(topic, "before")
	c.message("1", "before")
	c.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\x00")
	c.take("RECEIPT", "receipt-id:u")
	c.publish(topic, "after")
	c.fence()
	c.noMessage("1")
	c.subscribe("1", topic, "") // the id is free again
	c.publish(topic, "again")
	c.message("1", "again")
}

// Section "RECEIPT".
func eachFrameGetsItsReceipt(t *testing.T, s server) {
	topic := newTopic()
	c := connect(t, s)
	c.send("SUBSCRIBE\nid:1\ndestination:%s\nack:client-individual\nreceipt:subscribe:\\c\\\\\\n\n\n\x00", topic)
	c.take("RECEIPT", "receipt-id:subscribe::\\\n")
	c.send("SEND\ndestination:%s\nreceipt:send\n\na\x00", topic)
	c.take("RECEIPT", "receipt-id:send")
	c.send("ACK\nid:%s\nreceipt:ack\n\n\x00", c.message("1", "a").Header.Get("ack"))
	c.take("RECEIPT", "receipt-id:ack")
	for _, command := range []string{"BEGIN", "COMMIT", "BEGIN", "ABORT"} {
		c.send("%s\ntransaction:t\nreceipt:%s\n\n\x00", command, command)
		c.take("RECEIPT", "receipt-id:"+command)
	}
	c.send("UNSUBSCRIBE\nid:1\nreceipt:unsubscribe\n\n\x00")
	c.take("RECEIPT", "receipt-id:unsubscribe")
	c.send("DISCONNECT\n\n\x00") // RabbitMQ ends the connection without a receipt
	c.end()
}

// Section "SUBSCRIBE ack Header". prefetch-count is an extension of RabbitMQ.
func cumulativeAckReleasesEarlierMessages(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "ack:client\nprefetch-count:3\n")
	for i := range 7 {
		c.publish(topic, fmt.Sprint(i))
	}
	c.message("1", "0")
	second := c.message("1", "1")
	c.message("1", "2")
	c.fence()
	c.noMessage("1")
	c.send("ACK\nid:%s\n\n\x00", second.Header.Get("ack"))
	c.message("1", "3")
	last := c.message("1", "4")
	c.fence()
	c.noMessage("1")
	c.send("ACK\nid:%s\n\n\x00", last.Header.Get("ack"))
	c.message("1", "5")
	c.message("1", "6")
}

// An acknowledged message does not acknowledge those before it. RabbitMQ then sends
// another message; a gateway sends none beyond the window of the oldest one.
func individualAckIsForOneMessage(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "ack:client-individual\nprefetch-count:2\n")
	for i := range 4 {
		c.publish(topic, fmt.Sprint(i))
	}
	first, second := c.message("1", "0"), c.message("1", "1")
	c.fence()
	c.noMessage("1")
	c.send("ACK\nid:%s\n\n\x00", second.Header.Get("ack"))
	c.fence()
	if n := c.count("1"); n > 1 {
		t.Errorf("%d messages have arrived, although the first one is not acknowledged", n)
	}
	c.send("ACK\nid:%s\n\n\x00", first.Header.Get("ack"))
	c.message("1", "2")
	c.message("1", "3")
}

// In 1.1, ACK names the subscription and the message-id; in 1.0, the message-id.
func olderVersionsAcknowledgeByMessageID(t *testing.T, s server) {
	for version, ack := range map[string]string{"1.0": "", "1.1": "subscription:1\n"} {
		topic := newTopic()
		c := dial(t, s)
		c.send("CONNECT\naccept-version:%s\nhost:/\nlogin:%s\npasscode:%s\n\n\x00", version, s.login, s.passcode)
		c.take("CONNECTED", "version:"+version)
		c.subscribe("1", topic, "ack:client\nprefetch-count:1\n")
		c.publish(topic, "a")
		c.publish(topic, "b")
		id := c.message("1", "a").Header.Get("message-id")
		c.fence()
		c.noMessage("1")
		c.send("ACK\n%smessage-id:%s\n\n\x00", ack, escape(version, id))
		c.message("1", "b")
	}
}

func escape(version, value string) string {
	if version == "1.0" {
		return value
	}
	return strings.NewReplacer(`\`, `\\`, ":", `\c`).Replace(value)
}

// Section "NACK".
func refusedMessageIsDeliveredAgain(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "ack:client-individual\nprefetch-count:1\n")
	c.publish(topic, "a")
	c.publish(topic, "b")
	c.send("NACK\nid:%s\n\n\x00", c.message("1", "a").Header.Get("ack"))
	again := c.message("1", "a")
	if again.Header.Get("redelivered") != "true" {
		t.Errorf("the message after NACK is\n%s, want redelivered:true", text(again))
	}
	c.send("ACK\nid:%s\n\n\x00", again.Header.Get("ack"))
	c.message("1", "b")
}

// Sections "BEGIN", "COMMIT", "ABORT".
func transactionsHoldMessagesUntilCommit(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "")
	for _, name := range []string{"t1", "t2"} { // two are open together
		c.send("BEGIN\ntransaction:%s\n\n\x00", name)
		c.send("SEND\ndestination:%s\ntransaction:%s\n\n%s a\x00", topic, name, name)
		c.send("SEND\ndestination:%s\ntransaction:%s\n\n%s b\x00", topic, name, name)
	}
	c.publish(topic, "outside")
	c.message("1", "outside")
	c.fence()
	c.noMessage("1")
	c.send("ABORT\ntransaction:t1\n\n\x00")
	c.send("COMMIT\ntransaction:t2\n\n\x00")
	c.message("1", "t2 a")
	c.message("1", "t2 b")
	c.fence()
	c.noMessage("1")
}

func transactionsHoldAcknowledgementsUntilCommit(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "ack:client-individual\nprefetch-count:1\n")
	c.publish(topic, "a")
	c.publish(topic, "b")
	ack := c.message("1", "a").Header.Get("ack")
	for _, end := range []string{"ABORT", "COMMIT"} {
		c.send("BEGIN\ntransaction:t\n\n\x00ACK\nid:%s\ntransaction:t\n\n\x00", ack)
		c.fence()
		c.noMessage("1")
		c.send("%s\ntransaction:t\nreceipt:%s\n\n\x00", end, end)
		c.take("RECEIPT", "receipt-id:"+end)
	}
	c.message("1", "b")
}

// Section "Body", header content-length. A WebSocket message may be text or binary.
func bodiesArriveUnchanged(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "")
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, body := range []string{"", "a", "\x00", "a\x00b\nMESSAGE\n\n\x00", "äöü", string(all), strings.Repeat(string(all), 100), strings.Repeat("text ", 10_000)} {
		message := fmt.Sprintf("SEND\ndestination:%s\ncontent-length:%d\n\n%s\x00", topic, len(body), body)
		c.write(websocket.MessageBinary, message)
		c.message("1", body)
		if utf8.ValidString(body) {
			c.write(websocket.MessageText, message)
			c.message("1", body)
		}
	}
	c.publish(topic, "the first NUL ends it") // without content-length
	c.message("1", "the first NUL ends it")
}

// Section "STOMP Frames": a stream of frames, whatever the messages of the WebSocket.
func framesMaySpanMessages(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe("1", topic, "")
	body := bytes.Repeat([]byte("0123456789abcdef\x00"), 2500)
	stream := fmt.Sprintf("SEND\ndestination:%s\n\nfirst\x00\n\n\r\nSEND\ndestination:%s\ncontent-length:%d\n\n%s\x00\nSEND\ndestination:%s\n\nlast\x00", topic, topic, len(body), body, topic)
	for _, size := range []int{len(stream), 8 << 10, 1000, 7} { // stompjs splits at 8 KiB
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			c.write(websocket.MessageBinary, rest[:n])
			rest = rest[n:]
		}
		c.message("1", "first")
		c.message("1", string(body))
		c.message("1", "last")
	}
}

// Section "Augmented BNF".
func carriageReturnsMayEndLines(t *testing.T, s server) {
	topic := newTopic()
	c := dial(t, s)
	c.send("CONNECT\r\naccept-version:1.2\r\nhost:/\r\nlogin:%s\r\npasscode:%s\r\n\r\n\x00\r\n", s.login, s.passcode)
	c.take("CONNECTED", "version:1.2")
	c.send("SUBSCRIBE\r\nid:1\r\ndestination:%s\r\n\r\n\x00SEND\r\ndestination:%s\r\nx-own:a\r\n\r\nb\r\n\x00", topic, topic)
	if f := c.message("1", "b\r\n"); f.Header.Get("x-own") != "a" {
		t.Errorf("the message is\n%s, want x-own:a", text(f))
	}
}

// Section "Value Encoding".
func headersKeepSpecialCharacters(t *testing.T, s server) {
	c, topic := connect(t, s), newTopic()
	c.subscribe(`i\cd`, topic, "")
	c.send("SEND\ndestination:%s\n%s\n\n\x00", topic, `x\cown:\\a\cb\n\r \\n`)
	f := c.message("i:d", "")
	if got := f.Header.Get("x:own"); got != "\\a:b\n\r \\n" {
		t.Errorf("x:own is %q:\n%s", got, text(f))
	}
}

// Section "ERROR". RabbitMQ leaves out receipt-id and continues the session; the
// specification asks for both: receipt-id, and the end of the connection.
func invalidFramesGetAnError(t *testing.T, s server) {
	for _, sent := range []string{
		"SEND\nreceipt:r\n\nx\x00",
		"SEND\ndestination:/nowhere/x\nreceipt:r\n\nx\x00",
		"SUBSCRIBE\nid:1\nreceipt:r\n\n\x00",
		"SUBSCRIBE\nid:1\ndestination:/nowhere/x\nreceipt:r\n\n\x00",
		"SUBSCRIBE\nid:1\ndestination:/topic/x\nack:never\nreceipt:r\n\n\x00",
		"UNSUBSCRIBE\nid:1\nreceipt:r\n\n\x00",
		"ACK\nreceipt:r\n\n\x00",
		"ACK\nid:unknown\nreceipt:r\n\n\x00",
		"NACK\nid:unknown\nreceipt:r\n\n\x00",
		"BEGIN\nreceipt:r\n\n\x00",
		"COMMIT\ntransaction:t\nreceipt:r\n\n\x00",
		"ABORT\ntransaction:t\nreceipt:r\n\n\x00",
		"SEND\ndestination:/topic/x\ntransaction:t\nreceipt:r\n\n\x00",
		"JUMP\nreceipt:r\n\n\x00",
	} {
		c := connect(t, s)
		c.send("%s", sent)
		wantError(t, s, c, sent)
	}
	early := "SUBSCRIBE\nid:1\ndestination:/topic/x\nreceipt:r\n\n\x00"
	c := dial(t, s)
	c.send("%s", early)
	wantError(t, s, c, early)
}

func wantError(t *testing.T, s server, c *conn, cause string) {
	t.Helper()
	f := c.take("ERROR")
	if f.Header.Get("message") == "" || len(f.Body) == 0 {
		t.Errorf("%q gets\n%s, want a message and a body", cause, text(f))
	}
	if s.name == rabbit().name {
		return
	}
	if f.Header.Get("receipt-id") != "r" {
		t.Errorf("%q gets\n%s, want receipt-id:r", cause, text(f))
	}
	c.end()
}
