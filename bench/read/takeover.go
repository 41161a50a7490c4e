package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	ganglion "github.com/ganglion-es/ganglion/client/go"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/node"
)

// takeoverRate is the number of events per second while an owner is killed.
const takeoverRate = 100

// takeover measures the time from the death of the process that writes the rows to
// the next row that another one writes: for our nodes, of which three share the
// segments, and for two workers that share a lease of 10 s. The next row is one of an
// event that was committed after the death.
func (b *bench) takeover(ctx context.Context, w io.Writer, kills int) ([]report.Ratio, error) {
	ours, err := b.nodesTakeOver(ctx, kills)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	hand, err := b.leaseTakesOver(ctx, kills)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	out := report.Table(w)
	fmt.Fprintf(out, "owner killed to next row, %d events/s\tkills\tp50\tp99\tbest\t\n", takeoverRate)
	for _, s := range []struct {
		name string
		took []time.Duration
	}{{"ours, three nodes", ours}, {"lease of 10 s by hand", hand}} {
		slices.Sort(s.took)
		fmt.Fprintf(out, "%s\t%d\t%.0f ms\t%.0f ms\t%.0f ms\t\n", s.name, len(s.took),
			report.MS(report.Percentile(s.took, 0.5)), report.MS(report.Percentile(s.took, 0.99)), report.MS(s.took[0]))
	}
	p99 := report.MS(report.Percentile(ours, 0.99))
	return []report.Ratio{
		{Name: "takeover: p99 of ours, ms", Values: []float64{p99}, AtMost: 1000},
		{Name: "takeover: p99 of ours to the lease", Values: []float64{p99 / report.MS(report.Percentile(hand, 0.99))}},
	}, out.Flush()
}

// trio are three nodes with the names n0 to n2.
type trio struct {
	store  string
	gossip [3]string
	addr   [3]string // for clients
	nodes  [3]*process
}

func (t *trio) start(i int) (err error) {
	if t.nodes[i], err = start(fmt.Sprint("n", i), "node", fmt.Sprint("n", i), t.store, t.gossip[i], strings.Join(t.gossip[:], ","), ""); err != nil {
		return err
	}
	t.addr[i], err = t.nodes[i].ready(nodeReady)
	return err
}

func (t *trio) stop() {
	for _, p := range t.nodes {
		if p != nil {
			p.stop()
		}
	}
}

// settled is longer than the 2 s after which a segment moves to a member that has
// joined.
const settled = 3 * time.Second

// owner waits until all three nodes are ready and the same one of them has worked on
// the projection for a while, and returns its index.
func (t *trio) owner(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last, since := -1, time.Now()
	for {
		status, err := clusterOf(ctx, t.addr[0])
		var owners []int
		ready := 0
		for _, m := range status.Members {
			if m.State == "ready" {
				ready++
			}
			if m.Projections == nil {
				ready = -3 // it did not answer
				continue
			}
			for _, s := range m.Projections.Segments {
				if s.Projection == "tallies" && s.Stopped == "" {
					owners = append(owners, int(m.ID[1]-'0'))
				}
			}
		}
		switch {
		case err != nil || ready != 3 || len(owners) != 1:
			last = -1
		case owners[0] != last:
			last, since = owners[0], time.Now()
		case time.Since(since) > settled:
			return last, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return 0, fmt.Errorf("%d nodes are ready, with owners %v: %w", ready, owners, errors.Join(err, ctx.Err()))
		}
	}
}

func clusterOf(ctx context.Context, addr string) (s node.ClusterStatus, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/cluster?projections=true", http.NoBody)
	if err != nil {
		return s, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// nodesTakeOver kills the owner of the only segment, and starts it again. Commands
// go to another node; those for aggregates of the killed one wait for their new
// owner.
func (b *bench) nodesTakeOver(ctx context.Context, kills int) (took []time.Duration, err error) {
	if _, err := b.server.Admin.Exec(ctx, `create database takeover`); err != nil {
		return nil, err
	}
	t := &trio{store: b.server.URL("takeover")}
	defer t.stop()
	for i := range t.gossip {
		if t.gossip[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	for i := range t.nodes {
		if err := t.start(i); err != nil {
			return nil, err
		}
	}
	observer, err := observe(ctx, t.store, `select coalesce(max(pos), 0) from processor_checkpoint`, `select coalesce(max(pos), 0) from commit`)
	if err != nil {
		return nil, err
	}
	defer observer.close()
	for range kills {
		owner, err := t.owner(ctx)
		if err != nil {
			return nil, err
		}
		d, err := observer.kill(ctx, t.nodes[owner], "http://"+t.addr[(owner+1)%3])
		if err != nil {
			return nil, err
		}
		took = append(took, d)
		if err := t.start(owner); err != nil {
			return nil, err
		}
	}
	return took, nil
}

// kill kills a node while commands go to another, and returns the time to the next
// row.
func (o *observer) kill(ctx context.Context, p *process, url string) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{url}, ClientID: "ada"})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	sending := every(ctx, time.Second/takeoverRate, func(n int) error {
		_, err := client.Aggregate("counter", fmt.Sprint("c", n%200)).Send(ctx, "add", add{By: 1})
		return err
	})
	d, err := o.measure(ctx, p)
	cancel()
	return d, errors.Join(err, sending())
}

// every runs do at a fixed rate until ctx ends, at most 256 calls at a time. wait
// returns the first error before that.
func every(ctx context.Context, interval time.Duration, do func(n int) error) (wait func() error) {
	var all errgroup.Group
	all.SetLimit(256)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n, next := 0, time.Now(); ctx.Err() == nil; n, next = n+1, next.Add(interval) {
			time.Sleep(time.Until(next))
			all.Go(func() error {
				if err := do(n); err != nil && ctx.Err() == nil {
					return err
				}
				return nil
			})
		}
	}()
	return func() error { <-ended; return all.Wait() }
}
