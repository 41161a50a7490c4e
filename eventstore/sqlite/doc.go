// Package sqlite keeps the log in a SQLite file, for one process: development,
// tests, and small deployments without a database server.
//
// Its schema, checks and promises are those of package postgres. A lock file
// ensures that only one process at a time writes to a directory. Other processes
// can read it (Config.ReadOnly). The writing process can open any number of
// Stores on a directory. They share one connection for writes, and each gathers
// its own batches. A commit is on the disk before any caller gets its result
// (write-ahead log, synchronous=FULL).
//
// Triggers refuse SQL that changes or deletes events. An operator who must do so
// drops the triggers first.
package sqlite
