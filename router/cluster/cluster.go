// Package cluster tells a node which other nodes are in the cluster.
//
// Nodes find and observe each other by gossip (memberlist). A [Cluster] turns
// gossip into [View]s: immutable sorted lists of members. It swaps them
// atomically, so a reader never sees half a change. Nodes that have received the
// same gossip have equal Views.
//
// Views lag behind. A member that leaves disappears from all Views within a few
// hundred milliseconds, and a member that dies or is cut off within about two
// seconds. A member that pauses for less than that stays. Callers should not wait
// for Views: a node that talks to a member notices earlier that the member does
// not answer. Two nodes may see different members for a while, or for as long as
// they are cut off from each other. A Cluster tries to reach its seeds for as
// long as it runs, and a lost member for an hour, so that the parts of a cluster
// merge within seconds once they can reach each other. At its start it tries them
// more often, since the nodes of a new cluster start one after another.
//
// A node is known by its id. Each of its runs has a boot time, and only the
// newest run is in the View. So a node that restarts on another port or machine
// is seen immediately. If two nodes have the same id by mistake, both log an
// error, and the one that started last is in the View.
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
	// gather is the time for which gossip is collected before the next View. A View
	// may need a new ring, which takes 4 ms for 30 members.
	gather = 10 * time.Millisecond

	// joinWait bounds the first round over the seeds, for Joined.
	joinWait = 3 * time.Second

	// ringPause is the shortest time between two announcements of ring signatures.
	// When one member joins, every member gets a new signature.
	ringPause = 200 * time.Millisecond

	// leaveWait bounds how long a leaving node announces that it leaves. Five
	// nodes need 0.2 s and a hundred need 0.4 s.
	leaveWait = time.Second

	// leaveLast is leaveWait for a node that sees no other member that stays. It is
	// one round of gossip.
	leaveLast = 100 * time.Millisecond
)

// Cluster is this node's part in the cluster. It is safe for concurrent use.
type Cluster struct {
	cfg  Config
	log  *slog.Logger
	name string // in gossip: the id and a random number, unique to this run
	addr string // advertised host:port

	keyring  *memberlist.Keyring // nil while gossip is open
	changing sync.Mutex          // held while the keyring changes

	list  *memberlist.Memberlist
	inbox inbox
	table table // used by New, then by Run's goroutine

	now atomic.Pointer[sight]

	mu       sync.Mutex
	self     Member // as announced to other nodes
	watchers map[chan *View]struct{}

	stateChanged chan struct{} // capacity 1, as the next
	ringChanged  chan struct{}
	joined       chan struct{}
	running      atomic.Bool

	ending sync.Mutex // held during leave and Close
	closed chan struct{}
}

// sight is the state of knowledge at one moment. It is immutable.
type sight struct {
	view  *View
	alive map[netip.AddrPort]bool // addresses of live nodes
	lost  []Lost                  // members that vanished, sorted by id
	seek  []netip.AddrPort        // addresses of lost, without those in alive
}

// New opens the node's gossip sockets. Other nodes can join it from then on; it
// joins others when Run is called. If Run is never called, the caller must call
// Close.
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

// preset returns memberlist's configuration for a local network, tuned to notice
// a dead member within about two seconds and to tolerate a pause of 0.8 s.
func preset() *memberlist.Config {
	mc := memberlist.DefaultLANConfig()
	mc.ProbeInterval = 300 * time.Millisecond
	mc.ProbeTimeout = 150 * time.Millisecond
	mc.SuspicionMult = 4
	mc.SuspicionMaxTimeoutMult = 2
	mc.GossipInterval = 100 * time.Millisecond
	// memberlist sends a change in a few packets to random nodes. These include
	// runs of killed nodes, which it remembers for a minute. A node that gets no
	// packet learns of the change when it exchanges its whole state (push/pull).
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
	// Keep a configured host name instead of its IP address: certificates name it.
	reach := cmp.Or(cfg.AdvertiseAddr, ip.String())
	cfg.Self.PeerAddr = withHost(cfg.Self.PeerAddr, reach)
	cfg.Self.HTTPAddr = withHost(cfg.Self.HTTPAddr, reach)
	cfg.Self.Version = cfg.Self.fitVersion()
	cfg.Self.Projections = cfg.Self.fitProjections()
	if err := cfg.Self.validate(); err != nil {
		return nil, fmt.Errorf("cluster: the node's own member: %w", err)
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
		c.log.Warn("gossip is not encrypted: any program that reaches its port can join the cluster", "address", c.addr)
	}
	return c, nil
}

// ErrRunTwice reports a second call of Run.
var ErrRunTwice = errors.New("cluster: Run was called before")

// Run joins the cluster and keeps the node in it until ctx ends. Then it announces
// that the node leaves, closes the sockets and returns nil. It also returns when
// the Cluster is closed.
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

// follow turns gossip into Views until ctx ends. round is closed when each seed
// has been tried once.
func (c *Cluster) follow(ctx context.Context, round <-chan struct{}) {
	join := time.NewTimer(joinWait)
	defer join.Stop()
	check := time.NewTicker(rejoinEvery)
	defer check.Stop()
	joined := sync.OnceFunc(func() {
		c.fold() // so that the View has the members found at the seeds
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

// fold processes the collected gossip and sends a new View to the watchers.
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
		case <-ch: // an older View that was not received
		default:
		}
		ch <- next.view // does not block: only this line sends, under mu
	}
}

func (c *Cluster) leave() {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.isClosed() {
		return // memberlist would panic
	}
	c.fold()
	wait, stays := leaveWait, c.anyStays()
	if !stays {
		wait = leaveLast
	}
	if err := c.list.Leave(wait); err != nil && stays && c.list.NumMembers() > 0 {
		// Other nodes will notice within seconds.
		c.log.Info("left without confirmation that other nodes know", "err", err)
	}
}

// anyStays reports whether the View has another member that is not draining.
func (c *Cluster) anyStays() bool {
	return slices.ContainsFunc(c.View().Members, func(m Member) bool {
		return m.ID != c.cfg.ID && m.State != Draining
	})
}

// Close removes the node from the cluster immediately, without an announcement:
// to other nodes it looks as if it had died. Close can be called at any time and
// more than once. While Run announces that the node leaves, Close waits for Run,
// at most a second. After Run has returned, Close does nothing.
func (c *Cluster) Close() {
	c.ending.Lock()
	defer c.ending.Unlock()
	if c.isClosed() {
		return
	}
	close(c.closed)
	if err := c.list.Shutdown(); err != nil {
		c.log.Warn("closing gossip failed", "err", err)
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

// Joined returns a channel that is closed when each seed has been tried once and
// the View has the members found there. Without seeds it is closed as soon as Run
// is called, else at most three seconds later. It is closed even if no seed
// answered: otherwise, the nodes of a new cluster would wait for each other.
func (c *Cluster) Joined() <-chan struct{} { return c.joined }

// View returns the newest View. It is never nil and has at least this node.
func (c *Cluster) View() *View { return c.now.Load().view }

// Lost returns the members that vanished without an announcement and have not
// returned, as this node sees it, sorted by id. The 64 newest are kept, for an
// hour. The caller must not change the slice.
func (c *Cluster) Lost() []Lost { return c.now.Load().lost }

// Watch returns a channel that receives the newest View immediately and after
// each change. A newer View replaces one that was not received, so a receiver
// may miss Views but not the last one. The channel is closed when ctx ends.
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

// SetState announces the node's state to other nodes, immediately. It does not
// wait until they have received it.
func (c *Cluster) SetState(s State) {
	if c.change(func(m *Member) { m.State = s }) {
		poke(c.stateChanged)
	}
}

// SetProblem announces a problem of the node, or NoProblem.
func (c *Cluster) SetProblem(p Problem) {
	if c.change(func(m *Member) { m.Problem = p }) {
		poke(c.stateChanged)
	}
}

// SetRing announces the signature of the ring that this node uses. Changes within
// 200 ms are announced together.
func (c *Cluster) SetRing(signature uint64) {
	if c.change(func(m *Member) { m.Ring = signature }) {
		poke(c.ringChanged)
	}
}

// SetClock announces how far this node's clock is ahead of the database's; 0 if
// they agree.
func (c *Cluster) SetClock(ahead time.Duration) {
	if c.change(func(m *Member) { m.ClockMS = ahead.Milliseconds() }) {
		poke(c.ringChanged)
	}
}

// change edits this node's member and reports whether it changed.
func (c *Cluster) change(edit func(*Member)) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.self
	edit(&c.self)
	return c.self != before
}

// outdated reports whether gossip still has an older state of this node's member:
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

// announce sends changes of this node's member to other nodes.
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
		// The call queues the update. Waiting until gossip has spread it would
		// delay the next update.
		if err := c.list.UpdateNode(time.Millisecond); err != nil {
			c.log.Debug("the update is in transit", "detail", err)
		}
	}
}

// delegate is the memberlist.Delegate of this node.
type delegate struct{ c *Cluster }

// NodeMeta implements memberlist.Delegate. New has checked that the metadata
// fits.
func (d delegate) NodeMeta(int) []byte {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	return encodeMeta(d.c.self)
}

// NotifyMsg implements memberlist.Delegate. Nodes send no user messages.
func (delegate) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate. Nodes exchange only metadata.
func (delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (delegate) MergeRemoteState([]byte, bool) {}
