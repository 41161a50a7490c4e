package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestFrozenOwnerWakesWithoutStaleState freezes an owner with SIGSTOP, and resumes
// it. Meanwhile it is sent commands and strong and weak gets from all gateways,
// including its own. GANGLION_FAULTS=long adds a freeze of 20 s.
//
//   - A strong get returns at least the newest version acknowledged before it
//     was sent.
//   - The only writer of a stream, which always states the expected version,
//     never gets a conflict.
//   - A rejected command is not in the log; an acknowledged one is there, at the
//     position of its reply.
//   - Weak gets that waited in the frozen process return at least the newest
//     version acknowledged before it resumed, if the freeze was longer than the
//     silence that other nodes allow.
func TestFrozenOwnerWakesWithoutStaleState(t *testing.T) {
	freezes := []time.Duration{500 * time.Millisecond, 3 * time.Second}
	if long {
		freezes = append(freezes, 20*time.Second)
	}
	c := startTrio(t, database(t))
	const victim = 1
	w := &witnesses{t: t, urls: c.wsURLs()}
	w.ctx, w.stop = context.WithTimeout(context.Background(), 5*time.Minute)
	defer w.stop()
	for _, typ := range []string{"counter", "auction"} {
		w.streams = append(w.streams, ownedBy(typ, "n2", 3)...)
	}
	w.acked = make([]atomic.Uint64, len(w.streams))
	w.begin()
	for _, d := range freezes {
		t.Logf("a freeze of %v", d)
		w.acks(200)
		sleeper, err := harness.Dial(w.ctx, w.urls[victim], "sleeper", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.members[victim].Signal(syscall.SIGSTOP)
		wake := time.After(d)
		if d > time.Second {
			// On a busy machine gossip may notice the freeze before the link does.
			harness.Eventually(t, "n1 shows n2 as unhealthy", func() error {
				out, errs, code := call(t, "members", "--url", c.members[0].URLs[0])
				if code != 0 || regexp.MustCompile(`(?m)^n2 .* (up|doubted) `).MatchString(out) {
					return errors.New(out + errs)
				}
				return nil
			})
		}
		<-wake
		check := func() {}
		if d > time.Second { // after a shorter freeze, a weak get promises nothing
			check = w.askAsleep(sleeper)
		}
		c.members[victim].Signal(syscall.SIGCONT)
		check()
		sleeper.Close()
		w.acks(200)
		c.settled()
	}
	w.end()
	for _, counted := range []string{"ganglion_link_silences_total", "ganglion_commands_unknown_total", "ganglion_commands_retried_total"} {
		if gauge(t, c.members[0].URLs[0], counted) == 0 {
			if counted == "ganglion_link_silences_total" && strings.Contains(c.members[0].Output(), "member gone") {
				continue // gossip was first: see above
			}
			t.Errorf("n1 did not count %s", counted)
		}
	}

	log := readLog(t, c.store)
	for _, s := range w.done {
		at, ok := log.keys[s.stream+" "+s.key]
		if s.rejected && ok {
			t.Errorf("command %s to %s was rejected, but the log has it at position %d", s.key, s.stream, at)
		}
		if !s.rejected && at != eventstore.Position(s.position) {
			t.Errorf("command %s to %s was acknowledged at position %d, but is at %d", s.key, s.stream, s.position, at)
		}
	}
	t.Logf("%d commands acknowledged, %d rejected, %d gets answered", w.acknowledged.Load(), w.rejected.Load(), w.gets.Load())
	if w.acknowledged.Load() == 0 || w.rejected.Load() == 0 || w.gets.Load() == 0 {
		t.Error("want some of each")
	}
	if out, err := exec.Command(binary, "verify", "--store", c.store).CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
}

// witnesses write to and read from streams, and check the versions that they read.
type witnesses struct {
	t       *testing.T
	ctx     context.Context
	stop    context.CancelFunc
	urls    []string
	streams []string
	acked   []atomic.Uint64 // by stream: newest acknowledged version

	acknowledged, rejected, gets atomic.Int64
	ended                        atomic.Bool
	running                      sync.WaitGroup

	mu   sync.Mutex
	done []finished
}

// finished is a command with its outcome.
type finished struct {
	stream, key string
	position    uint64
	rejected    bool
}

// ownedBy returns n streams that a member of the cluster n1, n2, n3 owns.
func ownedBy(typ, member string, n int) []string {
	var streams []string
	r := ring.New([]string{"n1", "n2", "n3"})
	for i := 0; len(streams) < n; i++ {
		s := eventstore.StreamID{Type: typ, ID: fmt.Sprint("f", i)}
		if owner, _ := r.Owner(s); owner == member {
			streams = append(streams, s.String())
		}
	}
	return streams
}

func (w *witnesses) begin() {
	for i, stream := range w.streams {
		if strings.HasPrefix(stream, "auction/") {
			seller := w.client("seller", i)
			if w.send(seller, i, "open-"+stream, map[string]any{
				"command": "open", "data": map[string]any{"item": "a lamp", "reserve": 1, "closes_at": "2099-01-01T00:00:00Z"},
			}) == nil {
				w.t.Fatalf("%s was not opened", stream)
			}
			seller.Leave()
			for b := range len(w.urls) {
				w.running.Go(func() { w.bid(i, b) })
			}
		} else {
			w.running.Go(func() { w.count(i) })
		}
		for g := range w.urls {
			w.running.Go(func() { w.read(i, g) })
		}
	}
}

func (w *witnesses) end() {
	w.ended.Store(true)
	w.running.Wait()
}

// client returns a client that starts at gateway g and then follows the others.
func (w *witnesses) client(id string, g int) *harness.Client {
	g %= len(w.urls)
	return &harness.Client{ID: id, URLs: slices.Concat(w.urls[g:], w.urls[:g])}
}

// acks waits until n more commands were acknowledged.
func (w *witnesses) acks(n int64) {
	w.t.Helper()
	from := w.acknowledged.Load()
	harness.Eventually(w.t, "more commands are acknowledged", func() error {
		if got := w.acknowledged.Load() - from; got < n {
			return fmt.Errorf("%d of %d commands were acknowledged", got, n)
		}
		return nil
	})
}

// send sends a command until its outcome is known. It returns nil if the command
// was rejected or the test ends.
func (w *witnesses) send(client *harness.Client, i int, key string, frame map[string]any) *harness.Frame {
	frame["aggregate"], frame["key"] = w.streams[i], key
	f, err := client.DoFrame(w.ctx, frame)
	var refused *harness.ErrRefused
	switch {
	case errors.As(err, &refused) && f.Code == "rejected":
		w.rejected.Add(1)
		w.note(finished{stream: w.streams[i], key: key, rejected: true})
		return nil
	case err != nil:
		w.t.Errorf("command %s to %s: %v", key, w.streams[i], err)
		w.ended.Store(true)
		return nil
	}
	w.acknowledged.Add(1)
	w.note(finished{stream: w.streams[i], key: key, position: f.Position})
	raise(&w.acked[i], f.Version)
	return &f
}

func (w *witnesses) note(f finished) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, f)
}

func raise(v *atomic.Uint64, to uint64) {
	for {
		old := v.Load()
		if to <= old || v.CompareAndSwap(old, to) {
			return
		}
	}
}

// count is the only writer of its stream, and always states the expected version.
func (w *witnesses) count(i int) {
	client := w.client(fmt.Sprintf("counter%d", i), i)
	defer client.Leave()
	for n := uint64(0); !w.ended.Load(); n++ {
		f := w.send(client, i, fmt.Sprintf("%s-%d", w.streams[i], n), map[string]any{
			"command": "add", "data": map[string]any{"by": 1}, "expect": n,
		})
		if f != nil && f.Version != n+1 {
			w.t.Errorf("%s: a command that expected version %d made version %d", w.streams[i], n, f.Version)
		}
	}
}

// bid bids around the highest bid, so about every second one is rejected.
func (w *witnesses) bid(i, b int) {
	client := w.client(fmt.Sprintf("bidder%d", b), b)
	defer client.Leave()
	for n := 0; !w.ended.Load(); n++ {
		amount := max(1, int(w.acked[i].Load())*10+rand.IntN(40)-15)
		w.send(client, i, fmt.Sprintf("bid-%d-%d", b, n), map[string]any{"command": "bid", "data": map[string]any{"amount": amount}})
	}
}

// read sends strong gets to one gateway.
func (w *witnesses) read(i, g int) {
	client := &harness.Client{ID: "reader", URLs: w.urls[g : g+1]}
	defer client.Leave()
	for !w.ended.Load() {
		s, err := client.Connected(w.ctx)
		if err != nil {
			return
		}
		known := w.acked[i].Load()
		f, err := s.Call(w.ctx, map[string]any{"op": "get", "aggregate": w.streams[i], "strong": true})
		if err != nil || f.Op != "result" {
			continue // the session ended, or the reply asks for a retry
		}
		w.gets.Add(1)
		if f.Version < known {
			w.t.Errorf("%s: a strong get of %s returned version %d after version %d had been acknowledged", w.urls[g], w.streams[i], f.Version, known)
		}
		time.Sleep(5 * time.Millisecond) // leave the processor to the writers
	}
}

// askAsleep sends weak gets to a frozen process, on a session that was open before.
// The returned function checks their replies after the process was resumed.
func (w *witnesses) askAsleep(s *harness.Session) (check func()) {
	var known []uint64
	var answers []<-chan harness.Frame
	for i, stream := range w.streams {
		known = append(known, w.acked[i].Load())
		answer, err := s.Start(w.ctx, map[string]any{"op": "get", "aggregate": stream})
		if err != nil {
			w.t.Fatal(err)
		}
		answers = append(answers, answer)
	}
	return func() {
		answered := 0
		for i, answer := range answers {
			select {
			case f := <-answer:
				if f.Op != "result" {
					w.t.Logf("a weak get of %s that waited in the frozen node: %s %s", w.streams[i], f.Code, f.Message)
					continue
				}
				answered++
				if f.Version < known[i] {
					w.t.Errorf("a weak get of %s that waited in the frozen node returned version %d; %d had been acknowledged before it resumed",
						w.streams[i], f.Version, known[i])
				}
			case <-s.Done(): // the gateway closed it, since it is far behind
			case <-w.ctx.Done():
				w.t.Fatal("a get that waited in the frozen node has no reply")
			}
		}
		w.t.Logf("%d of %d gets that waited in the frozen node returned a state", answered, len(answers))
	}
}
