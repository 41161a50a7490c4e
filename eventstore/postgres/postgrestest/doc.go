// Package postgrestest gives tests a real PostgreSQL: the one that
// DATABASE_URL names, or a throw-away cluster made from the server binaries on
// the machine. A test is never skipped: without either it fails, and says what
// to install.
//
//	func TestMain(m *testing.M) { postgrestest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		store, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.URL(t)})
//		…
//	}
//
// URL gives each test a database of its own, which has the log's tables and
// is dropped at the test's end. Tests that stop, crash or restore a server
// start one for themselves with StartServer.
//
// The throw-away cluster does not wait for the disk (fsync off): it is gone
// after the tests anyhow. Server.Options.Durable turns that on.
package postgrestest
