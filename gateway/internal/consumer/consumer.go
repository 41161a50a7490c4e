// Package consumer delivers the events of consumer groups to their members.
//
// A [Member] is the place of one session, or of one client over HTTP, in a group. It
// takes the segments that the group's coordinator gives it, and [Member.Next] returns
// what the client gets next: assigned, the events of its segments, revoking and
// revoked. There is no queue: each segment has a place in the log and the positions
// that were sent and not acknowledged, at most a window of them. A segment belongs to
// one member of the cluster, so all members of a group together keep at most segments
// times window such positions, of about 100 bytes each.
//
// A segment of a member:
//
//	holding ──Parked was read──> assigned ──Revoking──> revoking ──all is stored──> released
//	   │                            │                       │                          │
//	   └────────────────────────────┴── lost: not held, or held under another epoch <──┘
//
// While it is assigned, it sends events as long as its window has room, its last
// acknowledgement could be stored, the coordinator is heard, and the group does not
// stand still.
//
// # Concurrency
//
// A Member is safe for concurrent use. Member.mu may be acquired while a session's lock
// is held. With Member.mu held, it calls only methods of the membership that do not
// block, and acquires only locks of packages history and hub. The calls that use the
// database run in goroutines of the member, which end with [Member.Close] or, for
// acknowledgements, at most 5 s later. The function wake is called with or without
// Member.mu, and must not call the member.
package consumer

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

const (
	// closeGrace bounds the time for acknowledgements that are not stored yet when a
	// member leaves.
	closeGrace = 5 * time.Second
	// moveEvery is how often the position of a segment without pending events is stored,
	// and how often holdings are read without a call of changed.
	moveEvery = time.Second
	// scanLimit bounds the events that one Next looks at.
	scanLimit = 4096
	// gatherFor is how long a member that has got events waits for further ones, so
	// that those of a busy log share a message.
	gatherFor = 10 * time.Millisecond
)

// Gateway is what the members of a gateway share.
type Gateway struct {
	Groups  group.Groups // nil if this node has no consumer groups
	Hub     *hub.Hub
	Log     *history.Log
	Unshown func(*history.Entry) *command.Failure // logs an event that this node can't show
	Guard   func(place string, f func()) error    // turns a panic of the application's code into an error
	Logger  *slog.Logger

	members atomic.Int64
	closing sync.WaitGroup
}

// Members returns the number of members.
func (g *Gateway) Members() int { return int(g.members.Load()) }

// Wait waits until closed members have stored their acknowledgements.
func (g *Gateway) Wait() { g.closing.Wait() }

// Request is what a client asks for.
type Request struct {
	Sub    string // of the frames
	Client string
	Claims map[string]any
	Group  string
	Name   string // of the member
	Window int
	// IsInProcess is set for a handler of the node's own program, which need not be
	// allowed to be a member.
	IsInProcess bool
}

// Member is a member of a group.
type Member struct {
	gateway *Gateway
	request Request
	group   group.Group
	place   group.Membership
	topic   history.Topic
	wake    func()
	hub     hub.Member
	seat    hub.Seat
	passed  atomic.Int64    // when the last Next that passed on events began, in Unix nanoseconds
	gathers atomic.Bool     // a timer will call wake
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	tasks   sync.WaitGroup

	storing     context.Context // ends at most closeGrace after ctx
	stopStoring context.CancelFunc

	mu        sync.Mutex
	segments  map[string]*Segment
	revoked   []frame.Revoked // not yet returned by Next
	newest    uint64          // epoch that was assigned
	round     uint64          // number of calls of refresh
	ended     *command.Failure
	isClosed  bool
	isResting bool // no Next is expected soon: it takes no pages
	timer     *time.Timer
}

// Join makes a client a member. wake is called whenever Next may return something.
// The caller must call Close once.
func (g *Gateway) Join(ctx context.Context, r Request, wake func()) (*Member, *command.Failure) {
	if g.Groups == nil {
		return nil, command.Unsupported("this gateway has no consumer groups: connect to one whose program declares them")
	}
	m := &Member{gateway: g, request: r, wake: wake, segments: make(map[string]*Segment)}
	failure := m.guarded(func() (failure *command.Failure) {
		m.place, failure = g.Groups.Join(ctx, group.Member{Group: r.Group, Client: r.Client, Claims: r.Claims, Name: r.Name, Internal: r.IsInProcess}, wake)
		return failure
	})
	if failure != nil {
		return nil, failure
	}
	m.group, _ = g.Groups.Group(r.Group)
	if len(m.group.Types) == 1 {
		m.topic.Category = m.group.Types[0]
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.storing, m.stopStoring = context.WithCancel(context.Background())
	g.members.Add(1)
	g.Hub.Enroll(&m.hub, follower{m})
	m.seat.Init(&m.hub, m.topic, follower{m})
	m.seat.Join(func(eventstore.Position) bool { return false }) // Next finds earlier events
	m.mu.Lock()
	m.timer = time.AfterFunc(m.tickEvery(), m.onTick)
	m.mu.Unlock()
	return m, nil
}

// AckWithin returns how long the member may hold an event without an acknowledgement.
func (m *Member) AckWithin() time.Duration { return m.group.AckWithin }

// Log returns the id of the log.
func (m *Member) Log() string { return m.gateway.Log.ID() }

// Renew applies the group's access rule to the client's newest identity. The failure
// says that it may not be a member any more; call Close then.
func (m *Member) Renew(client string, claims map[string]any) *command.Failure {
	return m.guarded(func() *command.Failure { return m.place.Renew(client, claims) })
}

// guarded calls f, which asks the group's access rule. A rule that panics denies access.
func (m *Member) guarded(f func() *command.Failure) (failure *command.Failure) {
	if err := m.gateway.Guard("the access rule of the consumer group "+command.Clip(m.request.Group), func() { failure = f() }); err != nil {
		return command.Forbidden("%s may not consume %s: %v", command.Quote(m.request.Client), command.Quote(m.request.Group), err)
	}
	return failure
}

// Leave is Close for an end in order, of the client or of the gateway: it does not count
// as a failed try at the events that are pending.
func (m *Member) Leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.close(m.forgive)
}

// forgive reports that nothing is pending.
func (m *Member) forgive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.segments {
		if s.told > 0 && !s.isLost {
			m.place.Pending(s.Name, s.Epoch, 0, 0)
		}
	}
}

// Close ends the membership, after the acknowledgements that are not stored yet. The
// events that are pending may be what has ended the client, so that counts as a failed
// try at the first one. It does not block, and may be called more than once.
func (m *Member) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.close(func() {})
}

// close is Close for callers that hold m.mu. It calls last before the membership ends.
func (m *Member) close(last func()) {
	if m.isClosed {
		return
	}
	m.isClosed = true
	m.timer.Stop()
	for _, s := range m.segments {
		s.unpin()
	}
	m.cancel()
	m.seat.Leave()
	m.gateway.closing.Add(1)
	go func() {
		defer m.gateway.closing.Done()
		late := time.AfterFunc(closeGrace, m.stopStoring)
		m.tasks.Wait()
		late.Stop()
		m.stopStoring()
		last()
		m.place.Close()
		m.gateway.members.Add(-1)
	}()
}

// end makes Next return a failure, and ends the membership: a client that reads nothing
// must not keep its segments. The caller holds m.mu.
func (m *Member) end(failure *command.Failure) {
	if m.ended == nil && !m.isClosed {
		m.ended = failure
		m.close(func() {})
		m.wake()
	}
}

// spawn runs f in a goroutine of the member. The caller holds m.mu.
func (m *Member) spawn(f func()) {
	if m.isClosed {
		return
	}
	m.tasks.Add(1)
	go func() {
		defer m.tasks.Done()
		f()
	}()
}

// Rest frees what the member has read ahead. Callers call it when the next call of Next
// may be far away.
func (m *Member) Rest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.isResting = true
	for _, s := range m.segments {
		s.unpin()
	}
}

func (m *Member) tickEvery() time.Duration { return min(moveEvery, m.group.AckWithin/2) }

// onTick moves idle segments along, and ends a membership that is stuck.
func (m *Member) onTick() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isClosed {
		return
	}
	m.timer.Reset(m.tickEvery())
	m.refresh()
	now := time.Now()
	for _, s := range m.segments {
		if at := s.first(); at > 0 && !s.isLost && now.Sub(s.sign) >= m.group.AckWithin {
			m.end(command.Timeout(command.RetryLater, "event %d of segment %s was not acknowledged within %v, so the segments go to other members: "+
				"acknowledge, or repeat the last ack while an event takes long; then consume again", at, s.Name, m.group.AckWithin))
			return
		}
		m.move(s)
		m.settle(s)
	}
	m.wake() // Next asks whether the coordinator is heard
}

// gather calls wake: immediately, or gatherFor after the last events were passed on.
func (m *Member) gather() {
	if m.gathers.Load() {
		return
	}
	wait := gatherFor - time.Since(time.Unix(0, m.passed.Load()))
	switch {
	case wait <= 0:
		m.wake()
	case !m.gathers.Swap(true):
		time.AfterFunc(wait, func() {
			m.gathers.Store(false)
			m.wake()
		})
	}
}

// follower has the methods for the hub.
type follower struct{ *Member }

var (
	_ hub.Session  = follower{}
	_ hub.Follower = follower{}
)

// Touch implements [hub.Follower].
func (f follower) Touch() { f.gather() }

// Reach implements [hub.Follower].
func (f follower) Reach() { f.gather() }

// Write implements [hub.Session]: the session or the request writes.
func (follower) Write(*hub.Turn) {}
