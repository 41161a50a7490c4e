package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/internal/sockettest"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// TestFullSocketLosesNothingAndBreaksNoFrame fills a socket while events and
// concurrent replies are pending, so that messages are written in parts. Every
// frame can be read, every event arrives once and in order, and every request
// has one reply. The close frame of a drained session follows all pending frames.
func TestFullSocketLosesNothingAndBreaksNoFrame(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.SendBuffer = 4 << 10 })
	slow, quick := n.openRaw(), n.join("ada")
	slow.send(sockettest.Text(`{"op":"hello","id":"h","client":"eve"}` + "\n" + `{"op":"subscribe","id":"s","category":"auction"}`))
	for op := ""; op != "live"; op = slow.answer().Op() {
	}
	total := n.fillASocket()
	const requests = 40
	var commands []string
	for i := range requests { // on different streams, so that their replies are concurrent
		commands = append(commands, fmt.Sprintf(`{"op":"command","id":"c%d","aggregate":"counter/%d","command":"add","data":{}}`, i, i))
	}
	slow.send(sockettest.Text(strings.Join(commands, "\n")))
	w.append(eventstore.StreamID{Type: "auction", ID: "1"}, large(50)...) // while the replies are pending
	total += 50
	waitFor(t, func() bool { return n.Stats().Commands == requests }) // the drained session gets the replies to requests that were read
	n.catchUp()
	quick.send(`{"op":"ping","id":"p"}`) // a client that reads is not affected
	want[frame.Pong](quick)
	if n.Stats().Full == 0 {
		t.Fatal("the socket has room before anything was read from it")
	}
	if moved := n.Move(t.Context(), 2); moved != 2 {
		t.Fatalf("%d sessions were drained, want 2", moved)
	}

	if err := slow.conn.SetDeadline(time.Now().Add(patience)); err != nil { // extend it
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
		t.Errorf("%d of %d replies and %d of %d events arrived before the goodbye", len(answered), requests, version, total)
	}
}
