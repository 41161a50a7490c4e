package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// workload describes the commands, followers and faults of a test.
type workload struct {
	commands, counters, sessions int
	followers                    int                // half of them move between gateways
	noErrors                     bool               // forbids errors that ask for a retry
	bids                         bool               // bid on auctions instead of adding to counters
	during                       func(done float64) // called with the share of finished commands
	steps                        []func()           // executed in order under load, which lasts until the last one ends
}

// load returns the number of commands or followers of a test: a quarter of them in its
// short form.
func load(n int) int {
	if long {
		return n
	}
	return n / 4
}

// run executes a workload, and then checks every promise against the log.
func (c *cluster) run(w workload) {
	t := c.t
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // long, for a busy machine
	defer cancel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	followers := follow(ctx, w, c.wsURLs(), seed)
	defer followers.stop()
	senders := startSenders(ctx, w, c.wsURLs(), seed)
	senders.applySteps(ctx, w.steps)
	senders.await(t, w)

	log := readLog(t, c.store)
	senders.check(t, log)
	if n := senders.errors.Load(); w.noErrors && n > 0 {
		t.Errorf("%d commands got an error that asks for a retry, such as %v", n, senders.lastError.Load())
	}
	reconnects := followers.check(t, log)
	t.Logf("%d commands in %d streams, %d retries; %d followers reconnected %d times",
		senders.acked.Load(), len(log.streams), senders.retries.Load(), w.followers, reconnects)
	out, err := exec.Command(binary, "verify", "--store", c.store).CombinedOutput()
	if err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	t.Logf("verify: %s", out)
}

// rotated returns urls, rotated so that the one at i (modulo their number) is first.
func rotated(urls []string, i int) []string {
	i %= len(urls)
	return slices.Concat(urls[i:], urls[:i])
}

// senders send the commands of a workload over all gateways.
type senders struct {
	working   sync.WaitGroup
	stepsDone atomic.Bool
	failures  chan error
	results   [][]sent // by sender

	acked, retries, errors atomic.Int64
	lastError              atomic.Pointer[harness.ErrRefused]
}

// sent is an acknowledged command.
type sent struct {
	stream, key       string
	version, position uint64
}

func startSenders(ctx context.Context, w workload, urls []string, seed uint64) *senders {
	s := &senders{failures: make(chan error, w.sessions), results: make([][]sent, w.sessions)}
	s.stepsDone.Store(len(w.steps) == 0)
	for i := range w.sessions {
		s.working.Go(func() { s.send(ctx, w, i, rotated(urls, i), rand.New(rand.NewPCG(seed, uint64(1000+i)))) })
	}
	return s
}

// send sends the share of sender i, and more until all steps are done.
func (s *senders) send(ctx context.Context, w workload, i int, urls []string, r *rand.Rand) {
	client := &harness.Client{ID: fmt.Sprintf("client%d", i), URLs: urls}
	defer client.Leave()
	seller := &harness.Client{ID: "seller", URLs: urls}
	defer seller.Leave()
	for k := 0; k < w.commands/w.sessions || !s.stepsDone.Load(); k++ {
		by, stream, command, data := client, fmt.Sprintf("counter/c%d", r.IntN(w.counters)), "add", map[string]any{"by": 1 + r.IntN(9)}
		if w.bids {
			stream, command, data = auction(i, r.IntN(auctionsEach)), "bid", map[string]any{"amount": 2000 + k}
		}
		if w.bids && k < auctionsEach {
			by, stream, command, data = seller, auction(i, k), "open", opening(k)
		}
		key := fmt.Sprintf("%d-%d", i, k)
		f, err := by.Do(ctx, stream, command, key, data)
		if err != nil {
			s.failures <- fmt.Errorf("command %s to %s: %w", key, stream, err)
			return
		}
		s.results[i] = append(s.results[i], sent{stream, key, f.Version, f.Position})
		s.acked.Add(1)
	}
	s.retries.Add(client.Retries.Load() + seller.Retries.Load())
	s.errors.Add(client.Errors.Load() + seller.Errors.Load())
	for _, c := range []*harness.Client{client, seller} {
		if err := c.LastError.Load(); err != nil {
			s.lastError.Store(err)
		}
	}
}

// applySteps executes the steps. Before each, it waits until as many commands as
// there are senders were acknowledged, so that each step happens under load.
func (s *senders) applySteps(ctx context.Context, steps []func()) {
	defer s.stepsDone.Store(true)
	for _, step := range steps {
		for from := s.acked.Load(); s.acked.Load() < from+int64(len(s.results)); {
			if len(s.failures) > 0 || ctx.Err() != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		step()
	}
}

// await waits for all senders. While it waits, it calls the workload's during.
func (s *senders) await(t *testing.T, w workload) {
	t.Helper()
	finished := make(chan struct{})
	go func() { s.working.Wait(); close(finished) }()
	total := w.commands / w.sessions * w.sessions
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-time.After(10 * time.Millisecond):
		}
		if w.during != nil {
			w.during(float64(s.acked.Load()) / float64(total))
		}
	}
	close(s.failures)
	for err := range s.failures {
		t.Fatalf("%v; %d of %d commands were acknowledged", err, s.acked.Load(), total)
	}
}

// check checks that the log has every acknowledged command once, at the position
// of its reply, and no other.
func (s *senders) check(t *testing.T, log contents) {
	t.Helper()
	for _, results := range s.results {
		for _, r := range results {
			at, ok := log.keys[r.stream+" "+r.key]
			switch {
			case !ok:
				t.Errorf("command %s to %s was acknowledged, but is not in the log", r.key, r.stream)
			case at != eventstore.Position(r.position):
				t.Errorf("command %s was acknowledged at position %d, but is at %d", r.key, r.position, at)
			}
		}
	}
	if total := int(s.acked.Load()); log.events != total {
		t.Errorf("%d commands were sent, but the log has %d events", total, log.events)
	}
}

// followers follow streams and the category of a workload from the beginning.
type followers struct {
	list   []*recordingFollower
	stop   context.CancelFunc
	movers sync.WaitGroup
}

// recordingFollower keeps the events that it receives.
type recordingFollower struct {
	*harness.Follower
	move chan struct{}
	done chan error

	mu   sync.Mutex
	seen []harness.Frame
}

func follow(ctx context.Context, w workload, urls []string, seed uint64) *followers {
	ctx, stop := context.WithCancel(ctx)
	all := &followers{list: make([]*recordingFollower, w.followers), stop: stop}
	for i := range all.list {
		f := &recordingFollower{move: make(chan struct{}), done: make(chan error, 1)}
		target := map[string]any{"category": "counter"}
		if i%4 != 0 {
			target = map[string]any{"stream": fmt.Sprintf("counter/c%d", i%w.counters)}
		}
		f.Follower = &harness.Follower{ID: "follower", URLs: rotated(urls, i), Target: target, Each: func(e harness.Frame) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.seen = append(f.seen, e)
		}}
		all.list[i] = f
		go func() { f.done <- f.Follow(ctx, f.move) }()
		if i%2 == 0 {
			all.movers.Go(func() { f.moveOn(ctx, rand.New(rand.NewPCG(seed, uint64(i)))) })
		}
	}
	return all
}

// moveOn makes the follower change its gateway every 20 to 320 ms.
func (f *recordingFollower) moveOn(ctx context.Context, r *rand.Rand) {
	for {
		select {
		case <-time.After(time.Duration(20+r.IntN(300)) * time.Millisecond):
		case <-ctx.Done():
			return
		}
		select {
		case f.move <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// check waits until each follower has all events of its target, and stops them.
// It checks that each has them exactly once; the followers themselves check
// order and gaps. It returns the number of reconnects.
func (all *followers) check(t *testing.T, log contents) (reconnects int) {
	t.Helper()
	for i, f := range all.list {
		harness.Eventually(t, fmt.Sprintf("follower %d of %v", i, f.Target), func() error {
			select {
			case err := <-f.done:
				f.done <- err
				t.Fatalf("follower %d of %v ended: %v", i, f.Target, err)
			default:
			}
			return f.isComplete(log)
		})
	}
	all.stop()
	all.movers.Wait()
	for i, f := range all.list {
		if err := <-f.done; err != nil {
			t.Errorf("follower %d of %v: %v", i, f.Target, err)
		}
		if err := f.isComplete(log); err != nil { // no event arrived twice
			t.Errorf("follower %d of %v: %v", i, f.Target, err)
		}
		reconnects += f.Reconnects
		for _, e := range f.seen {
			if log.keys[e.Stream+" "+e.Cause] != eventstore.Position(e.Position) {
				t.Errorf("follower %d received %s at position %d, where the log does not have it", i, e.Cause, e.Position)
				break
			}
		}
	}
	return reconnects
}

// isComplete returns an error if the follower has more or fewer events than the log
// has for its target.
func (f *recordingFollower) isComplete(log contents) error {
	want := log.events
	if stream, ok := f.Target["stream"].(string); ok {
		want = log.streams[stream]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) != want {
		return fmt.Errorf("has %d of %d events", len(f.seen), want)
	}
	return nil
}

// contents describes the events of a log.
type contents struct {
	keys    map[string]eventstore.Position // by "stream key": position of the last event
	streams map[string]int                 // number of events per stream
	events  int
}

func readLog(t *testing.T, url string) contents {
	t.Helper()
	ctx := t.Context()
	store, err := node.OpenStore(ctx, node.StoreConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := contents{keys: map[string]eventstore.Position{}, streams: map[string]int{}}
	for after := eventstore.Position(0); ; {
		commits, err := store.Read(ctx, after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(commits) == 0 {
			return c
		}
		for _, commit := range commits {
			k := commit.Stream.String() + " " + commit.Key
			if at, ok := c.keys[k]; ok {
				t.Errorf("the log has %s twice, at positions %d and %d", k, at, commit.Position)
			}
			c.keys[k] = commit.Position
			c.streams[commit.Stream.String()] += len(commit.Events)
			c.events += len(commit.Events)
			after = commit.Position
		}
	}
}
