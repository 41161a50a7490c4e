// Package driver contains the workarounds for pgx 5.12, the PostgreSQL driver.
// Each section describes one workaround and when it can be removed. Read them
// before you update pgx.
//
// # Cancel requests
//
// When a context ends or a socket breaks, pgx dials a second connection and asks
// the server to cancel the statement. A commit that is waiting for its
// synchronous standby then stops waiting, and the server reports success although
// only the primary has the commit. [Conn] therefore runs statements without a
// context, closes the socket if the server is silent, and refuses every later
// dial.
//
// Not needed once pgx has an option to close a connection without a cancel
// request (pgconn, asyncClose). TestCutConnectionGivesTheTrueOutcome, like every
// test of package postgres that uses the proxy, fails if a cancel request is
// sent.
//
// # Silent servers
//
// When pgx closes a connection to a server that does not answer, it waits up to
// 15 s for the server, in a separate goroutine and in Pool.Close. [Dialer] knows
// all sockets, and [Dialer.Cut] closes them.
//
// Not needed once asyncClose takes its deadline from the configuration.
// TestFaultCloseWhileSilent shows it.
//
// # Pings
//
// A pool pings a connection that was idle for more than a second before it lends
// it, which costs a reader one round trip. [New] replaces the ping with a check
// of the socket that does not block.
//
// Not needed once the pool does the same. TestIdleConnectionIsNotPinged shows
// it.
//
// # Limits of a login
//
// pgx has one limit, ConnectTimeout, for the time to reach a host and for the
// login there. An unreachable host should fail soon. A busy server needs time,
// and completes no login if every client gives up early. [Dialer] bounds the dial
// by the configured limit, and doubles the limit of the login after each login
// that exceeds it.
//
// Not needed once pgx has two limits and the limit of the login can change.
// TestFaultLoginsTakeLongerThanTheirLimit shows it.
//
// # Several hosts
//
// pgx tries the hosts of a URL one after the other, so a frozen primary costs each
// connection the limit of a login, and it stops at the first host that lacks the database,
// which may be a standby that lags. [Dialer.BeforeConnect] asks all hosts concurrently and
// gives pgx the primary alone.
//
// Not needed once pgx does the same. TestFaultSilentHostDelaysNothing and
// TestFaultDatabaseThatAStandbyLacks show it.
//
// # Lost packets
//
// pgx leaves retransmission to the kernel, which doubles its interval: after an
// interruption of the network, a connection stays dead for as long again. For the
// first packet of a connection, dialRetrying dials again every second. For later
// packets, the socket has the option TCP_USER_TIMEOUT.
//
// Not needed once both are in pgconn's configuration.
//
// # Encoding
//
// pgx encodes a slice as an array through reflection. For a batch of 1,000
// commands with 23 columns that costs more than the server's insert. [Array]
// appends to a buffer that is reused for the next batch. For the same reason,
// rows are decoded from their binary form, with [Micros], instead of by Scan.
//
// Not needed once pgx is as fast; BenchmarkAppend of package postgres measures
// it. TestArrayIsEncodedAsByPgtype compares the two encodings.
//
// # Types of Go values
//
// pgx has a table of the PostgreSQL types that it assumes for Go types if it does
// not know a parameter's: in the modes QueryExecModeExec and
// QueryExecModeSimpleProtocol, which a URL can set, and for types such as arrays of
// an enumeration. The table has generic types for each Go type (Array, FlatArray),
// whose methods are 1.4 MB of a program. The build tag nopgxregisterdefaulttypes,
// with which programs are built for release, omits the table. [RegisterTypes]
// registers it for the connections of a store, without pgx's generic types.
//
// Not needed once pgx registers types without these methods.
// TestRegisteredTypesAreThoseOfPgx compares the two tables, and
// TestHandlersWriteValuesWhoseTypesTheServerDoesNotDescribe needs it.
//
// # Errors
//
// The text of a connect error has one line per attempt. Attempts with and without
// TLS at one address often fail with the same text. [Attempts] joins the distinct
// texts in one line.
package driver
