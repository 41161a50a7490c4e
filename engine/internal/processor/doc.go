// Package processor keeps the rows of projections current, and the states of process
// managers.
//
// A [Processor] follows the log for one projection or process manager. Its work is divided into
// segments by the row's key; a node works on the segments that it owns. For each
// batch of commits it loads the rows concerned, folds the events into them, and
// writes rows and checkpoint in one step, which fails if another node has moved
// the checkpoint. So ownership decides who works, and the checkpoint decides what
// is right: two nodes that both believe to own a segment cost a batch of work and
// never a wrong row.
//
//	         owned              caught up with the head
//	idle ─────────▶ following ◀───────────────────────▶ waiting for events
//	 ▲                  │
//	 │ lost the segment, fenced, database away, paused: read the checkpoint again
//	 └──────────────────┘
//
// # What stops
//
// A handler that panics, a row that cannot be stored, or data that the database
// refuses is tried three times. Then the row is blocked: its later events wait,
// and all other rows continue. A [Mender] resumes it for an operator. An event that
// this program does not know is not such a fault: a newer program wrote it, so this
// node withdraws from the build and leaves it to nodes with newer code. A log that
// is not the one that the rows show stops the projection, until an operator
// decides. While the database is away the processor waits, and blocks nothing.
//
// # Events
//
// Events come from a [Tail], the newest commits that the node has received, and
// from the log where the tail does not reach back. Positions are dense, so a
// segment has caught up when its checkpoint is the head.
//
// # Bounds
//
// A tail holds 4,096 commits and 8 MiB. A batch holds 256 commits, with a backlog
// up to 1,024, and at most 8,192 events and 4 MiB of them. A segment caches 4,096
// rows. A processor has one write under way per segment. The processors of a node
// read all builds with one query, at most four times a second ([Watch]).
//
// # Builds
//
// A build becomes active when all its segments have reached the head, and then
// replaces older builds of the same definition. Every 10 minutes a node says which
// builds it uses. One that no node has used for a day, by the database's clock, is
// dropped once another active one was used since. Tombstones are kept for 7 days.
//
// # Process managers
//
// The rows of a process manager are the states of its sequences. A batch also has the
// commands that its events cause; package outbox sends them. A checkpoint has a term:
// the events for which its segment writes commands (rows.Term). It folds all others in
// silence.
//
// One build of a process manager is current, of whatever program. A build that is not
// folds no further than that one, so it can take over at any moment without a gap.
//
//	               first build of all
//	(none) ─────────────────────────────────▶ current
//	   │                                       │   ▲
//	   │ another one is current                │   │ newer: has folded as far as it may
//	   ▼                 another takes over    ▼   │ older: the current one stands still for 5 s
//	silent ◀───────────────────────────────────┘   │
//	   └───────────────────────────────────────────┘
//
// The owner of the first segment hands over, in one transaction that fences the
// writers of both builds.
//
// A segment that stands still behind the head may be taken by another node that has
// the code, since the checkpoint makes that safe ([Config.TakeAfter]).
package processor
