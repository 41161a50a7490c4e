package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	domaingroup "github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	protogroup "github.com/ganglion-es/ganglion/proto/group"
)

// GroupOperations are what operators do with the consumer groups of a log, whether or
// not nodes run. Its methods are safe for concurrent use, also by several programs.
type GroupOperations struct {
	log   eventstore.Store
	store groups.Store
}

// NewGroupOperations returns the operations on the consumer groups of a log.
func NewGroupOperations(log eventstore.Store, store groups.Store) *GroupOperations {
	return &GroupOperations{log, store}
}

// A GroupSegment is how one segment of a consumer group stands.
type GroupSegment struct {
	Group    string              `json:"group"`
	Segment  string              `json:"segment"` // a number, or "~" and a sequence under retry
	Member   string              `json:"member"`  // client and name, "" if no member holds it
	Gateway  string              `json:"gateway"` // the node that serves the member
	Position eventstore.Position `json:"position"`
	Lag      uint64              `json:"lag"`   // events behind the head of the log
	Epoch    uint64              `json:"epoch"` // of the holder
	Tries    int                 `json:"tries"` // takeovers at the position without an acknowledgement
	// Stopped is why the segment does not continue: "paused", "log" or "parked"; "" if
	// it can.
	Stopped string `json:"stopped,omitempty"`
	Parked  int    `json:"parked"` // sequences of the whole group
}

// State describes the segment in words.
func (s GroupSegment) State() string {
	switch {
	case s.Stopped != "":
		return "stopped: " + s.Stopped
	case s.Member == "":
		return "no member"
	}
	return "consumed"
}

// Segments returns the segments of all groups, or of those with the names, sorted by
// group.
func (o *GroupOperations) Segments(ctx context.Context, names ...string) ([]GroupSegment, error) {
	list, err := o.store.Groups(ctx, names...)
	if err != nil {
		return nil, err
	}
	head, err := o.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	all := []GroupSegment{}
	for _, g := range list {
		for _, s := range g.Segments {
			one := GroupSegment{
				Group: g.Name, Segment: s.Name, Gateway: s.Holder.Gateway, Position: s.Position, Epoch: s.Epoch, Tries: s.Tries, Parked: g.Parked,
				Stopped: o.stopped(g, s),
			}
			if s.Holder.Session != "" {
				one.Member = s.Holder.Client + "/" + s.Holder.Member
			}
			if head > s.Position {
				one.Lag = uint64(head - s.Position)
			}
			all = append(all, one)
		}
	}
	return all, nil
}

func (o *GroupOperations) stopped(g groups.Group, s groups.Segment) string {
	switch {
	case g.LogID != o.log.LogID():
		return string(protogroup.WentBack)
	case g.Paused:
		return string(protogroup.Paused)
	case s.Tries >= groups.ParkAfter && s.Suspect > 0:
		return string(protogroup.ParkedFull)
	}
	return ""
}

// A ParkedSequence is a stream whose events a consumer group leaves out.
type ParkedSequence struct {
	Group    string              `json:"group"`
	Sequence string              `json:"sequence"`
	Position eventstore.Position `json:"position"` // of the event that failed
	Retried  bool                `json:"retried"`  // it is being delivered again
	Reason   string              `json:"reason"`
	Since    time.Time           `json:"since"` // by the database's clock
}

// Parked returns the parked sequences of all groups, or of those with the names, sorted
// by group and position, at most limit.
func (o *GroupOperations) Parked(ctx context.Context, limit int, names ...string) ([]ParkedSequence, error) {
	list, err := o.store.Groups(ctx, names...)
	if err != nil {
		return nil, err
	}
	all := []ParkedSequence{}
	for _, g := range list {
		if g.Parked == 0 || len(all) == limit {
			continue
		}
		parked, err := o.store.Parked(ctx, g.Name, limit-len(all))
		if err != nil {
			return nil, err
		}
		for _, p := range parked {
			all = append(all, ParkedSequence{Group: g.Name, Sequence: p.Sequence, Position: p.Position, Retried: p.Retried, Reason: p.Reason, Since: p.At})
		}
	}
	return all, nil
}

// Reset makes a group begin again after a position. Events up to it are not delivered
// any more, later ones are, whatever was acknowledged. With at nil, the segments stay
// where they are: it ends the stop of a group whose log went back.
func (o *GroupOperations) Reset(ctx context.Context, name string, at *eventstore.Position) error {
	if at == nil {
		return o.explain(ctx, name, o.store.Reset(ctx, name, groups.Place{Keep: true}))
	}
	return o.explain(ctx, name, o.store.Reset(ctx, name, groups.Place{Position: *at}))
}

// Head returns the position of the newest event of the log.
func (o *GroupOperations) Head(ctx context.Context) (eventstore.Position, error) {
	return o.log.Head(ctx)
}

// Resize gives a group another number of segments.
func (o *GroupOperations) Resize(ctx context.Context, name string, segments int) error {
	if segments < 1 || segments > domaingroup.MaxSegments {
		return fmt.Errorf("a group has 1 to %d segments, not %d", domaingroup.MaxSegments, segments)
	}
	return o.explain(ctx, name, o.store.Resize(ctx, name, segments))
}

// Pause stops or resumes the deliveries of a group.
func (o *GroupOperations) Pause(ctx context.Context, name string, paused bool) error {
	return o.explain(ctx, name, o.store.Pause(ctx, name, paused))
}

// Retry delivers the events of a parked sequence again, in order.
func (o *GroupOperations) Retry(ctx context.Context, name, sequence string) error {
	return o.explain(ctx, name, o.store.Retry(ctx, name, sequence))
}

// Skip leaves out the event at which a sequence is parked, and delivers the later ones.
func (o *GroupOperations) Skip(ctx context.Context, name, sequence string, p eventstore.Position) error {
	return o.explain(ctx, name, o.store.Skip(ctx, name, sequence, p))
}

// DropNotice describes what Drop of a group loses. The error is that of Drop.
func (o *GroupOperations) DropNotice(ctx context.Context, c *aggregate.Catalog, name string, left bool) (string, error) {
	if err := mayDrop(c, name); err != nil {
		return "", err
	}
	segments, err := o.Segments(ctx, name)
	if err != nil {
		return "", err
	}
	if len(segments) == 0 {
		return "", o.unknown(ctx, name)
	}
	low, high := segments[0].Position, segments[0].Position
	for _, s := range segments {
		if s.Member != "" && !left {
			return "", o.explain(ctx, name, groups.ErrHeld)
		}
		low, high = min(low, s.Position), max(high, s.Position)
	}
	return fmt.Sprintf("The group %q has acknowledged all events up to position %d, some up to %d, and %d sequences are parked. The effects are:\n"+
		"- All of this is lost, and cannot be brought back.\n"+
		"- A group of this name that is declared later begins at the head of the log.\n", name, low, high, segments[0].Parked), nil
}

// Drop removes a group that the catalog of this program does not have any more. It
// refuses while members hold segments, unless left says that they have left: the nodes
// that served the members have ended, and none that coordinates the group runs.
func (o *GroupOperations) Drop(ctx context.Context, c *aggregate.Catalog, name string, left bool) error {
	if err := mayDrop(c, name); err != nil {
		return err
	}
	return o.explain(ctx, name, o.store.Drop(ctx, name, left))
}

func mayDrop(c *aggregate.Catalog, name string) error {
	if slices.ContainsFunc(c.Models(domaingroup.Kind), func(m aggregate.Model) bool { return m.Name() == name }) {
		return fmt.Errorf("the catalog of this program has the group %q, so each node that starts would store it again: "+
			"take it out of the catalog, deploy the program, and drop the group with that one", name)
	}
	return nil
}

// holders returns the members that hold segments of a group, at most 3, with their
// gateways.
func (o *GroupOperations) holders(ctx context.Context, name string) (list []string, err error) {
	segments, err := o.Segments(ctx, name)
	for _, s := range segments {
		if one := s.Member + " at " + s.Gateway; s.Member != "" && len(list) < 3 && !slices.Contains(list, one) {
			list = append(list, one)
		}
	}
	return list, err
}

// explain says what an operator can do about an error.
func (o *GroupOperations) explain(ctx context.Context, name string, err error) error {
	switch {
	case errors.Is(err, groups.ErrNoGroup):
		return o.unknown(ctx, name)
	case errors.Is(err, groups.ErrHeld):
		holders, err := o.holders(ctx, name)
		if err != nil {
			return err
		}
		return fmt.Errorf("members hold segments of the group %q: %s. Stop them, and deploy the program without the group to all nodes; "+
			"if the nodes that served them ended with them, use `ganglion group drop --members-left`", name, strings.Join(holders, ", "))
	case errors.Is(err, groups.ErrAhead):
		head, headErr := o.log.Head(ctx)
		if headErr != nil {
			return err
		}
		return fmt.Errorf("the log ends at %d: use a position from 0 to %d", head, head)
	case errors.Is(err, groups.ErrNotParked):
		return fmt.Errorf("group %q has no such parked sequence, or it is being retried: 'ganglion groups' lists them with their positions", name)
	case errors.Is(err, groups.ErrOtherLog):
		return fmt.Errorf("the log does not have the events any more that group %q has acknowledged: reset it to a position", name)
	}
	return err
}

func (o *GroupOperations) unknown(ctx context.Context, name string) error {
	list, err := o.store.Groups(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, g := range list {
		names = append(names, g.Name)
	}
	if len(names) == 0 {
		return fmt.Errorf("the log has no consumer group %q: it has none; a node stores those of its program when it starts", name)
	}
	slices.Sort(names)
	return fmt.Errorf("the log has no consumer group %q: use %s", name, strings.Join(names, ", "))
}
