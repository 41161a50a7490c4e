package postgrestest

import (
	"context"
	"net"
)

// freePort finds a port that nobody listens on. Another process may take it
// before the server does; then the server ends at once, and says so.
func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
