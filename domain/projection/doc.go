// Package projection is the programming model of the read side: rows that are
// folded from events.
//
// A projection is one call of [Define] with a row type, a handler for each event
// that concerns it, the indexes that queries use, and scenarios:
//
//	var Listings = projection.Define(&Catalog, projection.Table[Listing]{
//		Name: "listings",
//		On: projection.Handlers[Listing]{
//			projection.On(func(_ projection.At, e AuctionOpened, l *Listing) { l.Item = e.Item }),
//		},
//		Indexes:   [][]string{{"item"}},
//		Scenarios: projection.Scenarios{…},
//	})
//
// Handlers are pure: no clock, no I/O, no randomness. Everything that a handler
// may know is an argument, so a fold can stop anywhere, continue on another
// node, and start again from the first event. A row is a value: between two
// events it is stored as JSON, and only what JSON keeps survives.
//
// # Rows and keys
//
// An event concerns the row whose key is the id of the event's stream, or the
// rows that [OnKey] or [OnKeys] name. A handler gets the row, or a zero row if
// there is none; the result is stored under the key. A row for which
// [Table.Gone] reports true is deleted, and the next event for its key starts
// with a zero row again.
//
// A row's JSON has at most [MaxRowBytes].
//
// # Columns
//
// The members that [Table.Indexes] names are the projection's columns. Only
// columns can be used in the conditions and the order of queries. A column is a
// bool, an integer, a float, a string, a time.Time, or a pointer to one of these;
// a nil pointer is an absent value.
//
// # In memory
//
// [DefineMemory] registers a projection of another form: one state of any Go type,
// which every node folds from the whole log and keeps in memory. It has handlers
// made by [On] and scenarios that end with Becomes, and neither keys nor builds.
// Go code reads it with [InMemory.Read].
//
// A node is not ready before its states are within a second of the head of the
// log. If an event cannot be folded, because its handler panics or a newer program
// wrote it, the state of that projection stops on this node: reads fail with
// [ErrNotCurrent] until the node is started with a program that can fold it.
//
// # Builds
//
// A projection's [Definition.Fingerprint] covers its row type, indexes, segments,
// the events that it reads with their forms, and its Revision. A program with
// another fingerprint folds the log again, into a build of its own, while the
// build before serves. The bodies of handlers are not in the fingerprint: raise
// Revision when they change. Package domaintest keeps the outcomes of all
// scenarios in golden files and fails if they change without that.
//
// # Concurrency
//
// Definitions are immutable once everything is defined, and safe for concurrent
// use; rows are not. A handler that panics panics through this package. The
// processor recovers, and blocks the row's later events until an operator
// decides.
package projection
