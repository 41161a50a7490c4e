package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// awayEvent is the size of the events while the broker is away.
	awayEvent = 50 << 10
	// awayMemory bounds how much the heap of the relay's owner grows meanwhile. The events
	// that the relay is behind have twice as many bytes at least.
	awayMemory = 32 << 20
	// awayBehind is where the test stores no more large events, and awayCaches what the
	// nodes keep of the newest events in memory at most.
	awayBehind, awayCaches = 256 << 20, 48 << 20
	// awayFor is how long the broker is away with GANGLION_FAULTS=long.
	awayFor = time.Minute
)

// storeLarge appends large events to the log, as another node would: 1 MiB of messages to a plain
// topic.
func (w *world) storeLarge(n int) {
	w.Helper()
	c := eventstore.Command{Key: fmt.Sprint("large", n), At: time.Now()}
	for range (1 << 20) / awayEvent {
		c.Events = append(c.Events, eventstore.Event{Type: "message", Data: []byte(`{"body":"` + strings.Repeat("x", awayEvent) + `"}`)})
	}
	_, err := w.log.Append(w.Context(), eventstore.Unit{Stream: eventstore.StreamID{Type: "topic", ID: fmt.Sprint(n)}, Commands: []eventstore.Command{c}})
	w.must(err)
}

// gauge returns a metric of a node.
func (w *world) gauge(i int, name string) int {
	w.Helper()
	var value float64
	w.eventually("the node shows "+name, func() bool {
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(w.metrics(i))
		if found == nil {
			return false
		}
		var err error
		value, err = strconv.ParseFloat(found[1], 64)
		return err == nil
	})
	return int(value)
}

// heap returns the bytes of a node's heap in use, right after a collection.
func (w *world) heap(i int) int {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), http.MethodGet, "http://"+w.admins[i]+"/debug/pprof/heap?gc=1", nil)
	w.must(err)
	resp, err := http.DefaultClient.Do(req)
	w.must(err)
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		w.Fatalf("the profile of the heap: %d, %v", resp.StatusCode, err)
	}
	return w.gauge(i, "go_memstats_heap_inuse_bytes")
}

// TestBrokerThatIsAwayCostsLagOnly stops the broker while commands are sent and large events
// are stored: until the relay is behind by twice the memory that it may take, and for a
// minute with GANGLION_FAULTS=long.
func TestBrokerThatIsAwayCostsLagOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.load()
	stored := 0
	for ; stored < awayCaches>>20; stored++ { // the caches of the nodes are full then
		w.storeLarge(stored)
	}
	w.eventually("the relay has published them", func() bool { return int(w.state().Position) > stored*(1<<20)/awayEvent })
	i := w.owner()
	before, resident := w.heap(i), w.gauge(i, "process_resident_memory_bytes")
	from, least := w.head(), time.Duration(0)
	if os.Getenv("GANGLION_FAULTS") == "long" {
		least = awayFor
	}
	began := time.Now()
	w.must(w.broker.Kill())
	behind := 0
	w.eventually("the relay is far behind", func() bool {
		if behind < awayBehind {
			w.storeLarge(stored)
			stored, behind = stored+1, behind+1<<20
		}
		return behind >= 2*awayMemory && time.Since(began) > least
	})
	during := w.heap(i)
	s := w.state()
	if int64(s.Position) > from || s.Lag < 2*awayMemory/awayEvent || !strings.Contains(w.metrics(i), `ganglion_relay_connected{relay="orders"} 0`) {
		t.Errorf("the relay is %d events behind at position %d, and the broker was stopped at %d: it is not away", s.Lag, s.Position, from)
	}
	t.Logf("the broker was away for %v, the relay %d events or %d MiB behind; the owner's heap had %d MiB before and %d MiB then, resident %d MiB and %d MiB",
		time.Since(began).Round(time.Second), s.Lag, behind>>20, before>>20, during>>20, resident>>20, w.gauge(i, "process_resident_memory_bytes")>>20)
	if during > before+awayMemory {
		t.Errorf("the heap of the owner grew from %d to %d MiB while the broker was away", before>>20, during>>20)
	}
	w.must(w.broker.Restart(t.Context()))
	back := time.Now()
	stop()
	w.caughtUp()
	t.Logf("it had caught up %v after the broker was back", time.Since(back).Round(time.Second))
	w.check()
}
