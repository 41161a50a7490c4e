package loadgen

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	client "github.com/ganglion-es/ganglion/client/go"
)

// maxOpen bounds the unanswered commands of a connection; further ones fail with
// queue_full.
const maxOpen = 10_000

// connection is a client and its current network connection.
type connection struct {
	*client.Client
	mu   sync.Mutex
	conn net.Conn
}

// newConnection makes the n-th client, counting from 1. It connects in the
// background until ctx ends.
func (l *Load) newConnection(ctx context.Context, n int) (*connection, error) {
	c := new(connection)
	dialer := net.Dialer{Timeout: 10 * time.Second}
	o := client.Options{
		URLs: l.cfg.URLs, ClientID: fmt.Sprintf("bench-%d", n), Queue: maxOpen,
		HTTPClient: &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dialer.DialContext(ctx, network, addr)
				if err == nil {
					l.connects.Add(1)
					c.mu.Lock()
					c.conn = conn
					c.mu.Unlock()
				}
				return conn, err
			},
		}},
		OnError: func(e *client.Error) {
			if e.Code == client.CodeProtocol || e.Code == client.CodeGap {
				l.addViolation("client %d: %s", n, e.Message)
			}
		},
	}
	if l.cfg.Token != "" {
		o.ClientID, o.Token = "", func(context.Context) (string, error) { return l.cfg.Token, nil }
	}
	var err error
	c.Client, err = client.Connect(ctx, o)
	return c, err
}

// awaitConnected waits until the n-th client has been connected once.
func (c *connection) awaitConnected(ctx context.Context, n int, timeout time.Duration) error {
	for status := range c.Statuses(ctx) {
		if status == client.Live || status == client.CatchingUp {
			return nil
		}
	}
	if err := c.Err(); err != nil {
		return err
	}
	if err := c.ConnErr(); err != nil {
		return fmt.Errorf("no gateway accepts client %d: %w", n, err)
	}
	return fmt.Errorf("client %d could not connect within %v", n, timeout)
}

// cut closes the network connection without a close frame, as a broken network
// does. It returns false if the client has none.
func (c *connection) cut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return false
	}
	_ = c.conn.Close()
	c.conn = nil
	return true
}
