// Package postgres keeps the log in PostgreSQL, version 14 or newer. It is the
// store of a cluster: every node opens one.
//
// # Appending
//
// A Store has one connection for appends, and sends one batch at a time, as
// one call of one function, which is one transaction. The function takes a
// lock that all appends to the log share, so positions are dense and in
// commit order: a reader who has seen position p knows that nothing at or
// below p will ever appear.
//
// A connection that dies between call and answer leaves the outcome unknown.
// The same batch is then sent again on a new connection, until its outcome is
// known or Config.Deadline has passed. The call never runs under a context
// that ends, and nothing ever asks the server to cancel it: that would turn a
// commit that waits for its synchronous standby into one that only the primary
// has. For the same reason a batch that is sent again writes a message into
// the write-ahead log, and so waits for the standby behind the first attempt.
//
// # Reading
//
// Reads take a connection from a small pool. Pages are checked: a hole is an
// *eventstore.DamagedError.
//
// # A log that goes back
//
// On every new connection, and in every append, the newest commit that the
// Store has seen must be there still. If it is not, the log was restored from
// an older copy, or continued on a standby that lagged: every method returns
// eventstore.ErrWentBack, until Check finds that an operator has accepted the
// loss.
//
// # Rights
//
// UPDATE, DELETE and TRUNCATE on commits are revoked from the role that
// migrates, and a trigger refuses them to everybody. The role that owns the
// tables can undo both: where that matters, let another role own them and
// grant the application's role what docs/eventstore.md lists.
//
// # Faults
//
// A method that can't do its work says eventstore.ErrUnavailable, with a
// sentence for the operator, and works again as soon as the cause is gone:
// connections are made anew, on whichever host of the URL is the primary. A
// read waits for a silent server at most Config.Deadline. No clock orders
// anything; deadlines run on Go's monotonic one, and outcomes expire by the
// server's.
package postgres
