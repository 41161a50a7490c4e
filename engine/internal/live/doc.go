// Package live keeps the answers to questions current, for many subscriptions.
//
// A [Registry] has one source for each projection with live queries, and a source
// has one question for each distinct condition, order and limit. A question has
// the rows of its answer, the window, and half a limit of rows beyond it. Each
// subscription is a [Follower] of a question.
//
//	table ──changes──▶ source ──▶ question ──▶ Follower ──parts──▶ gateway
//	                     ▲            │
//	                     └── evaluation: the question asked again
//
// # Source
//
// A source is one goroutine. It reads the rows that have changed, one read under
// way, and gives each to the questions that it concerns: the ones whose condition
// the new row meets, and the holders of the row. Then it publishes the positions up
// to which all its questions show the log, one per segment. It reads after an
// announcement, every 500 ms without one, and every 50 ms while the rows lag
// behind what the node has received. It ends with the last question.
//
// A question is evaluated, that is asked in the database, when it is new, when the
// rows beyond its window run out, when an operator has mended rows, when tombstones
// were removed before they were read, when more rows have changed than reading
// them is worth, and when another build serves. The difference to what it had is
// what its followers get.
//
// # Follower
//
// Every row in a window carries the number of its last change, counted by the
// question. A follower is one number: the last change that it has sent. What has a
// greater number is pending, and is sent in the order of these numbers in the
// row's newest form. So a slow client costs no queue. Rows that left are kept in a
// list of 256; a follower that falls further behind sends the keys of the window
// instead.
//
//	       no cursor, or not a valid one        valid cursor
//	           │                                    │
//	           ▼                                    ▼
//	┌───▶ reset (not without a cursor)      resuming: rows that changed or
//	│          │                            moved in; keys, if rows left
//	│          ▼                                    │
//	│     state: all rows of the window             │ nothing pending: synced
//	│          │ nothing pending: live              │
//	│          ▼                                    ▼
//	├───── live ◀───────────────────────────────────┘
//	│       │  ▲
//	│       ▼  │ nothing pending: synced
//	├───── batch: update, keys, or another number of blocked rows
//	│
//	└─ another log, other rights: reset
//
// live and synced are sent only when nothing is pending and the question shows
// exactly its positions, so that the rows that the client has are the answer
// there. While a state is sent, a row that changes is sent again in a later page,
// and a row that leaves is sent as an update with gone, before live.
//
// # Data
//
// A question keeps keys, ranks and positions. The data of rows is kept encoded, by
// key and position, in a cache of 16 MiB; what it lacks is read from the table when a
// socket has room, by few readers. Only the form that the question has
// evaluated is sent; if the table has a newer one, the follower waits until the
// source has read that change.
//
// # Locks
//
// In this order: Follower.mu, Registry.mu, source.mu, question.mu, then those of
// the cache and of the loader. No lock is held while a wake function runs or a table is
// read, except that of a new Follower, which only its caller knows.
//
// # Bounds
//
// A registry has at most 20,000 questions, and accepts no new one with which they
// would hold more than 2 million rows. Rows that enter an answer later are kept
// beyond that, up to one and a half limits of the question. A projection has at
// most 1,000 questions whose condition cannot be indexed. Beyond a bound, Follow is
// busy. Two evaluations and two loads are under way at a time. A question costs
// about 70 bytes per row besides its keys and ranks, which questions share, and 2
// KiB.
package live
