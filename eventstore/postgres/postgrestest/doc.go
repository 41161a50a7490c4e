// Package postgrestest gives tests a real PostgreSQL: the server of DATABASE_URL, or
// a temporary cluster of the server binaries on the machine. It never skips a test.
// Without either, the test fails and names the package to install.
//
//	func TestMain(m *testing.M) { postgrestest.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		store, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.URL(t)})
//		…
//	}
//
// URL gives each test its own database, with the log's tables, and drops it at the
// end of the test. A test that stops, crashes or restores a server starts its own
// with StartServer.
//
// The temporary cluster does not wait for the disk (fsync off), since its data is
// removed after the tests. Options.Durable turns fsync on.
package postgrestest
