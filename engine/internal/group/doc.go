// Package group coordinates consumer groups: it decides which member holds which
// segment. It is not on the path of events and acknowledgements.
//
// A [Coordinator] runs one goroutine for each group of the catalog. While the node
// owns a group by the ring, the goroutine is that group's coordinator:
//
//	idle -- owns --> take -- stored --> quiet for 2 s --> coordinating
//	                                                          |
//	lost, waits 2 s, doubled up to 30 s <-- another took it --+
//	or until gateways ask for it
//
// Gateways report their sessions, and the coordinator answers with what they hold. A
// plan is made from the stored group, the sessions and the time, and is stored in one
// step that fails if the generation has moved. So a coordinator that is not the only one
// loses a round of work and nothing else; see package eventstore/groups.
//
// # Who gets what
//
//   - A segment whose session is gone is given to the member with the fewest segments
//     immediately. A session is gone when its gateway says so, when it is missing in its
//     gateway's report, or when its gateway was not heard for 2 s.
//   - A newer session of a member takes the place of the older one, with its segments.
//   - Joins are gathered for 1 s. Then only surplus moves: the members' numbers of
//     segments differ by one at most.
//   - A segment moves from a living member once its gateway has released it, or after 5 s.
//   - The segment of a sequence under retry follows the sequence's numbered segment.
//
// # Which of two coordinators stays
//
// Nodes that do not see each other may each own a group by the ring and reach the
// database. Such a node cannot know whether the others are dead or it is cut off, so it
// takes the group. Gateways decide between the two, since each of them asks the
// coordinator that its own ring names. A node that was replaced takes the group back if,
// 500 ms later,
//
//   - more than half of the gateways with sessions that it heard still ask it, without
//     that of the node that replaced it; or
//   - a gateway asks it that it had not heard, as when a cut is mended.
//
// The own gateway does not count if the node reaches no other domain node. A node notices
// within 600 ms that it was replaced, and has the group back another 600 ms later, while a
// new coordinator changes nothing for 2 s. So a node that is cut off takes the group after
// 2, 4, … 30 s again, and members elsewhere do not notice. Two nodes that are both alone
// take turns. Gateways may ask both nodes, so a node that was given the group back three
// times in a row, and each time has lost it within 2 s, waits. So does a node that was alone
// when it took the group, if it has lost it within 2 s.
//
// # Why no event is sent to two members
//
// An answer holds for 2 s from when the coordinator last read in the database that it
// is the coordinator, and for 2 s from when the gateway sent its report. A new
// coordinator changes nothing for 2 s after it has written its name there, and a
// coordinator gives the segments of a silent gateway to others after 2 s. While such a
// change is being stored, the gateway gets no answer, so it cannot return to what it had
// before. Only durations are compared, so clocks may differ.
//
// A revocation stands until its epoch is over. The coordinator repeats it until it has
// read that the segment has moved. A later coordinator does not know it at first: the
// gateway keeps to it, and the coordinator takes it over when the gateway reports the
// segment as released.
package group
