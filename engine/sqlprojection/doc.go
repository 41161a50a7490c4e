// Package sqlprojection defines projections that write with SQL: for tables that
// the rows of a projection.Table cannot have, such as full text, geometry or
// relations. They need PostgreSQL; with the embedded store a program does not
// start.
//
//	var Prices = sqlprojection.Define(&Catalog, sqlprojection.SQL{
//		Name:  "prices",
//		Setup: []string{`create table price (item text primary key, cents bigint not null)`},
//		On: sqlprojection.Handlers{
//			sqlprojection.On(func(ctx context.Context, tx pgx.Tx, at projection.At, e AuctionOpened) error {
//				_, err := tx.Exec(ctx, `insert into price values ($1, $2)`, e.Item, e.Reserve)
//				return err
//			}),
//		},
//	})
//
// # Exactly once
//
// Handlers get the events in the order of the log. The checkpoint moves in the
// transaction in which they write, and only from where the writer has seen it, so
// every event takes effect exactly once: after a lost connection, after the end of
// the process, and if two nodes believe that they work on the projection. That
// holds for what handlers write with their transaction and for nothing else: a
// handler must not send mail or call another service.
//
// # Builds
//
// A change of Setup, Revision or the events with their forms makes another
// fingerprint, and with it a build that begins at the first event, beside the one
// that is read. Each build has a schema of its own, SCHEMA_NAME_BUILD with the
// schema of the log, in which Setup runs once and which search_path names first for
// handlers and readers. The role needs the right to create schemas in the
// database. A schema is dropped with its build.
//
// # Errors
//
// A handler that fails or panics, or whose data the database refuses (SQLSTATE 22,
// 23), is tried three times. Then the later events of that stream wait for an
// operator, and all other streams continue. A lost connection, a deadlock or a
// server without resources is no such error: the batch is tried again until it
// succeeds. If a handler catches an error of a statement, PostgreSQL refuses the
// next one, unless the handler used a savepoint (tx.Begin).
//
// # Reading
//
// A query.Func whose From names the projection reads the build that answers with
// [Definition.Tx]. Unlike handlers of other projections, these have no scenarios:
// test them with a PostgreSQL server.
package sqlprojection
