// Package group is the programming model of consumer groups: programs outside the
// cluster, or in a node's own process, that share the events of a log and
// acknowledge what they have handled.
//
// A group is one call of [Define]:
//
//	var Mailer = group.Define(&Catalog, group.Group{
//		Name: "mailer", Access: aggregate.Authenticated,
//		Reads: group.Reads{"client", AuctionClosed{}},
//	})
//
// Each event that the group reads is handled at least once, in order within its
// stream, by one member at a time. The events of different streams are handled in
// any order.
package group

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

const (
	// Kind is the [aggregate.Model] kind of consumer groups.
	Kind = "consumer group"
	// DefaultSegments and MaxSegments bound [Group.Segments].
	DefaultSegments = 16
	MaxSegments     = 256
	// DefaultAckWithin, MinAckWithin and MaxAckWithin bound [Group.AckWithin].
	DefaultAckWithin = 30 * time.Second
	MinAckWithin     = time.Second
	MaxAckWithin     = time.Hour
	// MaxNameBytes leaves room in a command's key, which has at most 64 bytes, for
	// the group's name, a position and a number.
	MaxNameBytes = 24
)

// Reads lists what a group gets. A string is the stored name of an aggregate type,
// all of whose events are read, later additions included. Any other value is an event,
// such as BidPlaced{}.
type Reads []any

// Group defines a consumer group.
type Group struct {
	// Name is the stored name: at most MaxNameBytes of lower-case letters, digits, -
	// and _. Required.
	Name string
	// Doc says in a sentence or two what the members do, for people.
	Doc string
	// Reads lists the aggregate types and the events that the group gets. A change
	// holds from the moment on at which the new program runs. Required.
	Reads Reads
	// Segments is into how many parts the streams are divided, and so how many members
	// have work at most. It is that of a new group: an operator changes it with
	// "ganglion group resize".
	//
	// Defaults to DefaultSegments.
	Segments int
	// Access says who may be a member. Members get every event that the group reads,
	// whatever the aggregate types allow. A RuleFunc is called with the id "". Required.
	Access aggregate.Rule
	// AckWithin is how long a member may have an event without acknowledging it or
	// saying that it still works, before others get it.
	//
	// Defaults to DefaultAckWithin.
	AckWithin time.Duration
}

// Define registers a consumer group. The catalog's Err reports everything that is
// wrong with it.
func Define(c *aggregate.Catalog, g Group) *Definition {
	d, problems := g.define()
	c.Add(d, problems...)
	return d
}

func (g Group) define() (*Definition, []error) {
	d := &Definition{
		name: g.Name, doc: g.Doc, reads: g.Reads, segments: g.Segments, access: g.Access, ackWithin: g.AckWithin,
		types: map[string]bool{}, events: map[aggregate.EventName]bool{},
	}
	if d.segments == 0 {
		d.segments = DefaultSegments
	}
	if d.ackWithin == 0 {
		d.ackWithin = DefaultAckWithin
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := shape.CheckName(g.Name); err != nil {
		problem("the Name %w", err)
	} else if len(g.Name) > MaxNameBytes {
		problem("the Name has %d bytes: use at most %d, since the keys of commands contain it", len(g.Name), MaxNameBytes)
	}
	if len(g.Reads) == 0 {
		problem("Reads is missing: list aggregate types and events")
	}
	if d.segments < 1 || d.segments > MaxSegments {
		problem("Segments is %d: use 1 to %d", d.segments, MaxSegments)
	}
	if d.ackWithin < MinAckWithin || d.ackWithin > MaxAckWithin {
		problem("AckWithin is %v: use %v to %v", d.ackWithin, MinAckWithin, MaxAckWithin)
	}
	if f, isFunc := d.access.(aggregate.RuleFunc); d.access == nil || isFunc && f == nil || d.access == aggregate.Self {
		problem("Access is missing: say who may be a member (aggregate.Anyone, Authenticated or a RuleFunc)")
	}
	return d, problems
}

// A Definition is a registered consumer group. It is immutable once the catalog is
// complete, and safe for concurrent use.
type Definition struct {
	name, doc string
	reads     Reads
	segments  int
	access    aggregate.Rule
	ackWithin time.Duration

	// Set by Link.
	types  map[string]bool // read as a whole
	events map[aggregate.EventName]bool
}

// Kind makes a Definition an [aggregate.Model].
func (d *Definition) Kind() string { return Kind }

// Name returns the stored name.
func (d *Definition) Name() string { return d.name }

// Doc returns what the definition says about itself.
func (d *Definition) Doc() string { return d.doc }

// Segments returns how many segments a new group has.
func (d *Definition) Segments() int { return d.segments }

// AckWithin returns how long a member may have an event without a sign of life.
func (d *Definition) AckWithin() time.Duration { return d.ackWithin }

// Access returns who may be a member.
func (d *Definition) Access() aggregate.Rule { return d.access }

// Allows reports whether a caller may be a member.
func (d *Definition) Allows(c aggregate.Caller) bool { return d.access.Allows(c, "") }

// Reads reports whether the group gets an event.
func (d *Definition) Reads(event aggregate.EventName) bool {
	return d.types[event.Type] || d.events[event]
}

// Types returns the aggregate types that the group gets any event of, sorted.
func (d *Definition) Types() []string {
	types := maps.Clone(d.types)
	for e := range d.events {
		types[e.Type] = true
	}
	return slices.Sorted(maps.Keys(types))
}

// Whole returns the aggregate types that the group reads as a whole, sorted, and
// Events the events that it reads of others.
func (d *Definition) Whole() []string { return slices.Sorted(maps.Keys(d.types)) }

// Events returns the events that Reads lists, sorted.
func (d *Definition) Events() []aggregate.EventName {
	names := slices.Collect(maps.Keys(d.events))
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	return names
}

// Scenarios returns none: a group has no code.
func (d *Definition) Scenarios() []aggregate.Example { return nil }

// Uncovered returns none.
func (d *Definition) Uncovered() []string { return nil }

// Link looks up the types and events in the catalog.
func (d *Definition) Link(c *aggregate.Catalog) (problems []error) {
	for i, entry := range d.reads {
		if err := d.link(c, entry); err != nil {
			problems = append(problems, fmt.Errorf("entry %d of Reads %w", i+1, err))
		}
	}
	return problems
}

func (d *Definition) link(c *aggregate.Catalog, entry any) error {
	if entry == nil {
		return errors.New("is nil: use the name of an aggregate type, or an event such as BidPlaced{}")
	}
	if typ, ok := entry.(string); ok {
		if !c.HasType(typ) {
			return fmt.Errorf("is %q, which is no aggregate type of the catalog", typ)
		}
		d.types[typ] = true
		return nil
	}
	names := c.EventsOf(reflect.TypeOf(entry))
	if len(names) == 0 {
		return fmt.Errorf("is a %T, which no aggregate of the catalog registers as an event", entry)
	}
	for _, name := range names {
		d.events[name] = true
	}
	return nil
}
