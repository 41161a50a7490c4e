package e2e

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

const (
	goClients  = 50
	goCounters = 30
)

type (
	counter struct{ Value int }
	added   struct{ By int }
)

var counters = ganglion.Type[counter, added]{Name: "counter"}

// TestClientGo connects 50 clients of client/go to three nodes behind proxies
// that misbehave. Every subscription receives each event once and in order. Each
// command is executed once, at the position of its reply, and commands of one
// client to one aggregate keep their order.
func TestClientGo(t *testing.T) {
	d := siegeTime()
	s := besiege(t, d)
	ctx, cancel := context.WithTimeout(t.Context(), d+hungAfter)
	defer cancel()
	work, ctx := errgroup.WithContext(ctx)

	var connections atomic.Int64
	var watching sync.WaitGroup
	defer watching.Wait() // after every client is closed
	clients := make([]*ganglion.Client, goClients)
	for i := range clients {
		client, err := ganglion.Connect(ctx, ganglion.Options{
			URLs: s.urls, ClientID: fmt.Sprint("client", i),
			Random: func() float64 { return rand.Float64() / 3 }, // shorter pauses, so more attempts per minute
			OnError: func(e *ganglion.Error) {
				if e.Retry == ganglion.RetryNo {
					t.Errorf("client %d: %v", i, e)
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		clients[i] = client
		watching.Go(func() {
			for status := range client.Statuses(ctx) {
				if status == ganglion.Connecting {
					connections.Add(1)
				}
			}
		})
	}

	reading, stop := context.WithCancel(ctx)
	defer stop()
	var all []*watched
	for i, client := range clients {
		for n := range 3 {
			all = append(all, &watched{client: client, i: i, id: fmt.Sprint("c", (i*3+n)%goCounters)})
		}
		if i%10 == 0 {
			all = append(all, &watched{client: client, i: i})
		}
	}
	for _, w := range all {
		work.Go(func() error { return w.watch(reading) })
	}

	var acknowledged []acknowledgement
	var replays int
	var mu sync.Mutex
	senders, sending := errgroup.WithContext(ctx)
	end := time.Now().Add(d)
	for i, client := range clients {
		senders.Go(func() error {
			return send(sending, client, i, end, func(stream string, r ganglion.Result) {
				mu.Lock()
				defer mu.Unlock()
				acknowledged = append(acknowledged, acknowledgement{stream, r.Key, r.Position})
				if r.Replayed {
					replays++
				}
			})
		})
	}
	if err := senders.Wait(); err != nil {
		cancel()
		t.Fatal(errors.Join(err, work.Wait()))
	}
	// Every command has its reply. Strong reads return the final versions.
	versions, total := map[string]uint64{}, uint64(0)
	for n := range goCounters {
		state, err := counters.Aggregate(clients[n%goClients], fmt.Sprint("c", n)).Get(ctx, ganglion.Strong())
		if err != nil {
			t.Fatal(err)
		}
		versions[state.Stream] = state.Version
		total += state.Version
	}
	had := func(w *watched) error {
		want := total
		if w.id != "" {
			want = versions["counter/"+w.id]
		}
		if n := w.events.Load(); n != want {
			return fmt.Errorf("%v has %d events of %d", w, n, want)
		}
		return nil
	}
	for _, w := range all {
		for err := had(w); err != nil; err = had(w) {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("events are missing: %v", err)
			}
		}
	}
	stop()
	if err := work.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, w := range all { // no event arrived twice
		if err := had(w); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d commands, %d of them replayed, over %d connections", len(acknowledged), replays, connections.Load())
	for _, client := range clients {
		client.Close()
	}
	s.check(acknowledged)
}

// send sends commands until end, 4 concurrently, and returns when all have their
// replies.
func send(ctx context.Context, client *ganglion.Client, i int, end time.Time, answered func(stream string, r ganglion.Result)) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	for k := 0; time.Now().Before(end) && ctx.Err() == nil; k++ {
		id := fmt.Sprint("c", rand.IntN(goCounters))
		key := fmt.Sprintf("%d-%d", i, k)
		sending := client.Aggregate("counter", id).Start(ctx, "add", map[string]int{"by": 1 + k%9}, ganglion.WithKey(key))
		work.Go(func() error {
			r, err := sending.Wait()
			if err != nil {
				return fmt.Errorf("client %d, command %s: %w", i, key, err)
			}
			answered("counter/"+id, r)
			return nil
		})
		select {
		case <-time.After(time.Duration(rand.Float64() * float64(300*time.Millisecond))):
		case <-ctx.Done():
		}
	}
	return work.Wait()
}

// watched is a subscription and the number of its events.
type watched struct {
	client *ganglion.Client
	i      int    // number of the client
	id     string // of a counter; empty for the category
	events atomic.Uint64
}

// buffer returns the number of events that are buffered for a slow reader. It is
// small, so that the subscription pauses often. Each pause costs a round trip, so a
// category, which has more events, has a larger buffer.
func (w *watched) buffer() int {
	if w.id == "" {
		return 8 * goCounters
	}
	return 8
}

func (w *watched) String() string { return fmt.Sprintf("client %d, counter/%s", w.i, w.id) }

// watch reads in one of several ways until reading ends. It checks that the
// versions of each stream start at 1 without gaps, and that positions rise.
func (w *watched) watch(reading context.Context) error {
	options := []ganglion.SubscribeOption{ganglion.FromStart()}
	slow := w.i%3 == 1
	if slow {
		options = append(options, ganglion.WithBuffer(w.buffer()))
	}
	var items iter.Seq2[ganglion.Event[added], error]
	switch {
	case w.id == "":
		items = counters.Category(w.client).Subscribe(reading, options...)
	case w.i%3 == 2:
		items = followed(reading, counters.Aggregate(w.client, w.id).Follow(options...))
	default:
		items = counters.Aggregate(w.client, w.id).Subscribe(reading, options...)
	}
	position, versions := uint64(0), map[string]uint64{}
	for e, err := range items {
		switch want := versions[e.Stream] + 1; {
		case reading.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("%v: %w", w, err)
		case e.Version != want:
			return fmt.Errorf("%v: version %d of %s instead of %d", w, e.Version, e.Stream, want)
		case e.Position <= position:
			return fmt.Errorf("%v: position %d after %d", w, e.Position, position)
		}
		versions[e.Stream], position = e.Version, e.Position
		if n := w.events.Add(1); slow && n%4 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// followed returns the events among the items of a followed subscription.
func followed(ctx context.Context, sub *ganglion.Subscription[counter, added]) iter.Seq2[ganglion.Event[added], error] {
	return func(yield func(ganglion.Event[added], error) bool) {
		defer sub.Close()
		for item, err := range sub.Items(ctx) {
			if item.Kind == ganglion.KindEvent && !yield(item.Event, err) {
				return
			}
		}
	}
}
