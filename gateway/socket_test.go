package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// TestAFullSocketLosesNothingAndBreaksNoFrame fills a socket while events and
// the answers of concurrent requests are due on it, so that messages are
// written in parts. What then comes out is whole: every frame can be read, every
// event comes once and in order, every request is answered once, and the close
// frame of a gateway that moves the session stands between two messages, after
// all that was owed.
func TestAFullSocketLosesNothingAndBreaksNoFrame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.SendBuffer = 4 << 10 })
	slow, quick := n.openRaw(), n.join("ada")
	slow.send(text(`{"op":"hello","id":"h","client":"eve"}` + "\n" + `{"op":"subscribe","id":"s","category":"auction"}`))
	for op := ""; op != "live"; op = slow.answer().Op() {
	}
	total := n.fillASocket()
	const requests = 40
	var commands []string
	for i := range requests { // on streams of their own, so that they are answered concurrently
		commands = append(commands, fmt.Sprintf(`{"op":"command","id":"c%d","aggregate":"counter/%d","command":"add","data":{}}`, i, i))
	}
	slow.send(text(strings.Join(commands, "\n")))
	w.append(eventstore.StreamID{Type: "auction", ID: "1"}, large(50)...) // meanwhile
	total += 50
	waitFor(t, func() bool { return n.Stats().Commands == requests }) // what is read when it is sent away is answered
	n.settle()
	quick.send(`{"op":"ping","id":"p"}`) // who is not slow notices nothing
	want[frame.Pong](quick)
	if n.Stats().Full == 0 {
		t.Fatal("the socket has room before anything was read from it")
	}
	if moved := n.Move(t.Context(), 2); moved != 2 {
		t.Fatalf("%d sessions were sent away, not 2", moved)
	}

	if err := slow.conn.SetDeadline(time.Now().Add(patience)); err != nil { // a new one
		t.Fatal(err)
	}
	version, answered, goodbye := 0, map[string]bool{}, false
	for !goodbye {
		switch f := slow.answer().(type) {
		case frame.Event:
			if version++; int(f.Version) != version {
				t.Fatalf("got version %d, want %d", f.Version, version)
			}
		case frame.Result:
			if answered[f.ID] {
				t.Errorf("%s was answered twice", f.ID)
			}
			answered[f.ID] = true
		case frame.Goodbye:
			goodbye = true
		}
	}
	slow.wantEnd(frame.CloseDraining)
	if len(answered) != requests || version != total {
		t.Errorf("%d answers of %d and %d events of %d came before the goodbye", len(answered), requests, version, total)
	}
}
