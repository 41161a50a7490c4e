// Package groups connects a gateway to the coordinators of consumer groups.
//
// [Members] implements the interface that gateways use, package proto/group. It has
// the sessions of this gateway that consume, and for each group with a session one
// goroutine, which tells the coordinator everything that it must know, and hears what
// each session holds: every 250 ms, and when something changes. A lost exchange costs
// nothing but time.
//
// [Exchanger] finds the coordinator: in the same process, or over a link to the member
// that the ring names.
//
// # Silence
//
// What the coordinator said holds for 2 s from when the report was sent that it
// answers, minus the time since the coordinator confirmed that it is the coordinator.
// Then [group.Holdings] are Silent. Package engine/internal/group says why no event is
// sent to two members.
//
// # Bounds
//
// A gateway has at most [group.MaxMembers] members of one group; a further one is
// refused as busy. Acknowledgements that arrive while a batch is in flight form the
// next one, with one entry for each segment.
package groups
