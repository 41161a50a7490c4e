package gateway_test

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/group"
)

// mailer coordinates the consumer group of tests, which reads auctions and the events
// "added" of counters. Tests give segments to members themselves.
type mailer struct {
	mu       sync.Mutex
	within   time.Duration
	segments int
	epoch    uint64
	tenures  map[string]*tenure // by segment
	stored   map[string]eventstore.Position
	parked   map[string]eventstore.Position // by sequence
	members  map[string]*membership         // by name
	err      error                          // of calls that use the database
	closed   bool                           // no client may be a member any more
	tries    int                            // segments with pending events of members that have ended
	silent   bool
	halt     group.Halt
}

type tenure struct {
	group.Holding
	member   *membership
	pending  [2]eventstore.Position
	released bool
}

type membership struct {
	*mailer
	group.Member
	changed  func()
	replaced bool
	isClosed bool
}

func newMailer(segments int) *mailer {
	return &mailer{
		within: time.Hour, segments: segments, tenures: map[string]*tenure{}, stored: map[string]eventstore.Position{},
		parked: map[string]eventstore.Position{}, members: map[string]*membership{},
	}
}

func consuming(g group.Groups) func(*gateway.Config) {
	return func(c *gateway.Config) { c.Groups = g }
}

func (g *mailer) Group(name string) (group.Group, bool) {
	return group.Group{
		Name: "mailer", AckWithin: g.within, Types: []string{"auction", "counter"},
		Reads: func(typ, event string) bool { return typ == "auction" || typ == "counter" && event == "added" },
		Allows: func(client string, claims map[string]any) bool {
			if claims["panic"] != nil {
				panic("a rule that fails")
			}
			return client != "" && claims["out"] == nil
		},
	}, name == "mailer"
}

func (g *mailer) Join(_ context.Context, m group.Member, changed func()) (group.Membership, *command.Failure) {
	def, ok := g.Group(m.Group)
	switch {
	case !ok:
		return nil, command.NotFound("there is no consumer group %s: the groups are mailer", command.Quote(m.Group))
	case !m.Internal && !def.Allows(m.Client, m.Claims):
		return nil, command.Forbidden("%q may not consume mailer", m.Client)
	case eventstore.ValidateID(m.Name) != nil:
		return nil, command.BadRequest("member", "the member: %v", eventstore.ValidateID(m.Name))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	joined := &membership{mailer: g, Member: m, changed: changed}
	if old := g.members[m.Name]; old != nil {
		old.replaced = true
		old.changed()
	}
	g.members[m.Name] = joined
	joined.changed() // perhaps before Join returns
	return joined, nil
}

// give gives segments to a member, each under a new epoch that it returns.
func (g *mailer) give(member string, segments ...string) (epoch uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.epoch++
	for _, name := range segments {
		t := &tenure{Holding: group.Holding{Segment: name, Epoch: g.epoch, Segments: g.segments, Position: g.stored[name], Log: "log-1"}, member: g.members[member]}
		if sequence, ok := strings.CutPrefix(name, "~"); ok {
			t.Sequence, t.Position = sequence, max(g.stored[name], g.parked[sequence]-1)
		}
		g.tenures[name] = t
	}
	g.announce()
	return g.epoch
}

// change changes a tenure, such as its Window.
func (g *mailer) change(segment string, change func(*tenure)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := *g.tenures[segment]
	change(&t)
	g.tenures[segment] = &t
	g.announce()
}

// set changes the coordinator.
func (g *mailer) set(change func(*mailer)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
	g.announce()
}

func (g *mailer) announce() {
	for _, m := range g.members {
		m.changed()
	}
}

// at returns the stored position of a segment.
func (g *mailer) at(segment string) eventstore.Position {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stored[segment]
}

// look returns what is known of a segment.
func (g *mailer) look(segment string) tenure {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.tenures[segment]; t != nil {
		return *t
	}
	return tenure{}
}

// present returns the names of the members that have not left.
func (g *mailer) present() (names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, m := range g.members {
		if !m.isClosed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (m *membership) Holdings() group.Holdings {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := group.Holdings{Silent: m.silent, Replaced: m.replaced}
	for _, name := range slices.Sorted(maps.Keys(m.tenures)) {
		if t := m.tenures[name]; t.member == m && !m.isClosed {
			holding := t.Holding
			holding.Halt = m.halt
			h.List = append(h.List, holding)
		}
	}
	return h
}

func (m *membership) Renew(client string, claims map[string]any) *command.Failure {
	def, _ := m.mailer.Group("mailer")
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !def.Allows(client, claims) {
		return command.Forbidden("%s may no longer consume mailer", client)
	}
	return nil
}

// tenure returns a segment under an epoch. It returns with the lock held, unless it
// fails.
func (m *membership) tenure(segment string, epoch uint64) (*tenure, error) {
	m.mu.Lock()
	t, err := m.tenures[segment], m.err
	if err == nil && (t == nil || t.Epoch != epoch || t.member != m || m.isClosed) {
		err = group.ErrRevoked
	}
	if err != nil {
		m.mu.Unlock()
	}
	return t, err
}

func (m *membership) Ack(_ context.Context, segment string, epoch uint64, p eventstore.Position) error {
	_, err := m.tenure(segment, epoch)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.stored[segment] = max(m.stored[segment], p)
	return nil
}

func (m *membership) Parked(_ context.Context, segment string, epoch uint64) (list []group.Parked, err error) {
	t, err := m.tenure(segment, epoch)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	for name, p := range m.parked {
		stream, _ := eventstore.ParseStreamID(name)
		if strconv.Itoa(group.SegmentOf(stream, t.Segments)) == segment {
			list = append(list, group.Parked{Sequence: name, Position: p})
		}
	}
	return list, nil
}

func (m *membership) Park(_ context.Context, segment string, epoch uint64, p eventstore.Position, sequence, _ string) error {
	t, err := m.tenure(segment, epoch)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	if m.halt == group.ParkedFull {
		return group.ErrParkedFull
	}
	if t.Sequence != "" {
		delete(m.tenures, segment)
	}
	m.parked[sequence] = p
	return nil
}

func (m *membership) Rejoin(_ context.Context, segment string, epoch uint64) error {
	t, err := m.tenure(segment, epoch)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	delete(m.parked, t.Sequence)
	delete(m.tenures, segment)
	return nil
}

func (m *membership) Pending(segment string, epoch uint64, first, last eventstore.Position) {
	if t, err := m.tenure(segment, epoch); err == nil {
		t.pending = [2]eventstore.Position{first, last}
		m.mu.Unlock()
	}
}

func (m *membership) Release(segment string, epoch uint64) {
	if t, err := m.tenure(segment, epoch); err == nil {
		t.released = true
		delete(m.tenures, segment)
		m.mu.Unlock()
		m.changed()
	}
}

func (m *membership) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.isClosed = true
	for _, t := range m.tenures {
		if t.member == m && t.pending[0] > 0 {
			m.tries++
		}
	}
}
