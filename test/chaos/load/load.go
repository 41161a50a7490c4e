// Package load is the clients of a fault test. They follow the protocol, go on
// through whatever happens to the cluster, and write down what they saw.
//
//   - Writers pipeline commands, some under an expected version, some that a
//     rule rejects, read strongly, and read their own writes at another
//     gateway.
//   - Followers subscribe in every way there is, move from gateway to gateway,
//     and resume from their last cursor.
//   - Probes send one command after another to aggregates of one owner through
//     one gateway, to measure how long a fault keeps a client waiting.
//
// A command that got no answer, or one that asks for it, is sent again with its
// key until its outcome is known. No aggregate sees more operations than a
// search for their order can take.
package load

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/chaos/check"
)

// mostOperations bounds the operations on one aggregate.
const mostOperations = 90

// Gateway is where clients connect.
type Gateway struct {
	Name, URL string // the URL begins with ws:
}

// Config configures a Load.
type Config struct {
	Seed     uint64
	Gateways []Gateway
	Owners   []string // the domain nodes
	// Writers and StreamFollowers are how many there are.
	Writers, StreamFollowers int
	// ProbeEvery is how long a probe pauses between two commands, Think how
	// long a writer does on average.
	ProbeEvery, Think time.Duration
}

// Wait is one command of a probe.
type Wait struct {
	Owner, Gateway string
	// Via is where the probe was connected when it sent it: another gateway
	// while its own is away.
	Via string
	// Begin and End are in nanoseconds since the load was made.
	Begin, End int64
	// Errors are the answers, and lost connections, before the last.
	Errors []string
}

// Took is how long it waited.
func (w Wait) Took() time.Duration { return time.Duration(w.End - w.Begin) }

// Load is a running load.
type Load struct {
	cfg   Config
	began time.Time
	pool  pool
	ids   atomic.Int64 // of keys

	begin     context.CancelFunc // ends the beginning of new operations
	end       context.CancelFunc // ends everything
	workers   sync.WaitGroup
	following sync.WaitGroup
	followers []*follower

	mu       sync.Mutex
	commands []check.Command
	reads    []check.Read
	subs     []check.Subscription
	waits    []Wait
	answers  map[string]int // answers other than results
}

// Start begins a load.
func Start(cfg Config) *Load {
	l := &Load{cfg: cfg, began: time.Now(), answers: map[string]int{}}
	l.pool = pool{prefix: strconv.FormatUint(cfg.Seed, 36), random: rand.New(rand.NewPCG(cfg.Seed, 1))}
	running, begin := context.WithCancel(context.Background())
	all, end := context.WithCancel(context.Background())
	l.begin, l.end = begin, end
	for i := range cfg.Writers {
		w := &writer{
			load: l, random: rand.New(rand.NewPCG(cfg.Seed, uint64(1000+i))),
			client: newClient(l, fmt.Sprintf("w%d", i), i), other: newClient(l, fmt.Sprintf("w%d", i), i+1),
			lanes: map[string]int{},
		}
		l.workers.Go(func() { w.run(running, all) })
	}
	for _, owner := range cfg.Owners {
		for j := range cfg.Gateways {
			p := &probe{load: l, owner: owner, gateway: cfg.Gateways[j].Name, client: newClient(l, "probe-"+owner+"-"+cfg.Gateways[j].Name, j), ring: ring.New(cfg.Owners)}
			l.workers.Go(func() { p.run(running, all) })
		}
	}
	for i := range 3 + cfg.StreamFollowers {
		f := &follower{load: l, index: i, random: rand.New(rand.NewPCG(cfg.Seed, uint64(2000+i)))}
		l.followers = append(l.followers, f)
		l.following.Go(func() { f.run(running, all) })
	}
	return l
}

// Now is the time since the load was made.
func (l *Load) Now() int64 { return int64(time.Since(l.began)) }

// Settle lets no further operation begin and waits until the outcome of every
// one is known, or the context ends.
func (l *Load) Settle(ctx context.Context) {
	l.begin()
	stop := context.AfterFunc(ctx, l.end)
	defer stop()
	l.workers.Wait()
}

// Finish waits until every subscription has what the log owes it, or the
// context ends, closes all sessions and returns what the clients saw.
func (l *Load) Finish(ctx context.Context, log []eventstore.Commit) (check.History, []Wait, map[string]int) {
	last := map[string]uint64{}
	for _, c := range log {
		last[c.Stream.String()], last[c.Stream.Type] = uint64(c.Position), uint64(c.Position)
	}
	for _, f := range l.followers {
		f.await(ctx, last)
	}
	l.end()
	l.following.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.waits, func(a, b Wait) int { return cmp.Compare(a.Begin, b.Begin) })
	return check.History{Log: log, Commands: l.commands, Reads: l.reads, Subscriptions: l.subs}, l.waits, l.answers
}

// Counts are how many operations have ended so far.
func (l *Load) Counts() (commands, reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.commands), len(l.reads)
}

func (l *Load) record(commands []check.Command, errors ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commands = append(l.commands, commands...)
	for _, e := range errors {
		l.answers[e]++
	}
}

func (l *Load) key() string { return strconv.FormatInt(l.ids.Add(1), 36) }

// pool deals out aggregates: a few at a time, for many to fight over, and a
// new one for each that has seen its share.
type pool struct {
	mu     sync.Mutex
	prefix string
	random *rand.Rand
	made   int
	slots  [24]slot
}

type slot struct {
	stream string
	sent   int
}

// take books so many operations on an aggregate. sent says how many it has
// had.
func (p *pool) take(count int) (stream string, sent int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[p.random.IntN(len(p.slots))]
	if s.stream == "" || s.sent+count > mostOperations {
		p.made++
		typ := "counter"
		if p.made%4 == 0 {
			typ = "auction"
		}
		*s = slot{stream: fmt.Sprintf("%s/%s-%d", typ, p.prefix, p.made)}
	}
	s.sent += count
	return s.stream, s.sent - count
}

// any returns an aggregate that is in use, or "".
func (p *pool) any(r *rand.Rand) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots[r.IntN(len(p.slots))].stream
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
