package router_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
	"github.com/ganglion-es/ganglion/router/transport"
)

// views are what a cluster reports to its router and its feed.
type views struct {
	mu       sync.Mutex
	now      *cluster.View
	watchers []chan *cluster.View
}

func (v *views) watch(ctx context.Context) <-chan *cluster.View {
	v.mu.Lock()
	defer v.mu.Unlock()
	ch := make(chan *cluster.View, 2) // the number that a test sets
	ch <- v.now
	v.watchers = append(v.watchers, ch)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

func (v *views) set(now *cluster.View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = now
	for _, ch := range v.watchers {
		ch <- now
	}
}

// hangUp accepts connections to a dead member's address and closes them.
func hangUp(t *testing.T) (addr string, accepted <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count := make(chan struct{}, 1024)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			count <- struct{}{}
		}
	})
	t.Cleanup(func() { l.Close(); running.Wait() })
	return l.Addr().String(), count
}

// The router follows the view while the feed is still delivering.
func TestDepartedMembersAreNotDialledAgain(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	addr, accepted := hangUp(t)
	self := cluster.Member{ID: "g", Gateway: true, State: cluster.Ready}
	members := &views{now: &cluster.View{Members: []cluster.Member{{ID: "d", Domain: true, State: cluster.Ready, PeerAddr: addr}, self}}}
	pool := transport.NewPool(transport.PoolConfig{})
	defer pool.Close()

	r, err := router.New(router.Config{Self: "g", Pool: pool, Watch: members.watch})
	if err != nil {
		t.Fatal(err)
	}
	delivering, goOn := make(chan struct{}), make(chan struct{})
	f, err := feed.NewSubscriber(feed.SubscriberConfig{
		Self: "g", Store: store, Push: true, Watch: members.watch, Open: pool.Feed,
		Deliver: func([]eventstore.Commit) { close(delivering); <-goOn },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	running.Go(func() { _ = f.Run(ctx) })
	defer running.Wait()
	defer cancel()
	await(t, f.Started())
	await(t, accepted)

	if _, err := store.Append(ctx, eventstore.Unit{
		Stream: eventstore.StreamID{Type: "counter", ID: "1"},
		Commands: []eventstore.Command{{
			Key: "k", At: time.Now(), Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}},
		}},
	}); err != nil {
		t.Fatal(err)
	}
	await(t, delivering)
	members.set(&cluster.View{Members: []cluster.Member{self}})
	until(t, "the router has no link", func() bool { return len(r.Links()) == 0 })
	for range 3 { // the feed does not know yet that the member is gone
		await(t, accepted)
	}
	close(goOn)
	until(t, "the feed has no stream", func() bool { return len(f.Stats().Streams) == 0 })
}

func await(t *testing.T, signal <-chan struct{}) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(time.Minute):
		t.Fatal("nothing happened for a minute")
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for: %s", what)
		}
	}
}
