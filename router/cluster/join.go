package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// rejoinEvery is the time between attempts to join seeds and lost members that
// this node does not see. Gossip alone does not merge parts of a cluster that were
// cut off from each other: a quiet cluster sends nothing to dead members.
const rejoinEvery = 5 * time.Second

// firstRejoin is the time until the second attempt. It doubles up to rejoinEvery: a
// node that starts before all others is alone until they answer.
const firstRejoin = 100 * time.Millisecond

// maxJoins bounds concurrent attempts to join: a name may resolve to hundreds of
// addresses.
const maxJoins = 16

// seek tries to join the seeds until ctx ends. It closes first when it has tried
// each of them once.
func (c *Cluster) seek(ctx context.Context, first chan<- struct{}) {
	s := seeker{c: c, failed: make(map[string]bool)}
	for _, name := range c.cfg.Join {
		seed, err := parseSeed(name)
		if err != nil {
			continue // not possible: New checks the seeds
		}
		s.seeds = append(s.seeds, seed)
	}
	every := firstRejoin
	tick := time.NewTicker(every)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		s.round(ctx, turn)
		if turn == 0 {
			close(first)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if every < rejoinEvery {
			every = min(2*every, rejoinEvery)
			tick.Reset(every)
		}
	}
}

// seeker is the state of the search, used by one goroutine.
type seeker struct {
	c      *Cluster
	seeds  []seed
	failed map[string]bool // seeds that were unreachable in the last round
}

// round tries to join one lost member and the seeds, at all addresses at which
// gossip knows no live node. It returns when all attempts have ended.
func (s *seeker) round(ctx context.Context, turn int) {
	found := make([][]netip.AddrPort, len(s.seeds))
	errs := make([]error, len(s.seeds))
	var wg sync.WaitGroup
	for i, seed := range s.seeds {
		wg.Go(func() {
			var ips []netip.Addr
			ips, errs[i] = s.c.cfg.resolve(ctx, seed.host)
			for _, ip := range ips {
				found[i] = append(found[i], netip.AddrPortFrom(ip, seed.port))
			}
		})
	}
	wg.Wait()

	sight := s.c.now.Load()
	var mu sync.Mutex
	results := make(map[netip.AddrPort]error)
	slots := make(chan struct{}, maxJoins)
	try := func(addr netip.AddrPort) {
		if _, ok := results[addr]; ok || sight.alive[addr] {
			return // alive includes this node's own address
		}
		results[addr] = nil
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			_, err := s.c.list.Join([]string{addr.String()})
			if inner := errors.Unwrap(err); inner != nil {
				err = inner // the error of the only address
			}
			mu.Lock()
			results[addr] = err
			mu.Unlock()
		})
	}
	mu.Lock()
	for _, addrs := range found {
		for _, addr := range addrs {
			try(addr)
		}
	}
	if n := len(sight.seek); n > 0 {
		try(sight.seek[turn%n])
	}
	mu.Unlock()
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	for i, seed := range s.seeds {
		err := errs[i]
		for _, addr := range found[i] {
			if err = results[addr]; err == nil {
				break
			}
		}
		s.report(turn, seed, err)
	}
}

// report logs when a seed becomes unreachable and when it is reachable again.
func (s *seeker) report(turn int, seed seed, err error) {
	switch {
	case err != nil && !s.failed[seed.name]:
		// The first round logs no warning: when all nodes start together, the first
		// one finds no other.
		level, what := slog.LevelWarn, "a seed is out of reach; it will be tried again permanently"
		switch {
		case otherKeys(err.Error()):
			what = "a seed has other gossip keys than this node: compare gossip_keys of `ganglion members --json` on both; it will be tried again permanently"
		case turn == 0:
			level = slog.LevelInfo
		}
		s.c.log.Log(context.Background(), level, what, "seed", seed.name, "longest_pause", rejoinEvery, "err", err)
	case err == nil && s.failed[seed.name]:
		s.c.log.Info("a seed is back in reach", "seed", seed.name)
	}
	s.failed[seed.name] = err != nil
}
