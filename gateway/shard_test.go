package gateway

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// plain shows events as they are stored.
type plain struct{ Catalog }

func (plain) Show(_, _ string, _ int, data json.RawMessage) (json.RawMessage, error) {
	return data, nil
}
func (plain) ShowsCaller(string) bool { return false }

// TestAHugeCategoryDoesNotHoldUpALoneStream delivers an event to very many
// sessions of a category, and while that is under way, in the same shard, one
// to the only session of a stream. It gets it within a few turns, before most of
// the others have theirs. The sessions are in memory; how many there are is
// what GANGLION_FAULTS=long changes.
func TestAHugeCategoryDoesNotHoldUpALoneStream(t *testing.T) {
	t.Parallel()
	crowd := 5_000
	if os.Getenv("GANGLION_FAULTS") == "long" {
		crowd = 100_000
	}
	g, err := New(Config{
		Node: "n1", Catalog: plain{}, Auth: Development(),
		Store: struct{ eventstore.Store }{}, Router: struct{ Router }{}, // neither is asked
	})
	if err != nil {
		t.Fatal(err)
	}
	g.Begin(0)
	sh := g.hub.shards[0]
	var running sync.WaitGroup
	running.Go(sh.run)
	t.Cleanup(func() { sh.stop(); running.Wait() })

	// join makes a session whose socket takes everything, and tells of it.
	var live sync.WaitGroup
	join := func(to topic, took func()) {
		s := newSession(g, Identity{Client: "ada"})
		s.shard, s.wire, s.greeted = sh, webSocket{}, true
		live.Add(1)
		first := true // message: it says that the subscription is live
		s.socket = &socket{session: s, tryWrite: func(p []byte) (int, error) {
			if first {
				first = false
				live.Done()
			} else {
				took()
			}
			return len(p), nil
		}}
		sub := &subscription{session: s, id: "s", topic: to, head: `{"op":"event","sub":"s"`, started: true}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.subs[sub.id] = sub
		s.work(sub)
		s.kick()
	}
	var (
		served        atomic.Int64 // of the crowd
		begun, goOn   = make(chan struct{}), make(chan struct{})
		all, alone    = make(chan struct{}), make(chan struct{})
		servedByAlone int64
	)
	lone := eventstore.StreamID{Type: "client", ID: "eve"}
	join(topic{stream: lone}, func() {
		servedByAlone = served.Load()
		close(alone)
	})
	for range crowd {
		join(topic{category: "auction"}, func() {
			switch served.Add(1) {
			case 1:
				close(begun)
				<-goOn
			case int64(crowd):
				close(all)
			}
		})
	}
	live.Wait()

	event := func(p eventstore.Position, s eventstore.StreamID) []eventstore.Commit {
		return []eventstore.Commit{{Position: p, Stream: s, Version: 1, Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}}}}
	}
	g.Deliver(event(1, eventstore.StreamID{Type: "auction", ID: "1"}))
	wait := func(what string, signal <-chan struct{}) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		select {
		case <-signal:
		case <-ctx.Done():
			t.Fatalf("%s does not come", what)
		}
	}
	wait("the first delivery", begun)
	g.Deliver(event(2, lone)) // does not wait for the shard
	close(goOn)
	wait("the lone session's event", alone)
	wait("the last delivery", all)
	if most := int64(4 * turnLive); servedByAlone > most {
		t.Errorf("the lone session got its event after %d deliveries of %d, not within %d", servedByAlone, crowd, most)
	}
}
