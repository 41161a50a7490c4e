package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/harness"
)

// trio is a cluster of three nodes on one PostgreSQL.
type trio struct {
	t     *testing.T
	store string
	extra []string
	seeds []string
	// listen has the addresses for clients: any at first, then what it was.
	listen [3]string
	nodes  [3]*harness.Node
}

// startTrio starts the three with extra flags, in which {node} is the name of
// the node that gets them.
func startTrio(t *testing.T, store string, extra ...string) *trio {
	c := &trio{t: t, store: store, extra: extra}
	for i := range c.nodes {
		c.listen[i] = "127.0.0.1:0"
		c.seeds = append(c.seeds, "127.0.0.1:"+strconv.Itoa(harness.FreePort(t)))
	}
	for i := range c.nodes {
		c.start(i)
	}
	c.settled()
	return c
}

// start starts node i, after it ended at the same address for clients.
func (c *trio) start(i int) {
	args := []string{
		"node", "--name", "n" + strconv.Itoa(i+1), "--store", c.store,
		"--listen", c.listen[i], "--peer-listen", "127.0.0.1:0", "--gossip-listen", c.seeds[i],
		"--join", strings.Join(c.seeds, ","),
	}
	for _, arg := range c.extra {
		args = append(args, strings.ReplaceAll(arg, "{node}", "n"+strconv.Itoa(i+1)))
	}
	c.nodes[i] = harness.Start(c.t, binary, 1, args...)
	c.listen[i] = strings.TrimPrefix(c.nodes[i].URLs[0], "http://")
}

func (c *trio) urls() []string {
	var urls []string
	for _, n := range c.nodes {
		urls = append(urls, n.URLs[0])
	}
	return urls
}

func (c *trio) wsURLs() []string {
	urls := c.urls()
	for i := range urls {
		urls[i] = harness.WS(urls[i])
	}
	return urls
}

// settled waits until all nodes see three ready members and the same ring.
func (c *trio) settled() {
	c.t.Helper()
	harness.Eventually(c.t, "the cluster does not settle", func() error {
		for _, url := range c.urls() {
			s, err := harness.Status(url)
			if err != nil {
				return err
			}
			if s.Ring.Owners != 3 {
				return fmt.Errorf("%s sees %d owners", s.Node, s.Ring.Owners)
			}
			for _, m := range s.Members {
				if m.Ring != s.Ring.Signature {
					return fmt.Errorf("%s has ring %s, but %s announces %s", s.Node, s.Ring.Signature, m.ID, m.Ring)
				}
			}
		}
		return nil
	})
}

// workload is what the tests below do to a cluster.
type workload struct {
	commands, counters, sessions int
	followers                    int                // half of them keep moving between gateways
	noErrors                     bool               // not even such as ask for a retry
	during                       func(done float64) // called as the commands progress, with 0 … 1
}

// sent is an acknowledged command.
type sent struct {
	stream, key       string
	version, position uint64
}

// run drives a workload and then checks every promise against the log.
func (c *trio) run(w workload) {
	t := c.t
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	urls := c.wsURLs()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)

	// Followers, from the beginning of the log, each with all its events.
	type followed struct {
		*harness.Follower
		mu   sync.Mutex
		seen []harness.Frame
		move chan struct{}
		done chan error
	}
	following, unfollow := context.WithCancel(ctx)
	defer unfollow()
	followers := make([]*followed, w.followers)
	var mover sync.WaitGroup
	for i := range followers {
		f := &followed{move: make(chan struct{}), done: make(chan error, 1)}
		target := map[string]any{"category": "counter"}
		if i%4 != 0 {
			target = map[string]any{"stream": fmt.Sprintf("counter/c%d", i%w.counters)}
		}
		from := append(append([]string{}, urls[i%3:]...), urls[:i%3]...)
		f.Follower = &harness.Follower{ID: "follower", URLs: from, Target: target, Each: func(e harness.Frame) {
			f.mu.Lock()
			f.seen = append(f.seen, e)
			f.mu.Unlock()
		}}
		followers[i] = f
		go func() { f.done <- f.Follow(following, f.move) }()
		if i%2 == 0 {
			mover.Go(func() {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				for {
					select {
					case <-time.After(time.Duration(20+r.IntN(300)) * time.Millisecond):
					case <-following.Done():
						return
					}
					select {
					case f.move <- struct{}{}:
					case <-following.Done():
						return
					}
				}
			})
		}
	}

	// Commands, over all gateways at once.
	var acked atomic.Int64
	results := make([][]sent, w.sessions)
	failures := make(chan error, w.sessions)
	var senders sync.WaitGroup
	var retries, errorFrames atomic.Int64
	for i := range w.sessions {
		senders.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(1000+i)))
			client := &harness.Client{ID: fmt.Sprintf("client%d", i), URLs: append(append([]string{}, urls[i%3:]...), urls[:i%3]...)}
			defer client.Leave()
			for k := range w.commands / w.sessions {
				stream, key := fmt.Sprintf("counter/c%d", r.IntN(w.counters)), fmt.Sprintf("%d-%d", i, k)
				f, err := client.Do(ctx, stream, "add", key, map[string]int{"by": 1 + r.IntN(9)})
				if err != nil {
					failures <- fmt.Errorf("command %s to %s: %w", key, stream, err)
					return
				}
				results[i] = append(results[i], sent{stream, key, f.Version, f.Position})
				acked.Add(1)
			}
			retries.Add(client.Retries.Load())
			errorFrames.Add(client.Errors.Load())
		})
	}
	finished := make(chan struct{})
	go func() { senders.Wait(); close(finished) }()
	total := w.commands / w.sessions * w.sessions
	for running := true; running; {
		select {
		case <-finished:
			running = false
		case <-time.After(10 * time.Millisecond):
		}
		if w.during != nil {
			w.during(float64(acked.Load()) / float64(total))
		}
	}
	close(failures)
	for err := range failures {
		t.Fatalf("%v; %d of %d commands were acknowledged", err, acked.Load(), total)
	}

	if n := errorFrames.Load(); w.noErrors && n > 0 {
		t.Errorf("%d commands were answered with an error that asks for a retry", n)
	}

	// The log: every acknowledged command once, where the reply said.
	log := readLog(t, c.store)
	perStream := map[string]int{}
	for _, r := range results {
		for _, s := range r {
			at, ok := log.keys[s.stream+" "+s.key]
			switch {
			case !ok:
				t.Errorf("command %s to %s was acknowledged and is not in the log", s.key, s.stream)
			case at != eventstore.Position(s.position):
				t.Errorf("command %s was acknowledged at %d and is at %d", s.key, s.position, at)
			}
		}
	}
	if log.events != total {
		t.Errorf("%d commands left %d events", total, log.events)
	}
	for stream := range log.streams {
		perStream[stream] = log.streams[stream]
	}

	// The followers: each matching event, exactly once, in order. Order and
	// holes were checked on the way.
	reconnects := 0
	for i, f := range followers {
		want := log.events
		if stream, ok := f.Target["stream"].(string); ok {
			want = perStream[stream]
		}
		harness.Eventually(t, fmt.Sprintf("follower %d of %v", i, f.Target), func() error {
			select {
			case err := <-f.done:
				f.done <- err
				t.Fatalf("follower %d of %v ended: %v", i, f.Target, err)
			default:
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.seen) != want {
				return fmt.Errorf("has %d of %d events", len(f.seen), want)
			}
			return nil
		})
	}
	unfollow()
	mover.Wait()
	for i, f := range followers {
		if err := <-f.done; err != nil {
			t.Errorf("follower %d of %v: %v", i, f.Target, err)
		}
		reconnects += f.Reconnects
		for _, e := range f.seen {
			if log.keys[e.Stream+" "+e.Cause] != eventstore.Position(e.Position) {
				t.Errorf("follower %d saw %s at %d, which is not where the log has it", i, e.Cause, e.Position)
				break
			}
		}
	}
	t.Logf("%d commands in %d streams, %d retries; %d followers reconnected %d times", total, len(log.streams), retries.Load(), len(followers), reconnects)

	out, err := exec.Command(binary, "verify", "--store", c.store).CombinedOutput()
	if err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	t.Logf("verify: %s", out)
}

// contents is what stands in a log.
type contents struct {
	keys    map[string]eventstore.Position // "stream key" to the position of the last event
	streams map[string]int                 // events of each stream
	events  int
}

func readLog(t *testing.T, url string) contents {
	t.Helper()
	ctx := t.Context()
	store, err := ganglion.OpenStore(ctx, ganglion.StoreConfig{URL: url})
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
				t.Errorf("%s stands in the log twice, at %d and %d", k, at, commit.Position)
			}
			c.keys[k] = commit.Position
			c.streams[commit.Stream.String()] += len(commit.Events)
			c.events += len(commit.Events)
			after = commit.Position
		}
	}
}

// TestThreeNodes sends 10,000 commands over three gateways while half of the
// subscribers keep moving from gateway to gateway.
func TestThreeNodes(t *testing.T) {
	c := startTrio(t, database(t))
	c.run(workload{commands: 10_048, counters: 500, sessions: 64, followers: 40})

	for _, url := range c.urls() {
		s, err := harness.Status(url)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.Members {
			if third := ring.Partitions / 3; m.Partitions < third*7/10 || m.Partitions > third*13/10 {
				t.Errorf("%s owns %d of %d partitions, which is not about a third", m.ID, m.Partitions, ring.Partitions)
			}
		}
		if s.Commands.Local == 0 || s.Commands.Forwarded == 0 || s.Commands.ExecutedForOthers == 0 {
			t.Errorf("%s: local %d, forwarded %d, executed for others %d: each should have happened",
				s.Node, s.Commands.Local, s.Commands.Forwarded, s.Commands.ExecutedForOthers)
		}
	}
}

// TestKilledNode kills a node with kill -9 in the middle and starts it again.
func TestKilledNode(t *testing.T) {
	c := startTrio(t, database(t))
	var killed, restarted sync.Once
	c.run(workload{commands: 10_048, counters: 500, sessions: 64, followers: 40, during: func(done float64) {
		if done > 0.3 {
			killed.Do(func() { c.nodes[1].Kill() })
		}
		if done > 0.6 {
			restarted.Do(func() { c.start(1) })
		}
	}})
	c.settled()
}

// TestFrozenNode stops a node with SIGSTOP in the middle and wakes it up later:
// what it still had to do, others have done, and it does nothing of it again.
func TestFrozenNode(t *testing.T) {
	c := startTrio(t, database(t))
	var frozen, woken sync.Once
	c.run(workload{commands: 10_000, counters: 200, sessions: 64, followers: 24, during: func(done float64) {
		if done > 0.3 {
			frozen.Do(func() { c.nodes[1].Signal(syscall.SIGSTOP) })
		}
		// A third of the sessions hang with their gateway, and are far from
		// done when the others are.
		if done > 0.6 {
			woken.Do(func() { c.nodes[1].Signal(syscall.SIGCONT) })
		}
	}})
	woken.Do(func() { t.Error("the node was never woken") })
}

// TestWithoutPush switches pushed events off: everything is still delivered.
func TestWithoutPush(t *testing.T) {
	t.Setenv("GANGLION_TAIL_ONLY", "true")
	c := startTrio(t, database(t))
	c.run(workload{commands: 5_000, counters: 200, sessions: 32, followers: 24})
	for _, url := range c.urls() {
		s, err := harness.Status(url)
		if err != nil {
			t.Fatal(err)
		}
		if s.Feed.Pushed != 0 || s.Feed.Read == 0 {
			t.Errorf("%s: %d events came by push and %d from the log: all should have come from the log", s.Node, s.Feed.Pushed, s.Feed.Read)
		}
	}
}

// TestRollingRestart stops and starts one node after another with SIGTERM
// under load: each leaves in order, and no client gets an error.
func TestRollingRestart(t *testing.T) {
	c := startTrio(t, database(t))
	next := 0
	c.run(workload{commands: 10_000, counters: 200, sessions: 32, followers: 24, noErrors: true, during: func(done float64) {
		if next == len(c.nodes) || done < 0.1+0.2*float64(next) {
			return
		}
		c.nodes[next].Signal(syscall.SIGTERM)
		if code := c.nodes[next].Wait(); code != 0 {
			t.Errorf("a drained node exits with %d", code)
		}
		c.start(next)
		c.settled()
		next++
	}})
	if next != len(c.nodes) {
		t.Errorf("only %d nodes were restarted before the load ended", next)
	}
}
