package session

import (
	"context"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

// BenchmarkTurns delivers one event to 1,000 sessions whose sockets take
// everything without blocking: the gateway's own cost of a delivery, without
// goroutines and without the kernel.
func BenchmarkTurns(b *testing.B) {
	w := newStepped(b, 256<<10)
	topic := history.Topic{Stream: eventstore.StreamID{Type: "auction", ID: "1"}}
	for range 1000 {
		s := New(w.Server, access.Identity{Client: "ada"})
		s.attach(socket.New(nil, socket.Options{TryWrite: func(p []byte) (int, error) { return len(p), nil }}), wire.WebSocket{})
		s.mu.Lock()
		sub := s.newSubscription("s", topic, "")
		sub.isStarted = true
		s.subs.markReady(sub)
		s.out.ScheduleWrite()
		s.mu.Unlock()
	}
	w.TakeAll()
	b.ReportAllocs()
	for v := eventstore.Version(1); b.Loop(); v++ {
		w.deliver("auction/1", v)
		w.TakeAll()
	}
}

// shared is a live query with a batch of one row for each wake, which it shares with
// others.
type shared struct {
	batch []ask.Part
	news  bool
}

func (l *shared) Next(int) ([]ask.Part, bool) {
	if !l.news {
		return nil, false
	}
	l.news = false
	return l.batch, false
}

func (*shared) Cursor() (string, bool)                                         { return "c", false }
func (*shared) Renew(context.Context, string, map[string]any) *command.Failure { return nil }
func (*shared) Close()                                                         {}

// BenchmarkTurnsOfLiveQueries is BenchmarkTurns for a batch of one changed row that
// 1,000 sessions follow.
func BenchmarkTurnsOfLiveQueries(b *testing.B) {
	w := newStepped(b, 256<<10)
	batch := []ask.Part{
		{Op: "update", Tail: []byte(`"key":"42","rank":"0600000000007Q1K68","position":1,"data":{"item":"lamp","price":1000}}`)},
		{Op: "synced", Tail: []byte(`"cursor":"NgRUjwG6hhcMAeh95kEawPGaAAEEAAAAAAAAAAAAAA","position":2}`)},
	}
	var lives []*shared
	var queries []*liveQuery
	for range 1000 {
		s := New(w.Server, access.Identity{Client: "ada"})
		s.attach(socket.New(nil, socket.Options{TryWrite: func(p []byte) (int, error) { return len(p), nil }}), wire.WebSocket{})
		s.mu.Lock()
		q := s.newQuery("s", `","sub":"s"`, ask.Question{})
		l := &shared{batch: batch}
		q.live = l
		s.queries.start(q)
		s.mu.Unlock()
		lives, queries = append(lives, l), append(queries, q)
	}
	w.TakeAll()
	b.ReportAllocs()
	for b.Loop() {
		for i, q := range queries {
			lives[i].news = true
			q.wake()
		}
		w.TakeAll()
	}
}
