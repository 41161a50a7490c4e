package session

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

// numbers is a live query whose parts are numbered batches, as many as the test
// allows.
type numbers struct {
	mu       sync.Mutex
	sent     int
	allowed  int
	isBehind bool
	stalls   int // further calls of Next return no part but more
	closed   int
}

func (n *numbers) Next(room int) (parts []ask.Part, more bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stalls > 0 {
		n.stalls--
		return nil, true
	}
	for size := 0; n.sent < n.allowed && size < room; size += 30 {
		n.sent++
		parts = append(parts, ask.Part{Op: "synced", Tail: fmt.Appendf(nil, `"cursor":"c%d","position":%d}`, n.sent, n.sent)})
	}
	return parts, n.sent < n.allowed
}

func (n *numbers) Cursor() (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sent == 0 {
		return "", true
	}
	return fmt.Sprintf("c%d", n.sent), n.isBehind
}

func (n *numbers) Renew(context.Context, string, map[string]any) *command.Failure { return nil }

func (n *numbers) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed++
}

// follow adds a live query to a session.
func (r *recorder) follow(id string, n *numbers) *liveQuery {
	q := r.begin(id)
	r.with(func(s *Session) {
		q.live = n
		s.queries.start(q)
	})
	return q
}

// begin adds a live query that has no answer yet.
func (r *recorder) begin(id string) (q *liveQuery) {
	r.with(func(s *Session) { q = s.newQuery(id, `","sub":"`+id+`"`, ask.Question{}) })
	return q
}

// allow allows parts, and wakes the query.
func (n *numbers) allow(q *liveQuery, parts int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.allowed += parts
	q.wake() // with the lock held, as an implementation may do
}

func TestEventsAndPartsOfLiveQueriesShareTheSocket(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 300) // a message has room for a few frames
	r := w.join("s", "auction/1")
	w.TakeAll()
	r.wants(t, "live s 0")
	first, second := &numbers{}, &numbers{}
	p, q := r.follow("p", first), r.follow("q", second)
	w.TakeAll()
	first.allow(p, 100)
	second.allow(q, 100)
	for v := range 40 {
		w.deliver("auction/1", eventstore.Version(v+1))
	}
	w.TakeAll()
	if len(r.messages) < 20 {
		t.Fatalf("got only %d messages", len(r.messages))
	}
	counts := map[string][]int{} // of frames by kind, per message
	for _, m := range r.messages {
		for _, kind := range []string{`"sub":"s"`, `"sub":"p"`, `"sub":"q"`} {
			counts[kind] = append(counts[kind], strings.Count(string(m), kind))
		}
	}
	for kind, n := range counts {
		gap := 0
		for i := range 12 { // all have more to send
			if gap++; n[i] > 0 {
				gap = 0
			}
			if gap > 4 {
				t.Errorf("%s is missing in %d messages in a row: %v", kind, gap, n)
				break
			}
		}
	}
	if got := r.took(t); len(got) != 240 {
		t.Errorf("got %d frames, want 240", len(got))
	}
}

// protocol: gateway heartbeat
func TestHeartbeatNamesQueriesThatLag(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join()
	fresh, lagging, begun := &numbers{allowed: 1}, &numbers{allowed: 2, isBehind: true}, &numbers{isBehind: true}
	r.follow("a", fresh)
	r.follow("b", lagging)
	r.follow("c", begun) // has no cursor yet
	w.TakeAll()
	r.took(t)
	r.with(heartbeat)
	w.TakeAll()
	r.wants(t, "heartbeat 0[{b c2}]")
}

func TestQueryWithoutAPartForNowIsAskedAgain(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join()
	n := &numbers{allowed: 1, stalls: 3}
	r.follow("q", n)
	w.TakeAll()
	r.wants(t, "synced")
}

func TestQueryWokenWhileTheSocketIsFullIsNotForgotten(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join()
	conn := &heldConn{entered: make(chan struct{}), release: make(chan struct{})}
	recording := r.conn
	isFull := true
	r.attach(socket.New(conn, socket.Options{TryWrite: func(p []byte) (int, error) {
		if isFull {
			return 0, nil
		}
		return recording.Try(p)
	}}), wire.WebSocket{})
	n := &numbers{allowed: 1}
	q := r.follow("q", n)
	w.TakeAll()
	<-conn.entered
	n.allow(q, 1)
	n.allow(q, 1)
	w.TakeAll() // nothing can be written
	if n.sent != 1 {
		t.Errorf("%d parts were taken while the socket was full, want 1", n.sent)
	}
	isFull = false
	close(conn.release)
	r.tasks.Wait()
	w.TakeAll()
	r.wants(t, "synced", "synced")
}

func TestSourcesThatHaveNotStartedAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join()
	started := &numbers{}
	q := r.follow("q", started)
	early := r.begin("early")
	joining := &consumption{source: source{session: r.Session, id: "group"}}
	r.with(func(s *Session) { s.consumers.add(joining) })
	w.TakeAll()
	// Their implementations may announce frames before the reply to the client.
	early.wake()
	joining.wake()
	started.allow(q, 1)
	w.TakeAll()
	r.wants(t, "synced")
	r.with(func(s *Session) {
		early.live = &numbers{allowed: 1}
		s.queries.start(early)
	})
	w.TakeAll()
	r.wants(t, "synced")
}

func TestEndedSessionClosesItsQueries(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join()
	n := &numbers{allowed: 1}
	q := r.follow("q", n)
	w.TakeAll()
	r.with(func(s *Session) { s.endQuery(q); s.endQuery(q) })
	n.allow(q, 1)
	w.TakeAll()
	r.wants(t, "synced")
	if n.closed != 1 || len(r.queries.list()) != 0 {
		t.Errorf("the query was closed %d times", n.closed)
	}
}
