package groups

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/group"
)

// Config configures Members. All fields are required.
type Config struct {
	// Self is this node's id.
	Self   string
	Groups []group.Group
	Store  groups.Store
	// Coordinator answers the reports of all groups: an *[Exchanger].
	Coordinator group.Coordinator
	Logger      *slog.Logger
}

// Members are the members of consumer groups that a gateway serves. It implements
// [group.Groups]. Call Run.
type Members struct {
	cfg    Config
	acks   *acks
	groups map[string]*talk
}

// NewMembers returns Members, or an error with every problem of the configuration.
func NewMembers(cfg Config) (*Members, error) {
	var errs []error
	require := func(ok bool, what string) {
		if !ok {
			errs = append(errs, errors.New("groups: "+what+" is required"))
		}
	}
	require(cfg.Self != "", "Self")
	require(cfg.Store != nil, "Store")
	require(cfg.Coordinator != nil, "Coordinator")
	require(cfg.Logger != nil, "Logger")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m := &Members{cfg: cfg, acks: newAcks(cfg.Store.Ack), groups: map[string]*talk{}}
	boot := newID()
	for _, g := range cfg.Groups {
		m.groups[g.Name] = newTalk(cfg, g, boot)
	}
	return m, nil
}

func newID() string { return uuid.Must(uuid.NewV7()).String() } // fails only without a source of randomness

// Run talks to the coordinators until ctx ends.
func (m *Members) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, t := range m.groups {
		all.Go(func() { t.run(ctx) })
	}
	all.Wait()
	return nil
}

// Group implements group.Groups.
func (m *Members) Group(name string) (group.Group, bool) {
	t, ok := m.groups[name]
	if !ok {
		return group.Group{}, false
	}
	return t.group, true
}

// Join implements group.Groups.
func (m *Members) Join(_ context.Context, who group.Member, changed func()) (group.Membership, *command.Failure) {
	t, ok := m.groups[who.Group]
	if !ok {
		return nil, m.unknown(who.Group)
	}
	if err := eventstore.ValidateID(who.Name); err != nil {
		return nil, command.BadRequest("member", "the member's name is invalid: %v", err)
	}
	s := &membership{talk: t, acks: m.acks, who: who, id: newID(), changed: changed, tenures: map[string]group.Tenure{}}
	if f := s.allowed(who.Client, who.Claims); f != nil {
		return nil, f
	}
	if !t.add(s) {
		return nil, command.Busy("this gateway has %d members of the group %q", group.MaxMembers, who.Group)
	}
	return s, nil
}

func (m *Members) unknown(group string) *command.Failure {
	if len(m.groups) == 0 {
		return command.NotFound("there is no consumer group %s: the application declares none", command.Quote(group))
	}
	return command.NotFound("there is no consumer group %s: the application declares %s", command.Quote(group), strings.Join(slices.Sorted(maps.Keys(m.groups)), ", "))
}

// Stats are the figures of one group on one gateway.
type Stats struct {
	Group   string
	Members int
	// Silent reports that there are members, and the coordinator was not heard.
	Silent bool
	// Pending is the number of segments with events that are not acknowledged.
	Pending int
}

// Stats returns the figures of all groups, in no order.
func (m *Members) Stats() []Stats {
	var list []Stats
	for _, t := range m.groups {
		list = append(list, t.stats())
	}
	return list
}
