// Package engine executes commands on the aggregates that a node owns.
//
// A [Host] accepts commands, lets the aggregates decide them, and stores the
// resulting events. It promises the following for any number of callers, and for
// any number of other hosts on the same log:
//
//   - Commands on one aggregate are executed in the order of [Host.Submit].
//   - A reply is sent only after the log has confirmed it. Rejections, failed
//     expectations and decisions to do nothing are confirmed too, against the
//     version at which they were decided: no reply comes from a state that
//     another node has already replaced.
//   - A command is executed once for its key. A host that gets the key again
//     replies with the first outcome.
//   - Every queue is bounded. A command that finds a queue full is refused as
//     busy, and so is a command that would wait in the queue past its deadline.
//   - A panic of application code fails the command that caused it, and no
//     other.
//
// The log is the source of truth, and a state is a cache of it. A host that was
// paused, was cut off or wrongly believes that it owns an aggregate can cost other
// hosts a retry, but never an event.
//
// # Cells
//
// An aggregate in use is a cell: a mailbox, a state, and while the mailbox has
// entries a goroutine, its worker. The worker takes up to Config.Drain commands
// from the mailbox, decides them one after another on a speculative state,
// appends their events as one unit, and replies. A hot aggregate is therefore
// not limited to one command per disk flush. If the append fails, the worker
// drops the state and loads it again. An idle aggregate costs the memory of its
// state and no goroutine.
//
//	         Submit, Get                mailbox empty
//	no cell ─────────────▶ with worker ───────────────▶ idle, state cached
//	   ▲                    │       ▲                    │     │
//	   │  mailbox empty,    │       │   Submit, or a Get │     │
//	   │  nothing to cache  │       └────────────────────┘     │
//	   ├────────────────────┘         that needs the log       │
//	   └───────────────────────────────────────────────────────┘
//	                   evicted, Keep, Clear, a pause of the process
//
// Nothing is cached of an aggregate that has no event, whose load failed, whose
// state was invalidated, or that the node no longer owns.
//
// # Concurrency
//
// Host.mu guards the cells, the counts of pending work, and the fields of a
// cell that are marked so. It is held for map and list operations only, never
// while the store, application code or a reply function is called. The only other lock is
// that of tip, which is never held together with Host.mu. Both are leaves: no
// lock is taken while one of them is held.
//
// A cell's state belongs to its worker. The next worker of the cell inherits it
// under Host.mu. Values that Submit and the watchdog's timer read while a worker
// runs are atomic. Application code runs on workers, and on no other goroutine.
package engine
