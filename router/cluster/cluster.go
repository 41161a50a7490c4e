// Package cluster knows which nodes are there.
//
// Nodes find and watch each other by gossip (memberlist). A Cluster makes
// immutable Views of what gossip tells, each a sorted list of members, and
// swaps them atomically: a reader never sees half a change, and nodes that
// have heard the same have equal Views.
//
// Views follow the truth with a delay. A member that leaves is gone from all
// of them within a few hundred milliseconds; one that dies, or is cut off, in
// about two seconds; one that pauses for less than that stays. Nobody should
// wait for that: whoever talks to a member finds out sooner that it doesn't
// answer. Two nodes may see different members for a while, or, cut off from
// each other, for as long as that lasts. A Cluster goes on looking for its
// seeds for ever, and for members that it lost for an hour, so that the parts
// of a cluster find together again within seconds of being able to.
//
// A node is known by its id. Each run of it has a boot time besides, and only
// the newest run counts, so that a node which is started again at once, on
// another port or machine, is seen at once. Two nodes that are given the same
// id by mistake both log it as an error; the one started last counts.
package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// gather is how long a burst of news is waited for before a View is made
	// of it. Making a ring of 30 members, as follows on a View, takes 4 ms.
	gather = 10 * time.Millisecond

	// joinWait bounds the first round over the seeds, for Joined.
	joinWait = 3 * time.Second

	// ringPause is the least time between two announcements of ring
	// signatures: when one member comes, every member has a new signature.
	ringPause = 200 * time.Millisecond

	// leaveWait bounds how long a leaving node waits until it has told others.
	// That takes 0.2 s among five and 0.4 s among a hundred.
	leaveWait = time.Second

	// leaveLast is the same for a node that sees only members that leave as
	// well: a round of gossip, for the sake of those that take longer.
	leaveLast = 100 * time.Millisecond
)

// Cluster is this node's part in the cluster. It is safe for concurrent use.
type Cluster struct {
	cfg  Config
	log  *slog.Logger
	name string // in gossip: the id and a number that no other run has
	addr string // advertised host:port

	keyring  *memberlist.Keyring // nil while gossip is open
	changing sync.Mutex          // held while the keyring is changed

	list  *memberlist.Memberlist
	inbox inbox
	table table // belongs to whoever folds: New, then Run

	now atomic.Pointer[sight]

	mu       sync.Mutex
	self     Member // what the others are told
	watchers map[chan *View]struct{}

	stateChanged chan struct{} // capacity 1, as the next
	ringChanged  chan struct{}
	joined       chan struct{}
	running      atomic.Bool

	ending sync.Mutex // held while leaving and while closing
	closed chan struct{}
}

// sight is all that is known at one moment. It is immutable.
type sight struct {
	view  *View
	alive map[netip.AddrPort]bool // where gossip has a living node
	lost  []Lost                  // members that did not take leave, sorted by id
	seek  []netip.AddrPort        // where they were
}

// New opens the node's gossip sockets and listens: other nodes can join it
// from now on. It joins nobody before Run. A Cluster that is never run must be
// closed.
func New(cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	logger := newLogger(cfg.Logger)
	mc := preset()
	mc.Logger = logger
	mc.Label = cfg.Cluster
	if len(cfg.Keys) > 0 {
		if mc.Keyring, err = memberlist.NewKeyring(cloneKeys(cfg.Keys), cfg.Keys[0]); err != nil {
			return nil, fmt.Errorf("cluster: the gossip keys: %w", err)
		}
	}

	if mc.Transport = cfg.Transport; mc.Transport == nil {
		bind, advertise, err := cfg.addresses()
		if err != nil {
			return nil, err
		}
		t, err := listen(bind, cfg.BindPort, logger)
		if err != nil {
			return nil, err
		}
		mc.Transport = t
		mc.AdvertiseAddr = advertise.String()
		mc.AdvertisePort = cmp.Or(cfg.AdvertisePort, t.GetAutoBindPort())
	}
	c, err := create(cfg, mc)
	if err != nil {
		mc.Transport.Shutdown() // memberlist leaves it open
		return nil, err
	}
	return c, nil
}

// preset is memberlist's configuration for a local network, tuned to notice a
// dead member in about two seconds and to bear a pause of 0.8.
func preset() *memberlist.Config {
	mc := memberlist.DefaultLANConfig()
	mc.ProbeInterval = 300 * time.Millisecond
	mc.ProbeTimeout = 150 * time.Millisecond
	mc.SuspicionMult = 4
	mc.SuspicionMaxTimeoutMult = 2
	mc.GossipInterval = 100 * time.Millisecond
	// A change is told in packets, a few times, to hosts picked at random; the
	// runs of killed nodes, which are remembered for a minute, are among those.
	// Whom no packet reached learns it by comparing notes with somebody.
	mc.RetransmitMult = 8
	mc.PushPullInterval = 3 * time.Second
	mc.TCPTimeout = 2 * time.Second
	mc.GossipToTheDeadTime = time.Minute
	return mc
}

func create(cfg Config, mc *memberlist.Config) (*Cluster, error) {
	ip, port, err := mc.Transport.FinalAdvertiseAddr(mc.AdvertiseAddr, mc.AdvertisePort)
	if err != nil {
		return nil, fmt.Errorf("cluster: the advertised address: %w", err)
	}
	// A configured name stays a name: certificates are made out to it.
	reach := cmp.Or(cfg.AdvertiseAddr, ip.String())
	cfg.Self.PeerAddr = withHost(cfg.Self.PeerAddr, reach)
	cfg.Self.HTTPAddr = withHost(cfg.Self.HTTPAddr, reach)
	cfg.Self.Version = cfg.Self.fitVersion()
	if err := cfg.Self.validate(); err != nil {
		return nil, fmt.Errorf("cluster: what the node would tell the others about itself: %w", err)
	}
	nonce := make([]byte, nonceBytes)
	rand.Read(nonce)
	c := &Cluster{
		cfg:          cfg,
		log:          cfg.Logger,
		keyring:      mc.Keyring,
		name:         cfg.ID + "." + hex.EncodeToString(nonce),
		addr:         net.JoinHostPort(ip.String(), strconv.Itoa(port)),
		inbox:        inbox{wake: make(chan struct{}, 1), nodes: make(map[string]heard)},
		self:         cfg.Self,
		watchers:     make(map[chan *View]struct{}),
		stateChanged: make(chan struct{}, 1),
		ringChanged:  make(chan struct{}, 1),
		joined:       make(chan struct{}),
		closed:       make(chan struct{}),
	}
	c.table = newTable(c.name, cfg.ID, c.log)
	mc.Name = c.name
	mc.Events = &c.inbox
	mc.Delegate = delegate{c}
	if c.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("cluster: start gossip: %w", err)
	}
	c.fold()
	if len(cfg.Keys) == 0 && !ip.IsLoopback() {
		c.log.Warn("gossip is not encrypted: whoever reaches its port can join the cluster", "address", c.addr)
	}
	return c, nil
}

// ErrRunTwice reports a second call of Run.
var ErrRunTwice = errors.New("cluster: Run was called before")

// Run joins the cluster and keeps the node in it until the context ends; then
// it takes leave, which the others are told, closes the sockets, and returns
// nil. It also returns once the Cluster is closed.
func (c *Cluster) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return ErrRunTwice
	}
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	round := make(chan struct{})
	var helpers sync.WaitGroup
	helpers.Go(func() { c.seek(inner, round) })
	helpers.Go(func() { c.announce(inner) })

	c.follow(ctx, round)

	cancel()
	c.leave()
	c.Close()
	helpers.Wait()
	return nil
}

// follow makes Views of the news until the context ends. round is closed when
// the first round over the seeds has ended.
func (c *Cluster) follow(ctx context.Context, round <-chan struct{}) {
	join := time.NewTimer(joinWait)
	defer join.Stop()
	check := time.NewTicker(rejoinEvery)
	defer check.Stop()
	joined := sync.OnceFunc(func() {
		c.fold() // what the round brought is in the View
		close(c.joined)
	})
	if len(c.cfg.Join) == 0 {
		joined()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.closed:
			return
		case <-round:
			round = nil
			joined()
		case <-join.C:
			joined()
		case <-check.C:
			c.fold()
			c.table.check(time.Now())
			if c.outdated() {
				poke(c.stateChanged)
			}
		case <-c.inbox.wake:
			if !pause(ctx, gather) {
				return
			}
			c.fold()
		}
	}
}

// pause reports whether the whole duration has passed.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// fold takes the news in and publishes what is new to those who watch.
func (c *Cluster) fold() {
	next := c.table.fold(c.inbox.take(), time.Now())
	if old := c.now.Load(); old != nil && old.view.equal(next.view) {
		next.view = old.view
		c.now.Store(next)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Store(next)
	for ch := range c.watchers {
		select {
		case <-ch: // an older View that nobody has taken
		default:
		}
		ch <- next.view // there is room: only here, under mu, is it sent
	}
}

func (c *Cluster) leave() {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.isClosed() {
		return // memberlist panics when told to leave now
	}
	c.fold()
	wait, stays := leaveWait, c.anyStays()
	if !stays {
		wait = leaveLast
	}
	if err := c.list.Leave(wait); err != nil && stays && c.list.NumMembers() > 0 {
		// The others will notice all the same, some seconds later.
		c.log.Info("left without being sure that others know", "error", err)
	}
}

// anyStays reports whether the View has another member that does not leave.
func (c *Cluster) anyStays() bool {
	return slices.ContainsFunc(c.View().Members, func(m Member) bool {
		return m.ID != c.cfg.ID && m.State != Draining
	})
}

// Close ends the node's part in the cluster at once, without taking leave:
// the others find out as if it had died. It is safe to call at any time and
// more than once. While Run takes leave it waits for that (a second at
// most), and after Run has returned it does nothing.
func (c *Cluster) Close() {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.isClosed() {
		return
	}
	close(c.closed)
	if err := c.list.Shutdown(); err != nil {
		c.log.Warn("closing gossip failed", "error", err)
	}
}

func (c *Cluster) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Addr returns the address (host:port) at which other nodes can join this one.
func (c *Cluster) Addr() string { return c.addr }

// Joined returns a channel that is closed once the first round over the seeds
// has ended, well or not, and what it brought is in the View; at the latest
// three seconds after Run began, and at once without seeds. To wait for a seed
// to answer would keep a cluster from starting whose nodes all wait.
func (c *Cluster) Joined() <-chan struct{} { return c.joined }

// View returns the newest View. It is never nil and holds at least this node.
func (c *Cluster) View() *View { return c.now.Load().view }

// Lost returns the members that went without taking leave and have not come
// back, as this node sees it, sorted by id. They are forgotten after an hour,
// and the oldest are when there are more than 64. The caller must not change
// the slice.
func (c *Cluster) Lost() []Lost { return c.now.Load().lost }

// Watch returns a channel that receives the newest View at once, and then
// each time that it changes. Views that are not taken in time are replaced by
// newer ones: the receiver may miss some, never the last. The channel is
// closed when the context ends.
func (c *Cluster) Watch(ctx context.Context) <-chan *View {
	ch := make(chan *View, 1)
	c.mu.Lock()
	ch <- c.View()
	c.watchers[ch] = struct{}{}
	c.mu.Unlock()
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, ch)
		close(ch)
	})
	return ch
}

// SetState tells the others, at once, what this node may be asked to do. It
// does not wait for them to hear it.
func (c *Cluster) SetState(s State) {
	if c.change(func(m *Member) { m.State = s }) {
		poke(c.stateChanged)
	}
}

// SetProblem tells the others what is wrong with this node, or that nothing is.
func (c *Cluster) SetProblem(p Problem) {
	if c.change(func(m *Member) { m.Problem = p }) {
		poke(c.stateChanged)
	}
}

// SetRing tells the others the signature of the ring that this node goes by.
// Changes in quick succession are gathered.
func (c *Cluster) SetRing(signature uint64) {
	if c.change(func(m *Member) { m.Ring = signature }) {
		poke(c.ringChanged)
	}
}

// SetClock tells the others how far this node's clock is ahead of the
// database's; 0 says that the two agree.
func (c *Cluster) SetClock(ahead time.Duration) {
	if c.change(func(m *Member) { m.ClockMS = ahead.Milliseconds() }) {
		poke(c.ringChanged)
	}
}

// change reports whether there is anything new to tell.
func (c *Cluster) change(edit func(*Member)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.self
	edit(&c.self)
	return c.self != before
}

// outdated reports whether gossip still tells something old about this node:
// memberlist drops an update that crosses with the refutation of a suspicion.
func (c *Cluster) outdated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.nodes[c.name].member != c.self
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// announce tells the others what changed about this node.
func (c *Cluster) announce(ctx context.Context) {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.ringChanged:
			if due == nil {
				due = time.After(ringPause)
			}
			continue
		case <-due:
		case <-c.stateChanged:
		}
		due = nil
		// The update is queued by the call itself; the wait is for gossip to
		// have spread it, and would only hold up the next.
		if err := c.list.UpdateNode(time.Millisecond); err != nil {
			c.log.Debug("the update is on its way", "detail", err)
		}
	}
}

// delegate answers memberlist's questions about this node.
type delegate struct{ c *Cluster }

// NodeMeta implements memberlist.Delegate. That the metadata fits was checked
// by New.
func (d delegate) NodeMeta(int) []byte {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	return encodeMeta(d.c.self)
}

// NotifyMsg implements memberlist.Delegate: there are no messages of our own.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate: metadata is all that we exchange.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}
