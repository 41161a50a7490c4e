package gateway

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// stepped is a gateway in memory whose only shard takes its turns when the
// test says so, on the test's goroutine.
type stepped struct {
	*Gateway
	shard *shard
	turn  *turn
}

func newStepped(t *testing.T, change func(*Config)) *stepped {
	t.Helper()
	cfg := Config{
		Node: "n1", Catalog: plain{}, Auth: Development(),
		Store: struct{ eventstore.Store }{}, Router: struct{ Router }{}, // neither is asked
	}
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Begin(0)
	w := &stepped{Gateway: g, shard: g.hub.shards[0], turn: &turn{g: g}}
	w.shard.stop() // next returns false when there is nothing to do
	return w
}

// settle takes turns until there is nothing more to do.
func (w *stepped) settle() {
	for w.shard.next(w.turn) {
		w.shard.serve(w.turn)
	}
}

// add delivers events of a stream, one a version.
func (w *stepped) add(stream string, versions ...eventstore.Version) {
	id, _ := eventstore.ParseStreamID(stream)
	for _, v := range versions {
		w.Deliver([]eventstore.Commit{{
			Position: w.hub.position() + 1, Stream: id, Version: v, Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}},
		}})
	}
}

// recorder is a session whose socket takes every message and keeps it.
type recorder struct {
	*session
	messages [][]byte
}

// join makes a session with a subscription from the beginning for each pair of
// an id and a topic.
func (w *stepped) join(subs ...string) *recorder {
	r := &recorder{session: newSession(w.Gateway, Identity{Client: "ada"})}
	r.shard, r.wire, r.greeted = w.shard, webSocket{}, true
	r.socket = &socket{session: r.session, tryWrite: func(p []byte) (int, error) {
		r.messages = append(r.messages, slices.Clone(p))
		return len(p), nil
	}}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 0; i < len(subs); i += 2 {
		to := topic{category: subs[i+1]}
		if strings.Contains(subs[i+1], "/") {
			to = topic{}
			to.stream, _ = eventstore.ParseStreamID(subs[i+1])
		}
		sub := &subscription{session: r.session, id: subs[i], topic: to, head: string(frame.AppendEventHead(nil, subs[i])), started: true}
		r.subs[sub.id] = sub
		r.work(sub)
	}
	r.kick()
	return r
}

// owe makes answers, a beat or control frames due, by a function that runs
// under the session's lock.
func (r *recorder) owes(what func(s *session)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what(r.session)
	r.kick()
}

// took returns what the messages since the last call hold, each frame in short:
// the op, and for events their subscription and version.
func (r *recorder) took(t *testing.T) []string {
	t.Helper()
	var frames []string
	for _, m := range r.messages {
		for len(m) > 0 {
			opcode, header, n := m[0]&0x0f, 2, int(m[1])
			if n == 126 {
				header, n = 4, int(m[2])<<8|int(m[3])
			}
			payload := m[header : header+n]
			m = m[header+n:]
			if opcode != 1 {
				frames = append(frames, fmt.Sprintf("control %x", opcode))
				continue
			}
			for line := range frame.Lines(payload) {
				f, err := frame.ParseAnswer(line)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				switch f := f.(type) {
				case frame.Event:
					frames = append(frames, fmt.Sprintf("event %s %d", f.Sub, f.Version))
				case frame.Heartbeat:
					frames = append(frames, fmt.Sprintf("heartbeat %s%v", f.Cursor, f.Behind))
				case frame.Live:
					frames = append(frames, fmt.Sprintf("live %s %s", f.Sub, f.Cursor))
				default:
					frames = append(frames, f.Op())
				}
			}
		}
	}
	r.messages = nil
	return frames
}

// wants compares the frames that were taken since the last call.
func (r *recorder) wants(t *testing.T, want ...string) {
	t.Helper()
	if got := r.took(t); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// beat makes a heartbeat due.
func beat(s *session) { s.beatDue = true }

// protocol: gateway heartbeat
func TestHeartbeatNamesALiveSubscriptionWithMoreToCome(t *testing.T) {
	t.Parallel()
	w := newStepped(t, func(c *Config) { c.QueueBytes = 300 }) // a message has room for a few events
	r := w.join("s", "auction/1")
	w.settle()
	r.wants(t, "live s 0")
	w.add("auction/1", 1, 2, 3, 4, 5, 6)
	r.owes(beat)
	w.settle()
	got := r.took(t)
	at := slices.IndexFunc(got, func(f string) bool { return strings.HasPrefix(f, "heartbeat") })
	if at < 1 || at > 5 {
		t.Fatalf("got %q, want a heartbeat among six events", got)
	}
	if want := fmt.Sprintf("heartbeat 6[{s %d}]", at); got[at] != want {
		t.Errorf("after %d events came %s, want %s", at, got[at], want)
	}
	if len(got) != 7 || got[6] != "event s 6" {
		t.Errorf("got %q, want six events", got)
	}
}

func TestHeartbeatNamesALiveSubscriptionThatIsAheadOfIt(t *testing.T) {
	t.Parallel()
	w := newStepped(t, nil)
	r := w.join("s", "auction/1")
	w.add("auction/1", 1, 2)
	r.owes(beat)
	if !w.shard.next(w.turn) {
		t.Fatal("the shard has nothing to do")
	}
	w.add("auction/1", 3) // after the turn has begun
	w.shard.serve(w.turn)
	r.wants(t, "event s 1", "event s 2", "event s 3", "live s 3", "heartbeat 2[{s 3}]")
}

func TestHeartbeatFollowsEventsThatNoTurnHasBrought(t *testing.T) {
	t.Parallel()
	w := newStepped(t, nil)
	first := w.join("s", "auction")
	w.settle()
	for range turnLive { // a visit begins with the newest: they take the whole turn
		w.join("s", "auction")
		w.settle()
	}
	first.wants(t, "live s 0")
	w.add("auction/1", 1)
	first.owes(beat)
	w.settle()
	first.wants(t, "event s 1", "heartbeat 1[]")
}

func TestOnlyEventsOfTheSubscriptionAreSharedWithOtherSessions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		subs   []string // of the session that is written to first
		extras func(*session)
		first  []string
	}{
		"an answer": {
			[]string{"s", "auction/1"},
			func(s *session) { s.enqueue(item{frame: frame.Pong{ID: "1"}.Append(nil)}) },
			[]string{"pong", "event s 1"},
		},
		"an event of another subscription": {
			[]string{"other", "auction/1", "s", "auction/1"},
			func(*session) {},
			[]string{"event other 1", "event s 1"},
		},
		"a pong":      {[]string{"s", "auction/1"}, func(s *session) { s.pongDue = pongFrame(nil) }, []string{"control a", "event s 1"}},
		"a ping":      {[]string{"s", "auction/1"}, func(s *session) { s.pingDue = true }, []string{"control 9", "event s 1"}},
		"a heartbeat": {[]string{"s", "auction/1"}, beat, []string{"event s 1", "heartbeat 1[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newStepped(t, nil)
			first, second := w.join(test.subs...), w.join("s", "auction/1")
			w.settle()
			first.took(t)
			second.took(t)
			w.add("auction/1", 1)
			first.owes(test.extras) // and is served before those who only hear of an event
			w.settle()
			second.wants(t, "event s 1")
			first.wants(t, test.first...)
		})
	}
}

func TestSubscriptionOfAnEmptyLogGetsTheFirstEvent(t *testing.T) {
	t.Parallel()
	w := newStepped(t, nil)
	r := w.join("s", "auction/1")
	if !w.shard.next(w.turn) {
		t.Fatal("the shard has nothing to do")
	}
	w.add("auction/1", 1) // after the turn has begun
	w.shard.serve(w.turn)
	r.wants(t, "event s 1", "live s 1")
}

// heldConn is a connection whose writes complete when the test says so, deadline
// or not, as when the kernel takes the last bytes right before the deadline.
type heldConn struct {
	net.Conn
	entered, release chan struct{}

	mu       sync.Mutex
	deadline time.Time
}

func (c *heldConn) Write(p []byte) (int, error) {
	close(c.entered)
	<-c.release
	return len(p), nil
}

func (c *heldConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return nil
}

func (*heldConn) SetReadDeadline(time.Time) error { return nil }

// passed reports whether a write without waiting would fail.
func (c *heldConn) passed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

// protocol: close 4100
func TestEvictionIsToldAlsoWhenTheWriteEndsAtThatMoment(t *testing.T) {
	t.Parallel()
	w := newStepped(t, nil)
	r := w.join()
	conn := &heldConn{entered: make(chan struct{}), release: make(chan struct{})}
	r.socket.Conn, r.socket.grace = conn, time.Hour
	take := r.socket.tryWrite
	r.socket.tryWrite = func([]byte) (int, error) { return 0, nil } // it is full
	r.owes(func(s *session) { s.say(frame.Pong{ID: "1"}) })
	w.settle()
	<-conn.entered
	r.evict()
	r.socket.tryWrite = func(p []byte) (int, error) {
		if conn.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		return take(p)
	}
	close(conn.release)
	r.tasks.Wait()
	w.settle()
	r.wants(t, "control 8")
	if r.ctx.Err() == nil {
		t.Error("the session continues")
	}
}
