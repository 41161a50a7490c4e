package node

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
)

// RunDev runs a cluster of several nodes in this process on one embedded store, for
// development. It is a real cluster, with gossip, links and forwarding.
//
// Node i, counting from 0, listens for clients on the port of cfg.Listen plus i, and
// on free loopback ports for everything else. The names are dev1, dev2 and so on, or
// cfg.Name with the number, after a "-" if cfg.Name ends with a digit. RunDev calls
// cfg.Ready once per node, in order. It returns when all nodes have stopped, and stops
// all if one fails.
func RunDev(ctx context.Context, cfg Config, nodes int) error {
	if nodes < 1 {
		return &ConfigError{fmt.Errorf("a cluster cannot have %d nodes: use 1 or more", nodes)}
	}
	host, port, err := splitHostPort(cfg.Listen)
	if err != nil {
		return &ConfigError{fmt.Errorf("the value %q of Listen (--listen) is not an address: %w", cfg.Listen, err)}
	}
	if port != 0 && port+nodes-1 > maxPort {
		return &ConfigError{fmt.Errorf("the value %q of Listen (--listen) leaves no ports for %d nodes: node i listens on the port plus i", cfg.Listen, nodes)}
	}
	made, err := makeDevNodes(ctx, cfg, host, port, nodes)
	if err != nil {
		for _, n := range made {
			n.opened.close()
		}
		return startError(ctx, err)
	}
	made[0].warnOfTrust()
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range made {
		group.Go(func() error { return n.run(ctx) })
	}
	return group.Wait()
}

// makeDevNodes makes the nodes one after another, so each knows the gossip addresses
// of the earlier ones, and a taken port is found immediately. If it fails, it also
// returns the nodes made so far.
func makeDevNodes(ctx context.Context, cfg Config, host string, port, nodes int) (made []*node, err error) {
	ready := announceInOrder(cfg.Ready, nodes)
	for i := range nodes {
		c := cfg
		c.Name, c.devConsole = devName(cfg.Name, i+1), true
		c.Origins = append(slices.Clone(c.Origins), "localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*")
		c.PeerListen, c.GossipListen = "127.0.0.1:0", "127.0.0.1:0"
		if port != 0 {
			c.Listen = net.JoinHostPort(host, strconv.Itoa(port+i))
		}
		for _, n := range made {
			c.Join = append(c.Join, n.cluster.Addr())
		}
		c.Ready = func(url string) { ready(i, url) }
		if c, err = c.withDefaults(); err != nil {
			return made, err
		}
		n, err := newNode(ctx, c)
		if err != nil {
			return made, err
		}
		made = append(made, n)
	}
	return made, nil
}

// announceInOrder returns a function that passes the URL of the i-th of n nodes to
// ready, after those of all earlier nodes.
func announceInOrder(ready func(url string), n int) func(i int, url string) {
	var mu sync.Mutex
	urls, next := make([]string, n), 0
	return func(i int, url string) {
		mu.Lock()
		defer mu.Unlock()
		for urls[i] = url; next < n && urls[next] != ""; next++ {
			if ready != nil {
				ready(urls[next])
			}
		}
	}
}

// devName returns the name of the n-th node, counting from 1: dev1, or n1-1 if the
// base is n1.
func devName(base string, n int) string {
	base = cmp.Or(base, "dev")
	if last := base[len(base)-1]; '0' <= last && last <= '9' {
		base += "-"
	}
	return base + strconv.Itoa(n)
}
