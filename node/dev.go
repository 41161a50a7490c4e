package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
)

// RunDev runs a cluster of several nodes in this process, on one embedded
// store: a real cluster, with gossip, links and forwarding, for trying things
// out. Node i listens for clients on cfg.Listen's port plus i; its other ports
// are any free ones on the loopback interface. cfg.Ready is called once per
// node, in order. Nodes are called dev1, dev2 and so on, or cfg.Name1, with a
// "-" before the number if cfg.Name ends with a digit. RunDev returns when all
// nodes have ended, and ends them all when one fails.
func RunDev(ctx context.Context, cfg Config, nodes int) error {
	if nodes < 1 {
		return &ConfigError{fmt.Errorf("%d nodes make no cluster: ask for 1 or more", nodes)}
	}
	host, port, err := splitHostPort(cfg.Listen)
	if err != nil {
		return &ConfigError{fmt.Errorf("listen %q is no address: %w", cfg.Listen, err)}
	}
	if port != 0 && port+nodes-1 > maxPort {
		return &ConfigError{fmt.Errorf("listen %q leaves no ports for %d nodes: node i listens on the port plus i", cfg.Listen, nodes)}
	}
	ready := cfg.Ready
	if ready == nil {
		ready = func(string) {}
	}

	// The nodes are made one after another, so that each knows the gossip
	// address of those before it, and a taken port is found at once.
	var made []*node
	fail := func(err error) error {
		for _, n := range made {
			n.abandon()
		}
		var wrong *ConfigError
		if errors.As(err, &wrong) {
			return err
		}
		return fmt.Errorf("ganglion: %w", err)
	}
	var mu sync.Mutex
	urls, next := make([]string, nodes), 0
	for i := range nodes {
		c := cfg
		c.Name = devName(cfg.Name, i+1)
		c.Origins = append(slices.Clone(c.Origins), "localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*")
		c.PeerListen, c.GossipListen = "127.0.0.1:0", "127.0.0.1:0"
		if port != 0 {
			c.Listen = net.JoinHostPort(host, strconv.Itoa(port+i))
		}
		for _, n := range made {
			c.Join = append(c.Join, n.cluster.Addr())
		}
		c.Ready = func(url string) {
			mu.Lock()
			defer mu.Unlock()
			for urls[i] = url; next < nodes && urls[next] != ""; next++ {
				ready(urls[next])
			}
		}
		if c, err = c.withDefaults(); err != nil {
			return fail(err)
		}
		n, err := newNode(ctx, c)
		if err != nil && ctx.Err() != nil {
			_ = fail(err)
			return nil // stopped while it waited for the database
		}
		if err != nil {
			return fail(err)
		}
		made = append(made, n)
	}

	made[0].warnOfTrust()
	group, ctx := errgroup.WithContext(ctx)
	for _, n := range made {
		group.Go(func() error { return n.run(ctx) })
	}
	return group.Wait()
}

// devName returns the name of the n-th node: dev1, or of a cluster whose name
// ends with a digit, such as n1, n1-1.
func devName(base string, n int) string {
	base = cmp.Or(base, "dev")
	if last := base[len(base)-1]; '0' <= last && last <= '9' {
		base += "-"
	}
	return base + strconv.Itoa(n)
}

// abandon gives up a node that was made and never run.
func (n *node) abandon() {
	n.front.close()
	n.peers.Close()
	if n.admin != nil {
		n.admin.Close()
	}
	n.cluster.Close()
	n.pool.Close()
	n.store.Close()
}
