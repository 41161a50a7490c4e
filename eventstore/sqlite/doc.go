// Package sqlite keeps the log in a SQLite file, for one process: development,
// tests, and small deployments without a database server.
//
// The schema, the checks and the promises are those of package postgres; only
// one process at a time may write to a directory, which a lock file enforces;
// others may read it meanwhile (Config.ReadOnly).
// Within that process any number of Stores may be open on one directory; they
// share one writer, and each gathers its own batches. A commit is on the disk
// before anybody hears of it (write-ahead log, synchronous=FULL).
//
// Events can't be changed or deleted through the file's own SQL either:
// triggers refuse it. Whoever has to, drops the triggers first.
package sqlite
