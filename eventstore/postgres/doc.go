// Package postgres keeps the log in PostgreSQL, version 14 or newer. It is the
// store of a cluster: every node opens one.
//
// # Appending
//
// A Store has one connection for appends. It sends one batch at a time, as one
// call of one SQL function, which is one transaction. The function takes a lock
// that all appends to the log share. Therefore positions have no hole and are in
// commit order: after position p is visible, no new event appears at or below p.
//
// If the connection breaks between call and result, the outcome is unknown. The
// Store sends the same batch again on a new connection, until the outcome is
// known or Config.Deadline has passed. The call has no deadline, and the Store
// never asks the server to cancel it, because a commit that is cancelled while it
// waits for its synchronous standby stays on the primary alone. For the same
// reason a batch that is sent again writes a message into the write-ahead log: it
// then waits until the standby has that message and, before it, the first
// attempt.
//
// # Reading
//
// Reads share a small pool of connections. Pages are checked; the error for a hole
// is an *eventstore.DamagedError.
//
// # A log that goes back
//
// On every new connection and in every append, the Store checks that the log
// still has the newest commit that it has seen. If not, the log was restored from
// an older copy, or a standby that lagged was promoted. Every method then returns
// eventstore.ErrWentBack until Resume.
//
// # Rights
//
// The migration revokes UPDATE, DELETE and TRUNCATE on commits from its role, and
// a trigger refuses them to all roles. The owner of the tables can undo both. If
// that matters, let another role own the tables, and grant the application's role
// the rights that docs/postgresql.md lists.
//
// # Faults
//
// While the database is unusable, methods return eventstore.ErrUnavailable with
// advice for the operator. They work again as soon as the cause is gone. A new
// connection goes to the host of the URL that is the primary. A read waits at
// most Config.Deadline for a silent server. The order of commits depends on no
// clock: deadlines use Go's monotonic clock, and outcomes expire by the server's
// clock.
//
// # Files
//
// store.go opens and closes; session.go prepares connections; pool.go lends them
// to reads; append.go and params.go send batches; load.go sends several loads in
// one round trip; migrate.go and inspect.go prepare the database. The workarounds
// for the driver are in internal/driver.
package postgres
