package session

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/questions"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// stepped has sessions in memory. Their only shard takes its turns on the test's
// goroutine, when the test calls the Stepper.
type stepped struct {
	*Server
	*hub.Stepper
}

func newStepped(t testing.TB, queueBytes int) *stepped {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	counters := &limits.Counters{}
	out := &outbox.Shared{Budget: limits.NewBudget(1<<20, counters, log), QueueBytes: queueBytes}
	encode := func(c *eventstore.Commit, i int) *history.Entry {
		e := &history.Entry{Stream: c.Stream, Version: c.FirstVersion() + eventstore.Version(i), Position: c.First() + eventstore.Position(i)}
		f := frame.Event{Stream: e.Stream, Version: e.Version, Position: e.Position, Event: c.Events[i].Type, Data: c.Events[i].Data}
		e.Tail = f.AppendTail(nil)
		return e
	}
	h := hub.New(hub.Config{Encode: encode, Window: history.NewWindow(1000, 1<<20), MessageLimit: out.MessageLimit, Shards: 1})
	bounds, err := limits.Limits{}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &stepped{
		Server: &Server{
			Limits: bounds, Counters: counters, Logger: log, Hub: h, Out: out, Asker: &questions.Asker{Counters: counters},
			Log: history.NewLog(t.Context(), history.Config{Live: h, Encode: encode, PageCommits: 1, Reads: 1, Counters: counters, Logger: log}),
		},
		Stepper: hub.NewStepper(h),
	}
}

// deliver delivers events of a stream, one a version.
func (w *stepped) deliver(stream string, versions ...eventstore.Version) {
	id, _ := eventstore.ParseStreamID(stream)
	for _, v := range versions {
		w.Hub.Deliver([]eventstore.Commit{{
			Position: w.Hub.Head() + 1, Stream: id, Version: v, Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}},
		}})
	}
}

// recorder is a session whose socket takes every message and keeps it.
type recorder struct {
	*Session
	messages [][]byte
}

// join makes a session with a subscription from the beginning for each pair of
// an id and a topic.
func (w *stepped) join(subs ...string) *recorder {
	r := &recorder{Session: New(w.Server, access.Identity{Client: "ada"})}
	r.client.saidHello = true
	r.attach(socket.New(nil, socket.Options{TryWrite: func(p []byte) (int, error) {
		r.messages = append(r.messages, slices.Clone(p))
		return len(p), nil
	}}), wire.WebSocket{})
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := 0; i < len(subs); i += 2 {
		to := history.Topic{Category: subs[i+1]}
		if strings.Contains(subs[i+1], "/") {
			to = history.Topic{}
			to.Stream, _ = eventstore.ParseStreamID(subs[i+1])
		}
		sub := r.newSubscription(subs[i], to, "")
		sub.isStarted = true
		r.subs.markReady(sub)
	}
	r.out.ScheduleWrite()
	return r
}

// with calls change under the session's lock, and schedules a write.
func (r *recorder) with(change func(s *Session)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r.Session)
	r.out.ScheduleWrite()
}

// took returns the frames of the messages since the last call in a short form:
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

// wants checks the frames that took returns.
func (r *recorder) wants(t *testing.T, want ...string) {
	t.Helper()
	if got := r.took(t); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// heartbeat makes a heartbeat pending.
func heartbeat(s *Session) { s.deadlines.isHeartbeatPending = true }

// protocol: gateway heartbeat
func TestHeartbeatNamesALiveSubscriptionWithMoreToCome(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 300) // a message has room for a few events
	r := w.join("s", "auction/1")
	w.TakeAll()
	r.wants(t, "live s 0")
	w.deliver("auction/1", 1, 2, 3, 4, 5, 6)
	r.with(heartbeat)
	w.TakeAll()
	got := r.took(t)
	at := slices.IndexFunc(got, func(f string) bool { return strings.HasPrefix(f, "heartbeat") })
	if at < 1 || at > 5 {
		t.Fatalf("got %q, want a heartbeat among six events", got)
	}
	if want := fmt.Sprintf("heartbeat 6[{s %d}]", at); got[at] != want {
		t.Errorf("got %s after %d events, want %s", got[at], at, want)
	}
	if len(got) != 7 || got[6] != "event s 6" {
		t.Errorf("got %q, want six events", got)
	}
}

func TestHeartbeatNamesALiveSubscriptionThatIsAheadOfIt(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join("s", "auction/1")
	w.deliver("auction/1", 1, 2)
	r.with(heartbeat)
	if !w.Next() {
		t.Fatal("the shard has nothing to do")
	}
	w.deliver("auction/1", 3) // after the turn has begun
	w.Serve()
	r.wants(t, "event s 1", "event s 2", "event s 3", "live s 3", "heartbeat 2[{s 3}]")
}

func TestHeartbeatFollowsUnvisitedEvents(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	first := w.join("s", "auction")
	w.TakeAll()
	for range hub.LiveShare { // a visit begins with the newest, so these take the whole turn
		w.join("s", "auction")
		w.TakeAll()
	}
	first.wants(t, "live s 0")
	w.deliver("auction/1", 1)
	first.with(heartbeat)
	w.TakeAll()
	first.wants(t, "event s 1", "heartbeat 1[]")
}

func TestSessionsShareOnlyPlainEventMessages(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		subs   []string // of the session that is written to first
		extras func(*Session)
		first  []string
	}{
		"a reply": {
			[]string{"s", "auction/1"},
			func(s *Session) { s.push(frame.Pong{ID: "1"}) },
			[]string{"pong", "event s 1"},
		},
		"an event of another subscription": {
			[]string{"other", "auction/1", "s", "auction/1"},
			func(*Session) {},
			[]string{"event other 1", "event s 1"},
		},
		"a pong":      {[]string{"s", "auction/1"}, func(s *Session) { s.out.Pong(nil) }, []string{"control a", "event s 1"}},
		"a ping":      {[]string{"s", "auction/1"}, func(s *Session) { s.out.Ping() }, []string{"control 9", "event s 1"}},
		"a heartbeat": {[]string{"s", "auction/1"}, heartbeat, []string{"event s 1", "heartbeat 1[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newStepped(t, 256<<10)
			first, second := w.join(test.subs...), w.join("s", "auction/1")
			w.TakeAll()
			first.took(t)
			second.took(t)
			w.deliver("auction/1", 1)
			first.with(test.extras) // it is served before sessions that only have an event
			w.TakeAll()
			second.wants(t, "event s 1")
			first.wants(t, test.first...)
		})
	}
}

func TestSubscriptionOfAnEmptyLogGetsTheFirstEvent(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join("s", "auction/1")
	if !w.Next() {
		t.Fatal("the shard has nothing to do")
	}
	w.deliver("auction/1", 1) // after the turn has begun
	w.Serve()
	r.wants(t, "event s 1", "live s 1")
}

// heldConn is a connection whose writes complete when the test closes release.
// They ignore the deadline, like a write whose last bytes the kernel takes right
// before the deadline.
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

// passed reports whether the write deadline has passed.
func (c *heldConn) passed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

// protocol: close 4100
func TestEvictedSessionGetsItsCloseAfterALateWrite(t *testing.T) {
	t.Parallel()
	w := newStepped(t, 256<<10)
	r := w.join()
	conn := &heldConn{entered: make(chan struct{}), release: make(chan struct{})}
	recording := r.conn
	var hasRoom atomic.Bool
	r.attach(socket.New(conn, socket.Options{Grace: time.Hour, TryWrite: func(p []byte) (int, error) {
		switch {
		case !hasRoom.Load():
			return 0, nil
		case conn.passed():
			return 0, os.ErrDeadlineExceeded
		}
		return recording.Try(p)
	}}), wire.WebSocket{})
	r.with(func(s *Session) { s.push(frame.Pong{ID: "1"}) })
	w.TakeAll()
	<-conn.entered
	r.Evict()
	hasRoom.Store(true)
	close(conn.release)
	r.tasks.Wait()
	w.TakeAll()
	r.wants(t, "control 8")
	if r.ctx.Err() == nil {
		t.Error("the session continues")
	}
}
