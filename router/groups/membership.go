package groups

import (
	"context"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/group"
)

// membership implements group.Membership. Its variable fields are guarded by the lock
// of its talk.
type membership struct {
	talk    *talk
	acks    *acks
	who     group.Member
	id      string
	changed func()

	held     []group.Holding // never changed, only replaced
	replaced bool            // by a newer session of the member: reported as closed from then on
	heard    bool            // an answer had this session
	closed   bool
	tenures  map[string]group.Tenure // by segment
}

// allowed reports a caller that may not be a member.
func (s *membership) allowed(client string, claims map[string]any) *command.Failure {
	if s.who.Internal || s.talk.group.Allows(client, claims) {
		return nil
	}
	return command.Forbidden("you may not consume the group %q", s.who.Group)
}

// Renew implements group.Membership.
func (s *membership) Renew(client string, claims map[string]any) *command.Failure {
	return s.allowed(client, claims)
}

// Holdings implements group.Membership.
func (s *membership) Holdings() group.Holdings {
	s.talk.mu.Lock()
	defer s.talk.mu.Unlock()
	return group.Holdings{List: s.held, Replaced: s.replaced, Silent: !s.heard || s.closed || s.talk.silent()}
}

// Ack implements group.Membership.
func (s *membership) Ack(ctx context.Context, segment string, epoch uint64, p eventstore.Position) error {
	return s.acks.ack(ctx, s.who.Group, segment, epoch, p)
}

// Parked implements group.Membership.
func (s *membership) Parked(ctx context.Context, segment string, epoch uint64) ([]group.Parked, error) {
	if groups.SequenceOf(segment) != "" {
		return nil, nil
	}
	segments := s.segments(segment, epoch)
	if segments == 0 {
		return nil, group.ErrRevoked
	}
	list, err := s.talk.cfg.Store.Parked(ctx, s.who.Group, groups.MaxParked)
	if err != nil {
		return nil, err
	}
	var own []group.Parked
	for _, p := range list {
		if stream, err := eventstore.ParseStreamID(p.Sequence); err == nil && groups.SegmentName(group.SegmentOf(stream, segments)) == segment {
			own = append(own, group.Parked{Sequence: p.Sequence, Position: p.Position})
		}
	}
	return own, nil
}

// segments returns how many segments the group has, 0 if the segment is not held.
func (s *membership) segments(segment string, epoch uint64) int {
	s.talk.mu.Lock()
	defer s.talk.mu.Unlock()
	for _, h := range s.held {
		if h.Segment == segment && h.Epoch == epoch {
			return h.Segments
		}
	}
	return 0
}

// Park implements group.Membership.
func (s *membership) Park(ctx context.Context, segment string, epoch uint64, p eventstore.Position, sequence, reason string) error {
	if len(reason) > group.MaxReason {
		reason = strings.ToValidUTF8(reason[:group.MaxReason], "")
	}
	reason = strings.ReplaceAll(strings.ToValidUTF8(reason, "\uFFFD"), "\x00", "\uFFFD") // databases refuse U+0000
	return s.talk.cfg.Store.Park(ctx, s.who.Group, segment, epoch, groups.Park{Sequence: sequence, Position: p, Reason: reason})
}

// Rejoin implements group.Membership.
func (s *membership) Rejoin(ctx context.Context, segment string, epoch uint64) error {
	return s.talk.cfg.Store.Rejoin(ctx, s.who.Group, segment, epoch)
}

// Pending implements group.Membership.
func (s *membership) Pending(segment string, epoch uint64, first, last eventstore.Position) {
	s.talk.mu.Lock()
	defer s.talk.mu.Unlock()
	t := s.tenure(segment, epoch)
	t.First, t.Last = first, last
	s.set(t)
}

// Release implements group.Membership.
func (s *membership) Release(segment string, epoch uint64) {
	s.talk.mu.Lock()
	defer s.talk.mu.Unlock()
	t := s.tenure(segment, epoch)
	t.First, t.Last, t.Released = 0, 0, true
	s.set(t)
	s.talk.wake()
}

func (s *membership) tenure(segment string, epoch uint64) group.Tenure {
	if t := s.tenures[segment]; t.Epoch == epoch {
		return t
	}
	return group.Tenure{Segment: segment, Epoch: epoch}
}

// set keeps what there is to say about a tenure, unless a newer one is known.
func (s *membership) set(t group.Tenure) {
	switch {
	case s.closed || s.tenures[t.Segment].Epoch > t.Epoch:
	case t.First == 0 && !t.Released:
		delete(s.tenures, t.Segment)
	default:
		s.tenures[t.Segment] = t
	}
}

// Close implements group.Membership.
func (s *membership) Close() { s.talk.remove(s) }

// report returns the session as the coordinator must know it. The caller holds the
// lock.
func (s *membership) report() group.Session {
	one := group.Session{ID: s.id, Client: s.who.Client, Member: s.who.Name, Known: s.heard, Closed: s.closed || s.replaced}
	for _, t := range s.tenures {
		one.Tenures = append(one.Tenures, t)
	}
	return one
}

// hear takes what the coordinator says, and reports whether it is news. A revocation
// stays until the epoch is over, whatever a later coordinator says: the member was told
// that nothing new follows. The caller holds the lock.
func (s *membership) hear(h group.Held) (news bool) {
	for i := range h.Holdings {
		one := &h.Holdings[i]
		one.Revoking = one.Revoking || slices.ContainsFunc(s.held, func(had group.Holding) bool {
			return had.Segment == one.Segment && had.Epoch == one.Epoch && had.Revoking
		})
	}
	news = !s.heard || s.replaced != h.Replaced || !same(s.held, h.Holdings)
	s.heard, s.replaced = true, s.replaced || h.Replaced
	if news {
		s.held = h.Holdings
	}
	epochs := map[string]uint64{}
	for _, one := range h.Holdings {
		epochs[one.Segment] = one.Epoch
	}
	for name, t := range s.tenures {
		if epoch, held := epochs[name]; !held || epoch > t.Epoch {
			delete(s.tenures, name)
		}
	}
	return news
}

// same compares holdings. The position of an epoch is that of its beginning, whatever
// later answers say.
func same(a, b []group.Holding) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		x.Position, y.Position = 0, 0
		if x != y {
			return false
		}
	}
	return true
}
