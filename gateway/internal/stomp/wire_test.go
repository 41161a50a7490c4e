package stomp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// answerer is a session that answers each request, now or later, and keeps what the
// client gets.
type answerer struct {
	t      testing.TB
	w      *Wire
	r      *rand.Rand
	limits limits.Limits
	open   []frame.Request
	sent   []byte
	over   bool
	ended  chan struct{}
}

func newAnswerer(t testing.TB, r *rand.Rand) *answerer {
	a := &answerer{t: t, r: r, ended: make(chan struct{}), limits: limits.Limits{FrameBytes: 1 << 10, Subscriptions: 4}}
	a.w = New(&Config{Server: "test", TrustsLogin: true, HasType: func(typ string) bool { return typ == "auction" || typ == TopicType }}, nil)
	a.w.decoder.Limits = Limits{Headers: maxHeaders, HeaderBytes: maxHeaderBytes, BodyBytes: a.limits.FrameBytes}
	return a
}

func (a *answerer) Limits() *limits.Limits        { return &a.limits }
func (a *answerer) Reached(limits.Kind)           {}
func (a *answerer) Done() <-chan struct{}         { return a.ended }
func (a *answerer) Acquire() bool                 { return !a.over }
func (a *answerer) Acknowledge(ack wire.Ack) bool { return ack.Position%2 == 0 }

func (a *answerer) Handle(f frame.Request) {
	a.open = append(a.open, f)
	switch f.(type) {
	case frame.Hello:
		a.answer()
	case frame.Subscribe: // later frames may wait for it
		for len(a.open) > 0 {
			a.answer()
		}
	default:
		if a.r.IntN(2) == 0 {
			a.answer()
		}
	}
}

func (a *answerer) Malformed(err error) command.Code {
	bad := err.(*frame.Error)
	a.send(wire.Fault(bad.ID, bad.Key, bad.Failure()))
	return bad.Code
}

// answer answers the oldest open request.
func (a *answerer) answer() {
	f := a.open[0]
	a.open = a.open[1:]
	id := f.RequestID()
	if _, isHello := f.(frame.Hello); !isHello && a.r.IntN(8) == 0 {
		a.send(wire.Fault(id, "", command.Forbidden("no")))
		return
	}
	switch f := f.(type) {
	case frame.Hello:
		a.send(frame.Welcome{ID: id, Session: "s", Client: "ada", Log: "l", Cursor: "0"})
	case frame.Subscribe:
		a.w.Terms(id)
		a.send(frame.Subscribed{ID: id, Cursor: "1"})
		a.send(frame.State{Sub: id, Version: 1, Data: []byte(`{}`)})
	case frame.Unsubscribe:
		a.send(frame.Unsubscribed{ID: id, Sub: f.Sub})
	case frame.Ping:
		a.send(frame.Pong{ID: id})
	default:
		a.send(frame.Result{ID: id, Key: "k", Version: 1, Position: 1, Data: []byte(`{}`)})
	}
}

func (a *answerer) send(f frame.Frame) {
	if a.over {
		return
	}
	a.sent = append(a.sent, a.w.Frame(f)...)
	if code, reason := a.w.CloseAfter(f); code != 0 {
		a.close(code, reason)
	}
}

func (a *answerer) close(code int, reason string) {
	if !a.over {
		message := a.w.Close(code, reason)
		if i := bytes.Index(message, []byte("ERROR\n")); i >= 0 {
			message = message[i:]
			a.sent = append(a.sent, message[:bytes.IndexByte(message, 0)+1]...)
		}
		a.over = true
	}
}

// feed handles a message of the client.
func (a *answerer) feed(message string) {
	more, failure := a.w.readMessage(strings.NewReader(message), a)
	if failure != nil {
		a.close(failure.closeCode(), failure.short())
	}
	a.over = a.over || !more
}

// check parses what the client got.
func (a *answerer) check() {
	a.t.Helper()
	d := Decoder{Limits: Limits{Headers: 100, HeaderBytes: 1 << 20, BodyBytes: 1 << 20}}
	receipts := map[string]int{}
	isOver := false
	for rest := a.sent; len(rest) > 0; {
		f, more, err := d.Decode(rest)
		if err != nil || f == nil && len(bytes.Trim(more, "\n")) > 0 {
			a.t.Fatalf("the client can't read %q: %v", rest, err)
		}
		if rest = more; f == nil {
			break
		}
		if isOver {
			a.t.Fatalf("after the ERROR comes %+v", f)
		}
		if f.Command == "CONNECTED" {
			version, _ := f.Get("version")
			d.Version, _ = newest(version)
		}
		isOver = f.Command == "ERROR"
		if id, ok := f.Get("receipt-id"); ok && f.Command == "RECEIPT" {
			if receipts[id]++; receipts[id] > 1 {
				a.t.Fatalf("the receipt %s was sent twice", id)
			}
		}
	}
}

// randomFrame returns a frame, mostly a valid one.
func randomFrame(r *rand.Rand, receipt int) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	headers := []string{
		"destination:" + pick("/topic/auction/1", "/topic/auction", "/topic/free", "/app/auction/1/bid", "/app/auction/1", "/app/query/q", "/topic/query/q",
			"/user/queue/errors", "/user/queue/events", "/app/auth", "/queue/x", "", "/", "//", "/topic/", "/app//"),
		"id:" + pick("1", "2", "3", "1-7", "2-8", "-", "x"),
	}
	for _, h := range []string{
		fmt.Sprint("receipt:", receipt), "ack:" + pick("auto", "client", "client-individual", "?"), "transaction:" + pick("a", "b"), "reply-to:/temp-queue/x",
		"cursor:1", "after:1", "state:true", "message-id:l-7", "subscription:1", "prefetch-count:" + pick("1", "0", "x"), "a\\cb:x\\ny", "bad\\escape:1", "content-length:" + pick("0", "2", "9999999999"),
	} {
		if r.IntN(6) == 0 {
			headers = append(headers, h)
		}
	}
	return pick("SEND", "SEND", "SUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT", "CONNECT", "X") + "\n" +
		strings.Join(headers, "\n") + "\n\n" + pick("", "{}", `{"a":1}`, "text", `{},"op":"x"`, strings.Repeat("y", 2000)) + "\x00"
}

func TestAnySequenceOfFramesIsAnswered(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		a := newAnswerer(t, r)
		a.feed("CONNECT\nlogin:ada\naccept-version:" + []string{"1.0", "1.1", "1.2"}[r.IntN(3)] + "\n\n\x00")
		for n := 0; n < 30 && !a.over; n++ {
			a.feed(randomFrame(r, n))
			if len(a.open) > 0 && r.IntN(3) == 0 {
				a.answer()
			}
		}
		for len(a.open) > 0 && !a.over {
			a.answer()
		}
		a.check()
		if len(a.w.pending) > 0 && !a.over {
			t.Errorf("seed %d: %d requests are pending although all were answered", seed, len(a.w.pending))
		}
		if len(a.w.subs) > a.limits.Subscriptions {
			t.Errorf("seed %d: there are %d subscriptions", seed, len(a.w.subs))
		}
		if t.Failed() {
			return
		}
	}
}

func FuzzSession(f *testing.F) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		f.Add(seed, "CONNECT\naccept-version:1.2\nlogin:ada\n\n\x00"+randomFrame(r, 1)+randomFrame(r, 2))
	}
	f.Fuzz(func(t *testing.T, seed uint64, message string) {
		a := newAnswerer(t, rand.New(rand.NewPCG(seed, 3)))
		a.feed(message)
		for len(a.open) > 0 && !a.over {
			a.answer()
		}
		a.check()
	})
}

func TestClosedTransactionsFreeTheirBytes(t *testing.T) {
	t.Parallel()
	var held transactions
	for range 100 {
		if failure := held.begin("t"); failure != nil {
			t.Fatal(failure)
		}
		for range 3 {
			if failure := held.add("t", &Frame{Command: "SEND", Body: make([]byte, 100)}, 1000); failure != nil {
				t.Fatal(failure)
			}
		}
		if frames, ok := held.take("t"); len(frames) != 3 || !ok {
			t.Fatalf("the transaction has %d frames", len(frames))
		}
	}
	if held.bytes != 0 {
		t.Errorf("%d bytes are held", held.bytes)
	}
}
