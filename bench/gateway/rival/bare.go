package rival

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// Bare serves with coder/websocket and little else. It shows the minimum cost of
// a server that uses this library. It is the chat of the library's examples (one
// goroutine and one channel per subscriber; a slow subscriber is closed) with
// three additions for events: an event's frame is encoded once, waiting frames
// are written together, and the last events of a topic are kept for clients that
// resume. It has no users, limits, heartbeats, slow clients or log.
//
// It returns when the publisher disconnects.
func Bare() error {
	b := &bare{topics: map[string]*bareTopic{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", b.serve)
	clients, publisher, err := listen()
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(clients, mux) }() // until the process ends
	return servePublish(publisher, b.publish)
}

type bare struct {
	mu     sync.Mutex
	topics map[string]*bareTopic
}

type bareTopic struct {
	mu          sync.Mutex
	version     int
	kept        [][]byte // the newest events
	subscribers []*bareSubscriber
}

// waitingFrames bounds the frames that wait for one socket.
const waitingFrames = 1024

type bareSubscriber struct {
	frames chan []byte
	slow   func()
}

func (b *bare) topic(name string) *bareTopic {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.topics[name]
	if !ok {
		t = new(bareTopic)
		b.topics[name] = t
	}
	return t
}

func (b *bare) publish(topic string, data []byte) error {
	t := b.topic(topic)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version++
	frame := fmt.Appendf(nil, `{"op":"event","sub":"s","stream":"%s","version":%d,%s`, topic, t.version, data[1:])
	if t.kept = append(t.kept, frame); len(t.kept) >= 2*historySize {
		t.kept = append([][]byte(nil), t.kept[len(t.kept)-historySize:]...)
	}
	for _, s := range t.subscribers {
		select {
		case s.frames <- frame:
		default:
			go s.slow()
		}
	}
	return nil
}

// serve serves one client. Each message subscribes to a topic, either to new
// events or to those after a version.
func (b *bare) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	s := &bareSubscriber{frames: make(chan []byte, waitingFrames), slow: func() {
		_ = conn.Close(websocket.StatusPolicyViolation, "too slow")
	}}
	started := false
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			return
		}
		name, after, resumes := strings.Cut(string(message), " ")
		var missed [][]byte
		t := b.topic(name)
		t.mu.Lock()
		if known, err := strconv.Atoi(after); resumes && err == nil {
			missed = t.kept[len(t.kept)-(t.version-known):]
		}
		t.subscribers = append(t.subscribers, s)
		t.mu.Unlock()
		defer t.leave(s)
		if started {
			s.frames <- []byte(`{"op":"live"}`)
			continue
		}
		started = true
		writing.Go(func() {
			defer conn.CloseNow()
			missed = append(missed[:len(missed):len(missed)], []byte(`{"op":"live"}`))
			if writeTogether(ctx, conn, missed) == nil {
				s.write(ctx, conn)
			}
		})
	}
}

func (t *bareTopic) leave(s *bareSubscriber) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.subscribers {
		if other == s {
			last := len(t.subscribers) - 1
			t.subscribers[i] = t.subscribers[last]
			t.subscribers = t.subscribers[:last]
			return
		}
	}
}

// messageBytes is the size at which a message is complete.
const messageBytes = 32 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, messageBytes+4<<10); return &b }}

// writeTogether writes several frames per message.
func writeTogether(ctx context.Context, conn *websocket.Conn, frames [][]byte) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	message := (*buf)[:0]
	for i, f := range frames {
		message = append(append(message, f...), '\n')
		if i == len(frames)-1 || len(message) >= messageBytes {
			if err := conn.Write(ctx, websocket.MessageText, message); err != nil {
				return err
			}
			message = message[:0]
		}
	}
	return nil
}

// write writes frames until ctx ends: a single frame as it is, several waiting
// frames in one message.
func (s *bareSubscriber) write(ctx context.Context, conn *websocket.Conn) {
	var waiting [][]byte
	for {
		select {
		case f := <-s.frames:
			waiting = append(waiting[:0], f)
		case <-ctx.Done():
			return
		}
		for more := true; more; {
			select {
			case f := <-s.frames:
				waiting = append(waiting, f)
			default:
				more = false
			}
		}
		var err error
		if len(waiting) == 1 {
			err = conn.Write(ctx, websocket.MessageText, waiting[0])
		} else {
			err = writeTogether(ctx, conn, waiting)
		}
		if err != nil {
			return
		}
	}
}
