package driver

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var errNoCancel = errors.New("this connection sends no cancel requests")

// Conn is a connection that never asks the server to cancel a statement. Only one
// goroutine may use it.
type Conn struct {
	*pgx.Conn
	socket net.Conn
}

// ConnectUncancelled makes a Conn, and prepares its session. notice is called
// with every notice of the server.
func (d *Dialer) ConnectUncancelled(notice func(*pgconn.Notice), prepare func(context.Context, *pgx.Conn) error) (*Conn, error) {
	limit := d.login.get()
	ctx, cancel := context.WithTimeout(context.Background(), d.boundWith(limit))
	defer cancel()
	config := d.config.ConnConfig.Copy()
	if err := d.prepare(ctx, config, limit); err != nil {
		return nil, err
	}
	var (
		dial      = config.DialFunc
		connected atomic.Bool
	)
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() {
			return nil, errNoCancel
		}
		return dial(ctx, network, addr)
	}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n) }
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	connected.Store(true)
	c := &Conn{conn, under(conn.PgConn().Conn())}
	if err = prepare(ctx, conn); err != nil {
		c.Close()
		if ctx.Err() != nil {
			d.login.ranOut(limit)
		}
		return nil, err
	}
	return c, nil
}

// Alive reports whether the idle connection is still open at the server.
func (c *Conn) Alive() bool { return alive(c.socket) }

// Call runs a prepared statement with binary parameters and a binary result. If
// the server is silent for the limit, Call closes the connection.
func (c *Conn) Call(name string, values [][]byte, limit time.Duration) (*pgconn.Result, error) {
	socket := c.socket
	silence := time.AfterFunc(limit, func() { socket.Close() })
	defer silence.Stop()
	binary := []int16{1} // for all parameters and all columns
	result := c.PgConn().ExecPrepared(context.Background(), name, values, binary, binary).Read()
	return result, result.Err
}

// Close closes the connection, and waits for its goroutine to end.
func (c *Conn) Close() {
	c.socket.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.PgConn().Close(ctx)
	<-c.PgConn().CleanupDone()
}

// Attempts describes the failed attempts to connect in one line. It returns "" if the
// error is of something else.
func Attempts(err error) string {
	var lines []string
	var search *SearchError
	if errors.As(err, &search) {
		for _, host := range search.Hosts {
			lines = append(lines, attempts(host)...)
		}
	} else {
		lines = attempts(err)
	}
	var distinct []string
	for _, line := range lines {
		if line = OneLine(line); line != "" && !slices.Contains(distinct, line) {
			distinct = append(distinct, line)
		}
	}
	return strings.Join(distinct, "; ")
}

func attempts(err error) []string {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		if err = errors.Unwrap(connect); err == nil {
			return nil
		}
	}
	return strings.Split(err.Error(), "\n")
}

// OneLine replaces each run of white space by a space.
func OneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
