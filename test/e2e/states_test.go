package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestStatesFollowEventsThroughAKillOfTheOwner kills the owner of a counter with
// kill -9 twice: while clients on the other gateways follow its states and send
// commands, and right after the last command. Each state must be that of its
// version, in order and not before its event, and the last state must arrive,
// also at clients that resume on another gateway.
func TestStatesFollowEventsThroughAKillOfTheOwner(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	const owner = 1
	stream := ownedBy("counter", "n2", 1)[0]
	urls := []string{c.members[0].URLs[0], c.members[2].URLs[0]}
	var all []*stateWatcher
	for i := range 40 {
		w := &stateWatcher{url: urls[i%2], stream: stream, mode: []frame.StateMode{frame.StateEach, frame.StateOnly}[i/2%2]}
		if err := w.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	sender := &harness.Client{ID: "ada", URLs: []string{harness.WS(urls[0]), harness.WS(urls[1])}}
	defer sender.Leave()
	sent := 0
	add := func(n int) {
		t.Helper()
		for range n {
			sent++
			if _, err := sender.Do(t.Context(), stream, "add", fmt.Sprint("k", sent), map[string]any{"by": 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	await := func() {
		t.Helper()
		var running sync.WaitGroup
		for i, w := range all {
			running.Go(func() {
				if err := w.until(t.Context(), uint64(sent)); err != nil {
					t.Errorf("client %d (%s): %v", i, w.mode, err)
				}
			})
		}
		running.Wait()
	}

	add(200)
	c.members[owner].Kill()
	add(200)
	await()
	c.start(owner)
	c.settled()
	for i, w := range all { // they resume at the other gateway
		_ = w.conn.CloseNow()
		w.url = urls[(i+1)%2]
	}
	add(100)
	for _, w := range all {
		if err := w.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	add(1)
	c.members[owner].Kill()
	await()
}

// stateWatcher is a client without a library that subscribes to the states of a
// counter to which commands add 1.
type stateWatcher struct {
	url, stream string
	mode        frame.StateMode
	conn        *websocket.Conn

	cursor       uint64 // position of the last event or state
	event, state uint64 // versions
	states       int
}

func (w *stateWatcher) connect(ctx context.Context) error {
	conn, _, err := websocket.Dial(ctx, harness.WS(w.url)+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{frame.Subprotocol}})
	if err != nil {
		return err
	}
	conn.SetReadLimit(-1)
	w.conn = conn
	hello := fmt.Sprintf(`{"op":"hello","id":"h","client":"eve","subscriptions":[{"id":"s","stream":%q,"cursor":"%d","state":%q}]}`, w.stream, w.cursor, w.mode)
	return conn.Write(ctx, websocket.MessageText, []byte(hello))
}

// until reads frames until the state of a version, and checks them.
func (w *stateWatcher) until(ctx context.Context, version uint64) error {
	isNew := true // a client that resumes gets its state again
	for w.state < version {
		_, message, err := w.conn.Read(ctx)
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(string(message), "\n") {
			var f harness.Frame
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				return fmt.Errorf("%q: %w", line, err)
			}
			if err := w.check(f, isNew); err != nil {
				return fmt.Errorf("%w: %s", err, line)
			}
			isNew = isNew && f.Op != "state"
		}
	}
	if w.mode == frame.StateEach && w.event != version {
		return fmt.Errorf("the last state came at event %d of %d", w.event, version)
	}
	if w.states == 0 {
		return errors.New("no states")
	}
	return nil
}

func (w *stateWatcher) check(f harness.Frame, isNew bool) error {
	switch f.Op {
	case "event":
		if w.mode == frame.StateOnly || f.Version != w.event+1 {
			return fmt.Errorf("event after %d", w.event)
		}
		w.event, w.cursor = f.Version, f.Position
	case "state":
		var counter struct{ Value uint64 }
		if err := json.Unmarshal(f.Data, &counter); err != nil || counter.Value != f.Version {
			return fmt.Errorf("not the state of its version (%w)", err)
		}
		if f.Version < w.state || f.Version == w.state && !isNew || w.mode == frame.StateEach && f.Version > w.event {
			return fmt.Errorf("state after that of %d and event %d", w.state, w.event)
		}
		w.state, w.cursor = f.Version, max(w.cursor, f.Position)
		w.states++
	case "error", "unsubscribed":
		return errors.New("refused")
	}
	return nil
}
