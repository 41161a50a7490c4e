// Package waker asks aggregates to wake at the time for which their state asks.
//
// Each commit of a type with wake-ups carries that time. A [Waker] folds the commits of
// the segments that its node owns into the table of package wakes, and asks the owner
// of each stream that is due, by the database's clock. The owner's state decides; see
// package engine. So two nodes that both believe to own a segment cost questions, and
// never a wake-up too early, twice or lost.
//
//	           follow                        ask
//	commits ────────────▶ table wake ───────────────────▶ owner of the stream
//	                          ▲                              │
//	                          └──────── answer: next time ───┘
//
// # What follows an answer
//
//	woken                          the row gets the next time, at least 1 s from now
//	not due                        the row gets the state's time, or goes
//	refused (no events)            the row waits for another version, or for an operator
//	not_found                      the owner's program is older: again after 1 s
//	busy, unavailable, timeout     again after 1 s; for 1 s one question at a time
//	internal                       again after 1, 2, 4, … s, at most 1 min
//	anything else                  logged; again after 1 min
//
// # When an owner stands still
//
// The other nodes look at each segment once a second. One that has work, since its
// checkpoint is behind the head or a row is due, and whose checkpoint and first due row
// stay as they are for 5 s and a random time up to half as long, is taken: another node
// works on it until it is fenced by the owner and no row is late.
//
// # Bounds
//
// A segment has at most 64 questions in flight, 8 while 16 or more appends of the node
// wait for the database, and reads at most 256 due rows at a time. It asks nothing
// before it has reached the head of the log once, since older commits say nothing about
// what is due now. A question has 10 s.
package waker
