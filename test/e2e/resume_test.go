package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestResumeOnAnotherGateway cuts two clients of one gateway, one that follows a
// stream and one that follows its category, and stores events that they miss.
// With their cursors they resume on the other gateway. Each receives every
// missed event once and in order, and then live events. GANGLION_FAULTS=long adds
// a million missed events.
func TestResumeOnAnotherGateway(t *testing.T) {
	t.Parallel()
	missed := []int{1, 1000}
	if long {
		missed = append(missed, 1_000_000)
	}
	url := database(t)
	c := startCluster(t, url, []string{"domain", "gateway", "gateway"})
	store, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l := &appender{t: t, store: store, versions: map[string]eventstore.Version{}}

	l.add("a", 3)
	stream := &follower{t: t, subscribe: `"stream":"counter/a"`}
	category := &follower{t: t, subscribe: `"category":"counter"`}
	for i, n := range missed {
		here, there := c.members[1+i%2].URLs[0], c.members[2-i%2].URLs[0]
		for _, f := range []*follower{stream, category} {
			f.connect(here)
			f.until(l.versions["a"], l.position)
			f.conn.CloseNow()
		}
		for left := n; left > 0; left -= 100 { // with events of another stream between them
			l.add("a", min(left, 100))
			l.add("b", 1)
		}
		// The clients resume one after the other. Otherwise one would not read while
		// the other receives a million events, and the gateway would close it.
		for _, f := range []*follower{stream, category} {
			began := time.Now()
			f.connect(there)
			f.until(l.versions["a"], l.position)
			t.Logf("after %d missed events of the stream, %s was up to date after %v", n, f.subscribe, time.Since(began).Round(time.Millisecond))
			l.add("a", 2)
			f.until(l.versions["a"], l.position)
			f.conn.CloseNow()
		}
	}
}

// appender stores events of counters, as a node does.
type appender struct {
	t        *testing.T
	store    *postgres.Store
	versions map[string]eventstore.Version
	position eventstore.Position
}

func (l *appender) add(counter string, events int) {
	l.t.Helper()
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "counter", ID: counter}, Expected: l.versions[counter]}
	for range events {
		l.versions[counter]++
		u.Commands = append(u.Commands, eventstore.Command{
			Key: fmt.Sprint("k", l.versions[counter]), At: time.Now(), Meta: eventstore.Meta{Client: "ada"},
			Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}},
		})
	}
	done, err := l.store.Append(l.t.Context(), u)
	if err != nil {
		l.t.Fatal(err)
	}
	l.position = done.Commands[events-1].Position
}

// follower is a client without a library. It keeps the cursor of the last event,
// and checks the frames that it receives.
type follower struct {
	t         *testing.T
	subscribe string
	conn      *websocket.Conn
	lines     [][]byte // read and not yet parsed

	cursor  eventstore.Position
	version map[string]eventstore.Version // by stream
}

func (f *follower) connect(url string) {
	f.t.Helper()
	conn, _, err := websocket.Dial(f.t.Context(), harness.WS(url)+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{frame.Subprotocol}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(-1)
	hello := fmt.Sprintf(`{"op":"hello","id":"h","client":"eve","subscriptions":[{"id":"s",%s,"cursor":"%d"}]}`, f.subscribe, f.cursor)
	if err := conn.Write(f.t.Context(), websocket.MessageText, []byte(hello)); err != nil {
		f.t.Fatal(err)
	}
	f.conn, f.lines = conn, nil
	if f.version == nil {
		f.version = map[string]eventstore.Version{}
	}
}

// until reads events up to a version of counter/a and, for the category, up to a
// position. It fails if later events arrive.
func (f *follower) until(version eventstore.Version, position eventstore.Position) {
	f.t.Helper()
	whole := f.subscribe == `"category":"counter"`
	for f.version["counter/a"] < version || whole && f.cursor < position {
		for len(f.lines) == 0 {
			_, message, err := f.conn.Read(f.t.Context())
			if err != nil {
				f.t.Fatal(err)
			}
			for line := range frame.Lines(message) {
				f.lines = append(f.lines, line)
			}
		}
		answer, err := frame.ParseAnswer(f.lines[0])
		if err != nil {
			f.t.Fatalf("%.200s: %v", f.lines[0], err)
		}
		f.lines = f.lines[1:]
		switch e := answer.(type) {
		case frame.Fault, frame.Unsubscribed, frame.Goodbye:
			f.t.Fatalf("got %s", answer.Append(nil))
		case frame.Event:
			name := e.Stream.String()
			if e.Version != f.version[name]+1 || whole && e.Position != f.cursor+1 || e.Position <= f.cursor {
				f.t.Fatalf("version %d of %s and position %d are followed by version %d at %d", f.version[name], name, f.cursor, e.Version, e.Position)
			}
			f.version[name], f.cursor = e.Version, e.Position
		}
	}
}
