// Package outbox sends the commands that process managers have decided to send.
//
// A command waits in the outbox (package rows), where the fold of its cause has
// written it, until its outcome is final. Every sender uses the same key, so several
// senders cost commands that are answered from their key, and never a second
// execution.
//
// # Order
//
// Each [Segment] sends to one target one command at a time, in the order of the
// outbox. Between segments, and between targets, there is no order.
//
// # Outcomes
//
//	a result, also replayed; key_reused         the command is removed
//	rejected, conflict, bad_request, not_found, the refusal is recorded in the process manager's
//	too_large                                   own stream if it handles refusals, then the command is removed
//	busy, unavailable, timeout, rate_limited    the same key again, with pauses up to 1 s, indefinitely
//	anything else, such as internal             5 times, with pauses up to 1 min; then the target is held until
//	                                            an operator decides
//
// # Builds
//
// The build whose term is current sends once all commands of other builds in the outbox
// wait for an operator. Those may be sent at any time, by any node: see [Outbox.Drain].
// A target to which other builds have commands gets none of the build before theirs. If
// they hold more than 1,000 targets, the build waits.
//
// # Bounds
//
// A segment has 64 commands in flight and a node 256, or 32 while appends wait for
// the database. A segment holds 2,048 commands in memory, at most 1,024 for one target, and
// once half is used at most 32; the outbox has the rest. A target that does not answer
// does not delay the others, unless more than a page of commands to it precede theirs:
// they are then found at 256 commands per 50 ms.
package outbox
