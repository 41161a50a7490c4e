package e2e

import (
	"cmp"
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

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/harness"
)

// cluster is some nodes on one PostgreSQL: n1, n2, …
type cluster struct {
	t       *testing.T
	store   string
	extra   []string
	seeds   []string
	members []member
}

type member struct {
	*harness.Node
	roles  string // "" for all
	binary string // "" for the one of the tests
	listen string // the address for clients: any at first, then what it was
}

// startTrio starts three nodes with all roles and with extra flags, in which
// {node} is the name of the node that gets them.
func startTrio(t *testing.T, store string, extra ...string) *cluster {
	return startCluster(t, store, []string{"", "", ""}, extra...)
}

// startCluster starts a node for each set of roles.
func startCluster(t *testing.T, store string, roles []string, extra ...string) *cluster {
	c := &cluster{t: t, store: store, extra: extra}
	for _, r := range roles {
		c.add(r)
	}
	for i := range c.members {
		c.start(i)
	}
	c.settled()
	return c
}

// add makes room for a node that is not started yet, and returns its index.
func (c *cluster) add(roles string) int {
	c.members = append(c.members, member{roles: roles, listen: "127.0.0.1:0"})
	c.seeds = append(c.seeds, "127.0.0.1:"+strconv.Itoa(harness.FreePort(c.t)))
	return len(c.members) - 1
}

// start starts node i, after it ended at the same address for clients.
func (c *cluster) start(i int) {
	m := &c.members[i]
	name := "n" + strconv.Itoa(i+1)
	args := []string{
		"node", "--name", name, "--store", c.store,
		"--listen", m.listen, "--peer-listen", "127.0.0.1:0", "--gossip-listen", c.seeds[i],
		"--join", strings.Join(c.seeds, ","),
	}
	if m.roles != "" {
		args = append(args, "--roles", m.roles)
	}
	for _, arg := range c.extra {
		args = append(args, strings.ReplaceAll(arg, "{node}", name))
	}
	m.Node = harness.Start(c.t, cmp.Or(m.binary, binary), 1, args...)
	m.listen = strings.TrimPrefix(m.URLs[0], "http://")
}

// leave stops node i with SIGTERM, which must go in good order.
func (c *cluster) leave(i int) {
	c.t.Helper()
	c.members[i].Signal(syscall.SIGTERM)
	if code := c.members[i].Wait(); code != 0 {
		c.t.Errorf("n%d, drained, exits with %d", i+1, code)
	}
}

// urls are those of the nodes that run.
func (c *cluster) urls() []string {
	var urls []string
	for _, m := range c.members {
		if m.Node != nil && m.Running() {
			urls = append(urls, m.URLs[0])
		}
	}
	return urls
}

// wsURLs are those of the gateways, whether they run or not.
func (c *cluster) wsURLs() []string {
	var urls []string
	for _, m := range c.members {
		if m.roles != "domain" {
			urls = append(urls, harness.WS(m.URLs[0]))
		}
	}
	return urls
}

// settled waits until all nodes that run see each other, ready, and the same
// ring.
func (c *cluster) settled() {
	c.t.Helper()
	owners := 0
	for _, m := range c.members {
		if m.Node != nil && m.Running() && m.roles != "gateway" {
			owners++
		}
	}
	harness.Eventually(c.t, "the cluster does not settle", func() error {
		for _, url := range c.urls() {
			s, err := harness.Status(url)
			if err != nil {
				return err
			}
			if s.Ring.Owners != owners {
				return fmt.Errorf("%s sees %d owners of %d", s.Node, s.Ring.Owners, owners)
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
	steps                        []func()           // done one after another; commands go on until all are done
}

// load is how many commands a test of faults sends: half of them in its short form.
func load(commands int) int {
	if long {
		return commands
	}
	return commands / 2
}

// sent is an acknowledged command.
type sent struct {
	stream, key       string
	version, position uint64
}

// run drives a workload and then checks every promise against the log.
func (c *cluster) run(w workload) {
	t := c.t
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // machines are busy
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
		from := append(append([]string{}, urls[i%len(urls):]...), urls[:i%len(urls)]...)
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
	var stepsDone atomic.Bool
	stepsDone.Store(len(w.steps) == 0)
	results := make([][]sent, w.sessions)
	failures := make(chan error, w.sessions)
	var senders sync.WaitGroup
	var retries, errorFrames atomic.Int64
	for i := range w.sessions {
		senders.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(1000+i)))
			client := &harness.Client{ID: fmt.Sprintf("client%d", i), URLs: append(append([]string{}, urls[i%len(urls):]...), urls[:i%len(urls)]...)}
			defer client.Leave()
			for k := 0; k < w.commands/w.sessions || !stepsDone.Load(); k++ {
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
	for _, step := range w.steps {
		for from := acked.Load(); acked.Load() < from+int64(w.sessions); { // under load
			if len(failures) > 0 || ctx.Err() != nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		step()
	}
	stepsDone.Store(true)
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

	total = int(acked.Load())

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
//
// protocol: rule Exactly once
func TestKilledNode(t *testing.T) {
	c := startTrio(t, database(t))
	var killed, restarted sync.Once
	c.run(workload{commands: load(10_048), counters: 500, sessions: 64, followers: 40, during: func(done float64) {
		if done > 0.3 {
			killed.Do(func() { c.members[1].Kill() })
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
	c.run(workload{commands: load(10_000), counters: 200, sessions: 64, followers: 24, during: func(done float64) {
		if done > 0.3 {
			frozen.Do(func() { c.members[1].Signal(syscall.SIGSTOP) })
		}
		// A third of the sessions hang with their gateway, and are far from
		// done when the others are.
		if done > 0.6 {
			woken.Do(func() { c.members[1].Signal(syscall.SIGCONT) })
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
	restart := func(i int) func() { return func() { c.leave(i); c.start(i); c.settled() } }
	c.run(workload{commands: load(10_000), counters: 200, sessions: 32, followers: 24, noErrors: true, steps: []func(){restart(0), restart(1), restart(2)}})
}

// TestRollingRestartByRole lets two domain nodes come and go, both at once, and
// restarts gateways that own nothing and a domain node that holds no sessions,
// all under load and without an error.
func TestRollingRestartByRole(t *testing.T) {
	t.Setenv("GANGLION_SUSPECT", "5s") // seven processes on a busy machine: a silence is no failure here
	c := startCluster(t, database(t), []string{"gateway", "gateway", "domain", "domain", "domain"})
	fourth, fifth := c.add("domain"), c.add("domain")
	restart := func(i int) func() { return func() { c.leave(i); c.start(i); c.settled() } }
	c.run(workload{commands: 1_000, counters: 200, sessions: 16, followers: 12, noErrors: true, steps: []func(){
		func() { c.start(fourth); c.start(fifth); c.settled() },
		func() {
			c.members[fourth].Signal(syscall.SIGTERM)
			c.leave(fifth)
			if code := c.members[fourth].Wait(); code != 0 {
				t.Errorf("n%d, drained, exits with %d", fourth+1, code)
			}
			c.settled()
		},
		restart(0), restart(1), restart(2),
	}})
}
