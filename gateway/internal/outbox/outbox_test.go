package outbox_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
)

// lines is a wire that sends a frame a line.
type lines struct{ wire.WebSocket }

func (lines) Message(b []byte) []byte { return append(b[wire.HeaderRoom:], '\n') }
func (lines) Ping() []byte            { return []byte("ping\n") }
func (lines) Close(_ int, reason string) []byte {
	return []byte("close " + reason + "\n")
}

// owner is a session that records what its outbox reports.
type owner struct {
	sync.Mutex
	out     outbox.Outbox
	shared  *outbox.Shared
	writing sync.WaitGroup

	scheduled int
	replies   int
	isClosed  bool
	cut       []bool // readNothing of each
}

func (o *owner) ScheduleWrite() { o.scheduled++ }
func (o *owner) Blocked()       { o.writing.Go(o.out.WriteRest) }
func (o *owner) Failed()        { o.isClosed = true }
func (o *owner) Sent(replies int, isLast bool) {
	o.replies += replies
	o.isClosed = o.isClosed || isLast
}

func (o *owner) Cut(readNothing bool) {
	o.Lock()
	defer o.Unlock()
	o.cut = append(o.cut, readNothing)
	o.out.End()
}

// newOwner returns a session whose blocking writes go to conn. Writes without
// blocking call try.
func newOwner(conn net.Conn, try func([]byte) (int, error)) *owner {
	counters, log := &limits.Counters{}, slog.New(slog.DiscardHandler)
	o := &owner{shared: &outbox.Shared{Budget: limits.NewBudget(1000, counters, log), QueueBytes: 100}}
	o.out.Init(&o.Mutex, o, o.shared)
	o.out.Attach(socket.New(conn, socket.Options{Grace: time.Minute, TryWrite: try}), lines{})
	return o
}

// write writes messages until nothing is left.
func (o *owner) write() {
	o.Lock()
	defer o.Unlock()
	for o.out.CanWrite() && (o.out.HasFrames() || o.out.HasControl()) {
		d := o.out.Begin(nil, 20)
		if !o.out.Send(o.out.Seal(&d)) {
			return
		}
	}
}

// recorded is a socket that takes everything.
func recorded(into *bytes.Buffer) func([]byte) (int, error) { return into.Write }

func TestFramesAreWrittenInOrderWithTheCloseLast(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	o := newOwner(nil, recorded(&got))
	o.out.Attach(socket.New(&net.TCPConn{}, socket.Options{TryWrite: recorded(&got)}), lines{})
	for _, f := range []string{"first", "second", "third", "fourth"} {
		if !o.out.Add([]byte(f), f != "third") {
			t.Fatalf("%s was not accepted", f)
		}
	}
	o.out.Ping()
	o.out.Close([]byte("close bye\n"))
	if o.out.Add([]byte("late"), true) {
		t.Error("a closing outbox accepted a frame")
	}
	o.write()
	if want := "ping\nfirst\nsecond\nthird\nfourth\nclose bye\n"; got.String() != want {
		t.Errorf("wrote %q, want %q", got.String(), want)
	}
	if o.replies != 3 || !o.isClosed || o.out.Bytes() != 0 || o.shared.Budget.Used() != 0 {
		t.Errorf("%d replies, closed %v, %d bytes left, want 3, true, 0", o.replies, o.isClosed, o.out.Bytes())
	}
}

func TestFullSocketGetsTheRestOfItsMessageFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		var got bytes.Buffer
		o := newOwner(server, func(b []byte) (int, error) { return got.Write(b[:min(3, len(b))]) })
		o.out.Add([]byte("a reply"), true)
		o.write()
		if o.out.CanWrite() || o.shared.Full() != 1 || o.replies != 0 {
			t.Errorf("can write %v, %d full, %d replies, want a full socket", o.out.CanWrite(), o.shared.Full(), o.replies)
		}
		rest := make([]byte, len("eply\n"))
		if _, err := io.ReadFull(client, rest); err != nil {
			t.Fatal(err)
		}
		o.writing.Wait()
		if all := got.String() + string(rest); all != "a reply\n" || !o.out.CanWrite() || o.replies != 1 || o.shared.Budget.Used() != 0 {
			t.Errorf("wrote %q, can write %v, %d replies, want all", all, o.out.CanWrite(), o.replies)
		}
	})
}

func TestPeerThatReadsNothingIsCutAfterTheGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, server := net.Pipe()
		o := newOwner(server, func([]byte) (int, error) { return 0, nil })
		o.out.Add([]byte("a reply"), true)
		began := time.Now()
		o.write()
		o.writing.Wait()
		if !slices.Equal(o.cut, []bool{true}) || time.Since(began) < time.Minute || !o.out.HasEnded() {
			t.Errorf("cut %v after %v, want once after a minute, for reading nothing", o.cut, time.Since(began))
		}
	})
}

func TestEvictionDropsRepliesAndFreesTheBudget(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	o := newOwner(&net.TCPConn{}, recorded(&got))
	for range 5 {
		o.out.Add([]byte(strings.Repeat("x", 50)), true)
	}
	if o.out.HasRoom() || o.shared.Budget.Used() != 250 {
		t.Errorf("has room %v with %d bytes, want none with 250", o.out.HasRoom(), o.shared.Budget.Used())
	}
	replies, ok := o.out.Evict(4100, "evicted")
	if replies != 5 || !ok || o.shared.Budget.Used() != 0 {
		t.Errorf("dropped %d replies, %v, %d bytes left, want 5 and 0 bytes", replies, ok, o.shared.Budget.Used())
	}
	if _, ok := o.out.Evict(4100, "evicted"); ok {
		t.Error("an outbox was evicted twice")
	}
	if _, isFreeing := o.out.Held(); !isFreeing {
		t.Error("an evicted outbox does not report that it frees its bytes")
	}
	o.write()
	if got.String() != "close evicted\n" {
		t.Errorf("wrote %q, want the close frame alone", got.String())
	}
}
