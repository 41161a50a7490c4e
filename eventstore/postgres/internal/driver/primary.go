package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// askEvery is the time after which a standby is asked again whether it is the
	// primary now, and a server that refused a connection is tried again.
	askEvery = 100 * time.Millisecond
	// knownFor bounds how long the result of a search is used.
	knownFor = time.Second
)

// ErrStandby reports that the server follows a primary.
var ErrStandby = errors.New("the server is a standby, and only the primary serves a log: " +
	"name the primary in the URL, or all servers, as in postgres://host1,host2/database, or promote this server")

// SearchError reports that no host of the URL is the primary. It has an error for each host.
type SearchError struct{ Hosts []error }

func (e *SearchError) Error() string { return errors.Join(e.Hosts...).Error() }

// Unwrap returns the errors of the hosts.
func (e *SearchError) Unwrap() []error { return e.Hosts }

// host is a server of the URL, with and without TLS.
type host []*pgconn.FallbackConfig

// hostsOf returns the servers of a URL, in its order.
func hostsOf(c *pgx.ConnConfig) (hosts []host) {
	all := append([]*pgconn.FallbackConfig{{Host: c.Host, Port: c.Port, TLSConfig: c.TLSConfig}}, c.Fallbacks...)
	for _, f := range all {
		if n := len(hosts); n > 0 && hosts[n-1][0].Host == f.Host && hosts[n-1][0].Port == f.Port {
			hosts[n-1] = append(hosts[n-1], f)
		} else {
			hosts = append(hosts, host{f})
		}
	}
	return hosts
}

// only makes the host the only one of a configuration.
func (h host) only(c *pgx.ConnConfig) {
	c.Host, c.Port, c.TLSConfig, c.Fallbacks = h[0].Host, h[0].Port, h[0].TLSConfig, h[1:]
}

// primary is the result of the newest search.
type primary struct {
	searching chan struct{} // has one element while a search runs

	mu    sync.Mutex
	host  int
	until time.Time // the host is the primary until then
	ended time.Time // of the newest search that failed
	err   error
}

// forget makes the next connection search.
func (p *primary) forget() {
	p.mu.Lock()
	p.until = time.Time{}
	p.mu.Unlock()
}

// find returns the host that is the primary. Concurrent callers share a search. The error
// is a *SearchError if no host is.
func (d *Dialer) find(ctx context.Context) (host, error) {
	p, arrived := &d.primary, time.Now()
	select {
	case p.searching <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.searching }()
	p.mu.Lock()
	i, known, failed, err := p.host, time.Now().Before(p.until), p.ended.After(arrived), p.err
	p.mu.Unlock()
	switch {
	case known:
		return d.hosts[i], nil
	case failed:
		return nil, err
	}
	i, err = d.search(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if err != nil {
		p.ended, p.err = now, err
		return nil, err
	}
	p.host, p.until = i, now.Add(knownFor)
	return d.hosts[i], nil
}

// search asks all hosts concurrently, so a silent one delays nothing, and returns the
// index of the first that is the primary. While some host has not answered, it asks the
// others again: one of them may be promoted.
func (d *Dialer) search(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	type answer struct {
		host int
		err  error
	}
	answers := make(chan answer)
	for i, h := range d.hosts {
		asking.Go(func() {
			for ctx.Err() == nil {
				d.ask(ctx, h, func(err error) {
					select {
					case answers <- answer{i, err}:
					case <-ctx.Done():
					}
				})
				pause(ctx, askEvery)
			}
		})
	}
	failed := &SearchError{make([]error, len(d.hosts))}
	for missing := len(d.hosts); missing > 0; {
		select {
		case a := <-answers:
			if a.err == nil {
				return a.host, nil
			}
			if failed.Hosts[a.host] == nil {
				missing--
			}
			failed.Hosts[a.host] = a.err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return 0, failed
}

// ask connects to a host and reports nil if it is the primary. As long as it is a standby,
// ask reports that again and again. It returns after another error, or when ctx ends.
func (d *Dialer) ask(ctx context.Context, h host, report func(error)) {
	c := d.config.ConnConfig.Copy()
	h.only(c)
	c.ConnectTimeout = d.login.get()
	c.ValidateConnect = func(_ context.Context, c *pgconn.PgConn) error { LoggedIn(c); return nil }
	plain, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		report(err)
		return
	}
	conn := &Conn{plain, under(plain.PgConn().Conn())}
	defer conn.Close()
	for {
		silence, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
		// Closing the socket ends the query without a request to cancel it.
		stop := context.AfterFunc(silence, func() { conn.socket.Close() })
		standby, err := InRecovery(context.Background(), conn.PgConn())
		stop()
		cancel()
		switch {
		case err != nil:
			report(fmt.Errorf("%s: %w", c.Host, err))
			return
		case !standby:
			report(nil)
			return
		}
		report(fmt.Errorf("%s: %w", c.Host, ErrStandby))
		if pause(ctx, askEvery); ctx.Err() != nil {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// InRecovery reports whether the server is a standby.
func InRecovery(ctx context.Context, c *pgconn.PgConn) (bool, error) {
	result := c.ExecParams(ctx, `select pg_is_in_recovery()`, nil, nil, nil, nil).Read()
	return len(result.Rows) == 1 && string(result.Rows[0][0]) == "t", result.Err
}
