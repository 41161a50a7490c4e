// Package load has the clients of a fault test. They follow the protocol, continue
// during all faults, and record their observations.
//
//   - Writers pipeline commands, some with an expected version and some that a
//     rule rejects. They read strongly, and read their own writes on another
//     gateway.
//   - Followers subscribe in all ways of the protocol, move from gateway to
//     gateway, and resume from their last cursor.
//   - Askers ask queries, and for the position of a stored command.
//   - Watchers hold live queries, and resume them from their last cursor.
//   - Members of a consumer group move from gateway to gateway, acknowledge late, and
//     also under epochs that are over. A test kills, freezes and cuts them.
//   - A closer opens auctions that end during the run.
//   - Probes send commands in turn to aggregates of one owner through one gateway,
//     to measure how long a fault makes a client wait.
//
// A client sends a command again, with the same key, until it knows the outcome:
// after a lost reply, and after a reply that asks for a retry. The number of
// operations per aggregate is bounded, so that package check can search for their
// order.
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

// maxOperations bounds the operations on one aggregate.
const maxOperations = 90

// Gateway is a gateway to which clients connect.
type Gateway struct {
	Name, URL string // the URL has the scheme ws
}

// Member is a member of the consumer group.
type Member struct {
	Name string
	// Addr is the local address of its connections, "" for any.
	Addr string
}

// Config configures a Load.
type Config struct {
	Seed     uint64
	Gateways []Gateway
	Owners   []string // the domain nodes
	Members  []Member // of the consumer group
	// Writers, StreamFollowers, Askers and Watchers are the numbers of clients.
	Writers, StreamFollowers, Askers, Watchers int
	// ProbeEvery is the mean pause of a probe between two commands, Think that of a
	// writer.
	ProbeEvery, Think time.Duration
}

// Wait is one command of a probe.
type Wait struct {
	Owner, Gateway string
	// Via is the gateway that the probe used. It differs from Gateway while Gateway
	// is unreachable.
	Via string
	// Begin and End are in nanoseconds since the start of the load.
	Begin, End int64
	// Errors has the error replies and lost connections before the last reply.
	Errors []string
}

// Took returns the duration of the wait.
func (w Wait) Took() time.Duration { return time.Duration(w.End - w.Begin) }

// Load is a running load.
type Load struct {
	cfg   Config
	began time.Time
	pool  pool
	ids   atomic.Int64 // the last number used in a key

	stop      context.CancelFunc // stops new operations
	end       context.CancelFunc // stops everything
	workers   sync.WaitGroup
	following sync.WaitGroup
	followers []*follower
	watchers  []*watcher
	consumers consumers

	acknowledged atomic.Uint64 // a position that some client knows to be stored

	mu       sync.Mutex
	commands []check.Command
	reads    []check.Read
	subs     []check.Subscription
	asked    []check.Answer
	waits    []Wait
	answers  map[string]int // replies other than results, and lost connections
}

// Start starts a load.
func Start(cfg Config) *Load {
	l := &Load{cfg: cfg, began: time.Now(), answers: map[string]int{}}
	l.pool = pool{prefix: strconv.FormatUint(cfg.Seed, 36), random: rand.New(rand.NewPCG(cfg.Seed, 1))}
	running, stop := context.WithCancel(context.Background())
	all, end := context.WithCancel(context.Background())
	l.stop, l.end = stop, end
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
	l.startQueries(running, all)
	c := &closer{load: l, random: rand.New(rand.NewPCG(cfg.Seed, 6000)), seller: newClient(l, "seller", 0), bidder: newClient(l, "bidder", 1)}
	l.workers.Go(func() { c.run(running, all) })
	l.consumers.hits, l.consumers.acked = map[string][]check.Span{}, map[uint64]bool{}
	for i, m := range cfg.Members {
		l.consumers.members = append(l.consumers.members, newMember(l, i, m))
	}
	for _, m := range l.consumers.members {
		l.following.Go(func() { m.run(all) })
	}
	return l
}

// startQueries starts the clients of the read side.
func (l *Load) startQueries(running, all context.Context) {
	l.workers.Go(func() { l.seed(running, all) })
	for i := range l.cfg.Askers {
		a := &asker{load: l, random: rand.New(rand.NewPCG(l.cfg.Seed, uint64(3000+i))), client: newClient(l, fmt.Sprintf("a%d", i), i)}
		l.workers.Go(func() { a.run(running, all) })
	}
	for i := range l.cfg.Watchers {
		w := &watcher{load: l, index: i, random: rand.New(rand.NewPCG(l.cfg.Seed, uint64(4000+i))), progress: make(chan struct{}, 1)}
		l.watchers = append(l.watchers, w)
		l.following.Go(func() { w.run(all) })
	}
}

// Now returns the nanoseconds since the start of the load.
func (l *Load) Now() int64 { return int64(time.Since(l.began)) }

// Settle stops new operations, and waits until the outcome of every command is
// known or ctx ends. It then calls rest, which waits until the cluster stores nothing
// more by itself. A last command then changes the answer to every question, so that
// each live query gets a batch that shows the end of the log.
func (l *Load) Settle(ctx context.Context, rest func()) {
	l.stop()
	cancel := context.AfterFunc(ctx, l.end)
	defer cancel()
	l.workers.Wait()
	rest()
	l.open(ctx, "0-end") // the first of the cheapest
}

// Finish waits until every subscription has all events of the log or ctx ends. Then
// it closes all sessions and returns the observations.
func (l *Load) Finish(ctx context.Context, log []eventstore.Commit) (check.History, []Wait, map[string]int) {
	last := map[string]uint64{}
	for _, c := range log {
		last[c.Stream.String()], last[c.Stream.Type] = uint64(c.Position), uint64(c.Position)
	}
	for _, f := range l.followers {
		f.await(ctx, last)
	}
	for _, w := range l.watchers {
		w.await(ctx, last)
	}
	l.consumers.await(ctx, log)
	l.end()
	l.following.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.waits, func(a, b Wait) int { return cmp.Compare(a.Begin, b.Begin) })
	h := check.History{Log: log, Commands: l.commands, Reads: l.reads, Subscriptions: l.subs, Window: window, Answers: l.asked, Group: l.consumers.observed()}
	for _, w := range l.watchers {
		w.live.Complete = true
		h.Lives = append(h.Lives, w.live)
	}
	return h, l.waits, l.answers
}

// Counts returns the numbers of finished operations.
func (l *Load) Counts() (commands, reads int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.commands), len(l.reads)
}

func (l *Load) record(commands []check.Command, errors ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commands = append(l.commands, commands...)
	for _, c := range commands {
		if c.Outcome == check.Done {
			l.acknowledged.Store(c.Position)
		}
	}
	for _, e := range errors {
		l.answers[e]++
	}
}

func (l *Load) key() string { return strconv.FormatInt(l.ids.Add(1), 36) }

// pool provides aggregates. Only a few are in use at a time, so that clients
// contend for them. An aggregate with its maximum of operations is replaced.
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

// reserve reserves count operations on an aggregate. It returns the number of
// operations before them.
func (p *pool) reserve(count int) (stream string, sent int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[p.random.IntN(len(p.slots))]
	if s.stream == "" || s.sent+count > maxOperations {
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

// any returns an aggregate in use, or "".
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
