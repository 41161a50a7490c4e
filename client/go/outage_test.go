package ganglion

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestMailServerThatIsDownForTenMinutesParksNothing has a handler that fails for ten
// minutes for each event, after it has worked. Other events are handled before and
// after, so each of the many failures counts for the parking of its stream.
func TestMailServerThatIsDownForTenMinutesParksNothing(t *testing.T) {
	const streams, versions = 5, 4
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var down, up time.Time // the mail server is away from down until up
		handled := make(chan GroupEvent, streams*versions)
		failures := map[string]int{} // of each event; the calls of the handler are one after another
		ended := make(chan error, 1)
		go func() {
			ended <- g.client.Handle(ctx, "mailer", func(_ context.Context, e GroupEvent) error {
				if now := time.Now(); !down.IsZero() && !now.Before(down) && now.Before(up) {
					failures[fmt.Sprint(e.Stream, " ", e.Version)]++
					return errors.New("dial tcp: connection refused")
				}
				handled <- e
				return nil
			}, WithConcurrency(1))
		}()
		synctest.Wait()
		id := g.last()["id"]
		g.send(
			object{"op": "consuming", "id": id, "window": 100, "ack_within_ms": 3_600_000},
			object{"op": "assigned", "sub": id, "segment": "0", "epoch": 1, "cursor": "0", "log": "log-1"},
		)
		position := 0
		deliver := func(version int) {
			for s := range streams {
				position++
				g.send(object{
					"op": "event", "sub": id, "segment": "0", "stream": fmt.Sprint("auction/", s), "version": version, "position": position,
					"event": "closed", "data": object{},
				})
			}
			synctest.Wait()
		}
		deliver(1)
		down = time.Now()
		up = down.Add(10 * time.Minute)
		for version := 2; version <= versions; version++ {
			deliver(version)
		}
		heartbeats := func(until time.Time) {
			for time.Now().Before(until) {
				time.Sleep(20 * time.Second)
				g.send(object{"op": "heartbeat", "cursor": "100"})
			}
		}
		heartbeats(up.Add(-30 * time.Second))
		if n := len(handled); n != streams {
			t.Errorf("%d events are handled while the mail server is down, want the %d of before", n, streams)
		}
		heartbeats(up.Add(2 * time.Minute))
		if n := len(handled); n != streams*versions {
			t.Fatalf("%d of %d events are handled", n, streams*versions)
		}
		last := map[string]uint64{}
		for range streams * versions {
			e := <-handled
			if e.Version != last[e.Stream]+1 {
				t.Errorf("version %d of %s is handled after %d", e.Version, e.Stream, last[e.Stream])
			}
			last[e.Stream] = e.Version
		}
		time.Sleep(time.Second) // until the acknowledgements are sent
		synctest.Wait()
		if len(failures) != streams {
			t.Errorf("%d events failed, want the first of each of %d streams", len(failures), streams)
		}
		for event, n := range failures {
			if n < 10 { // pauses are at most a minute
				t.Errorf("%s was tried %d times in ten minutes", event, n)
			}
		}
		acked := ""
		g.socket.mu.Lock()
		for _, f := range g.socket.received {
			switch f["op"] {
			case "park":
				t.Errorf("the client parked: %v", f)
			case "ack":
				acked = f["cursor"].(string)
			}
		}
		g.socket.mu.Unlock()
		if acked != fmt.Sprint(position) {
			t.Errorf("acknowledged up to %s of %d", acked, position)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Handle returned %v", err)
		}
	})
}
