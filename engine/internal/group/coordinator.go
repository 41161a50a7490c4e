package group

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/group"
)

const (
	// confirmEvery is how often a coordinator reads in the database whether it still is
	// the coordinator.
	confirmEvery = 500 * time.Millisecond
	// tick is the longest time between two looks at what must be done.
	tick = 100 * time.Millisecond
	// loserWaits and loserWaitsMax bound how long a coordinator that another one has
	// replaced waits before it takes the group back, if it still owns it and gateways do
	// not ask for it.
	loserWaits    = 2 * time.Second
	loserWaitsMax = 30 * time.Second
	// maxReturns bounds how often gateways give the group back to a node that coordinates
	// it for less than 2 s each time. Two nodes that gateways ask would else never get to
	// change anything.
	maxReturns = 3
	// reasonCrash is why the server parks a sequence.
	reasonCrash = "its consumers ended or did not answer while they handled this event"
)

// Config configures a Coordinator. All fields are required.
type Config struct {
	Group string
	// Self is this node's id.
	Self  string
	Store groups.Store
	// Read reads the log: eventstore.Store.Read.
	Read func(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error)
	// LogID returns the log's incarnation.
	LogID func() string
	// Owns reports whether this node coordinates the group, by the ring.
	Owns func() bool
	// Alone reports whether this node reaches no other domain node now.
	Alone  func() bool
	Logger *slog.Logger
}

// Coordinator coordinates one group, while the node owns it. Call Run. Its methods
// are safe for concurrent use.
type Coordinator struct {
	cfg  Config
	kick chan struct{} // of capacity 1: there is something to do

	mu       sync.Mutex
	leads    bool // the database names this node, as of confirmed
	state    groups.Group
	confirm  time.Time // when the read began that state is from
	stale    bool      // state must be read again
	quiet    time.Time // nothing changes before
	isNew    bool      // until quiet: sessions arrive in any order
	register *register
	revoking map[string]revocation // by segment
	leaving  map[string]bool       // ids of sessions that are gone, whose segments are being given to others
	changed  chan struct{}         // closed when answers may have changed
	stats    Stats
	pause    time.Duration // of a loser
	since    time.Time     // when the group was taken
	retryAt  time.Time     // not to be taken before
	loss     *loss         // why not; nil if gateways that ask change nothing
	returns  int           // how often gateways may still give the group back
}

// Stats are the figures of one group on one node.
type Stats struct {
	Group string
	// Leads reports whether the node coordinates the group; the other figures are
	// then those of the group.
	Leads    bool
	Members  int
	Segments int
	Vacant   int // segments without a member
	Parked   int
	Halt     group.Halt
	// Position is the lowest one of all segments.
	Position eventstore.Position
	// Failed counts takeovers with an event pending, Moved other segments that changed
	// hands, Lost how often another node has taken the group. They are the node's own.
	Failed, Moved, Lost uint64
}

// New returns a Coordinator.
func New(cfg Config) *Coordinator {
	return &Coordinator{
		cfg: cfg, kick: make(chan struct{}, 1), register: newRegister(), revoking: map[string]revocation{}, leaving: map[string]bool{},
		changed: make(chan struct{}), pause: loserWaits, returns: maxReturns, stats: Stats{Group: cfg.Group},
	}
}

// Run coordinates until ctx ends.
func (c *Coordinator) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := c.step(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Debug("a round of a consumer group's coordinator failed", "group", c.cfg.Group, "err", err)
		}
		timer.Reset(tick)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-c.kick:
		}
	}
}

// step does what must be done now. Only Run calls it.
func (c *Coordinator) step(ctx context.Context) error {
	if !c.cfg.Owns() {
		c.resign()
		return nil
	}
	c.mu.Lock()
	leads, stale, retryAt := c.leads, c.stale || time.Since(c.confirm) >= confirmEvery, c.retryAt
	c.mu.Unlock()
	switch {
	case !leads && time.Now().Before(retryAt):
		return nil
	case !leads:
		return c.take(ctx)
	case stale:
		if err := c.read(ctx); err != nil {
			return err
		}
	}
	return c.assign(ctx)
}

// take makes this node the coordinator.
func (c *Coordinator) take(ctx context.Context) error {
	began := time.Now()
	state, err := c.cfg.Store.Take(ctx, c.cfg.Group, c.cfg.Self)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.retryAt = time.Now().Add(confirmEvery)
		return err
	}
	c.leads, c.state, c.confirm, c.stale, c.since = true, state, began, false, began
	c.register, c.revoking, c.leaving = newRegister(), map[string]revocation{}, map[string]bool{}
	c.isNew, c.quiet = true, time.Time{}
	if slices.ContainsFunc(state.Segments, func(s groups.Segment) bool { return s.Holder.Session != "" }) {
		c.hush()
	}
	if state.Coordinator != c.cfg.Self {
		c.lose(state.Coordinator)
		return nil
	}
	if c.loss != nil || c.cfg.Alone() { // no other gateway has asked for it
		c.loss, c.returns = nil, 0
	}
	c.cfg.Logger.Info("coordinating a consumer group", "group", c.cfg.Group, "generation", state.Generation)
	c.tell()
	return nil
}

// hush lets nothing change until answers from before have expired. The caller holds
// mu.
func (c *Coordinator) hush() { c.quiet = time.Now().Add(group.Lease) }

// read reads the group, and so confirms that this node is its coordinator.
func (c *Coordinator) read(ctx context.Context) error {
	began := time.Now()
	list, err := c.cfg.Store.Groups(ctx, c.cfg.Group)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		c.resign()
		return groups.ErrNoGroup
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.adopt(list[0], began)
	return nil
}

// adopt makes a group that was read the current one. The caller holds mu.
func (c *Coordinator) adopt(state groups.Group, began time.Time) {
	if state.Coordinator != c.cfg.Self {
		c.lose(state.Coordinator)
		return
	}
	if state.Count != c.state.Count {
		c.hush() // gateways may still send events of the old segments
	}
	c.state, c.confirm, c.stale = state, began, false
	clear(c.leaving)
	maps.DeleteFunc(c.revoking, func(segment string, r revocation) bool {
		return !slices.ContainsFunc(state.Segments, func(s groups.Segment) bool { return s.Name == segment && s.Epoch == r.epoch })
	})
	c.tell()
}

// lose makes this node wait, since another one has taken the group, unless gateways ask
// for it: see ask. The caller holds mu.
func (c *Coordinator) lose(to string) {
	if time.Since(c.since) >= group.Lease {
		c.returns = maxReturns
	}
	isFresh := time.Since(c.confirm) < group.Lease // this node was neither frozen nor without the database
	c.loss = newLoss(c.register, to, c.returns > 0 && isFresh, time.Now())
	if time.Since(c.since) > 2*loserWaitsMax {
		c.pause = loserWaits
	}
	level := slog.LevelInfo // when the ring changes, two nodes own a group for a moment
	if c.pause > loserWaits {
		level = slog.LevelWarn
	}
	c.cfg.Logger.Log(context.Background(), level, "another node coordinates a consumer group that this node owns", "group", c.cfg.Group, "wait", c.pause)
	c.retryAt = time.Now().Add(c.pause)
	c.pause = min(2*c.pause, loserWaitsMax)
	c.stats.Lost++
	c.leads = false
	c.tell()
}

// resign stops coordinating a group that this node does not own.
func (c *Coordinator) resign() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pause, c.returns, c.loss, c.retryAt = loserWaits, maxReturns, nil, time.Time{}
	if c.leads {
		c.leads = false
		c.tell()
	}
}

// tell wakes the gateways that wait for an answer. The caller holds mu.
func (c *Coordinator) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// assign plans and stores changes.
func (c *Coordinator) assign(ctx context.Context) error {
	c.mu.Lock()
	now := time.Now()
	if c.register.expire(now) {
		c.tell()
	}
	if !c.leads || now.Before(c.quiet) || c.halt() == group.WentBack {
		c.mu.Unlock()
		return nil
	}
	if c.isNew {
		c.isNew = false
		if !c.quiet.IsZero() {
			c.register.settle() // joins were gathered all the time
		}
	}
	revoked := len(c.revoking)
	changes := plan(c.state, c.register, c.revoking, now)
	if len(c.revoking) != revoked {
		c.tell()
	}
	state := c.state
	c.leave(changes)
	c.mu.Unlock()
	if len(changes) == 0 {
		c.mu.Lock()
		c.register.forget(c.state, now)
		c.mu.Unlock()
		return nil
	}
	if err := c.nameParks(ctx, changes); err != nil {
		return err
	}
	return c.store(ctx, state, changes)
}

// leave notes the sessions that are gone and lose segments with changes. Until the
// group is read again, their gateways get no answer: it would give the segments back to
// a session that returns in the meantime. The caller holds mu.
func (c *Coordinator) leave(changes []groups.Change) {
	for _, change := range changes {
		i := slices.IndexFunc(c.state.Segments, func(s groups.Segment) bool { return s.Name == change.Segment })
		id := c.state.Segments[i].Holder.Session
		if s := c.register.sessions[id]; id != "" && (s == nil || s.gone) {
			c.leaving[id] = true
		}
	}
}

// store stores changes of a state.
func (c *Coordinator) store(ctx context.Context, state groups.Group, changes []groups.Change) error {
	began := time.Now()
	next, err := c.cfg.Store.Assign(ctx, c.cfg.Group, state.Generation, c.cfg.Self, changes)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.stale = true
		return err
	}
	for _, change := range changes {
		if change.Failed {
			c.stats.Failed++
		} else {
			c.stats.Moved++
		}
	}
	c.cfg.Logger.Debug("segments of a consumer group were assigned", "group", c.cfg.Group, "generation", next.Generation, "segments", len(changes))
	c.adopt(next, began)
	return nil
}

// nameParks reads the sequences of the events that must be parked. An event that
// the log does not have is not parked.
func (c *Coordinator) nameParks(ctx context.Context, changes []groups.Change) error {
	for i := range changes {
		p := changes[i].Park
		if p == nil {
			continue
		}
		commits, err := c.cfg.Read(ctx, p.Position-1, 1)
		if err != nil {
			return err
		}
		if len(commits) == 0 {
			changes[i].Park = nil
			continue
		}
		p.Sequence, p.Reason = commits[0].Stream.String(), reasonCrash
		c.cfg.Logger.Warn("a consumer group's sequence is parked",
			"group", c.cfg.Group, "stream", p.Sequence, "position", p.Position)
	}
	return nil
}

// halt says why the group stands still. The caller holds mu.
func (c *Coordinator) halt() group.Halt {
	switch {
	case c.state.LogID != c.cfg.LogID():
		return group.WentBack
	case c.state.Paused:
		return group.Paused
	}
	return ""
}

// Exchange implements proto/group.Coordinator for the group.
func (c *Coordinator) Exchange(ctx context.Context, r group.Report) (group.Answer, error) {
	if err := c.accept(r); err != nil {
		return group.Answer{}, err
	}
	hold := time.NewTimer(group.Exchange)
	defer hold.Stop()
	for expired := false; ; {
		a, changed, err := c.answer(r.Gateway)
		if err != nil || expired || a.Digest != r.Seen {
			return a, err
		}
		select {
		case <-changed:
		case <-hold.C:
			expired = true
		case <-ctx.Done():
			return group.Answer{}, context.Cause(ctx)
		}
	}
}

// accept takes a report.
func (c *Coordinator) accept(r group.Report) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leads {
		c.ask(r.Gateway)
		return group.ErrNotCoordinator
	}
	if c.register.report(r, time.Now(), c.isNew) {
		c.tell()
		c.wake()
	}
	return nil
}

// ask ends the wait of a node that was replaced, if other nodes do not see the one that
// replaced it. The own gateway says nothing about them if this node is alone. The caller
// holds mu.
func (c *Coordinator) ask(gateway string) {
	if c.loss == nil || gateway == c.cfg.Self && c.cfg.Alone() {
		return
	}
	isOver, isNew := c.loss.ask(gateway, time.Now())
	if !isOver {
		return
	}
	c.returns--
	if isNew {
		c.returns = maxReturns
	}
	c.loss, c.retryAt, c.pause = nil, time.Time{}, loserWaits
	c.wake()
}

// wake makes Run look at what must be done.
func (c *Coordinator) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Stats returns the figures of the group.
func (c *Coordinator) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	if s.Leads = c.leads; !s.Leads {
		return s
	}
	s.Members, s.Parked, s.Halt = c.register.count(), c.state.Parked, c.halt()
	for i, one := range c.state.Segments {
		s.Segments++
		if one.Holder.Session == "" {
			s.Vacant++
		}
		if s.Halt == "" && stuck(one) {
			s.Halt = group.ParkedFull
		}
		if i == 0 || one.Position < s.Position {
			s.Position = one.Position
		}
	}
	return s
}

// stuck reports whether a sequence of a segment must be parked, which was not possible.
func stuck(s groups.Segment) bool { return s.Tries >= groups.ParkAfter && s.Suspect > 0 }
