package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// rejoinEvery is how often seeds and lost members that are not in the cluster
// are tried. Parts of a cluster that were cut off from each other never find
// together by gossip alone: a quiet cluster tells the dead nothing.
const rejoinEvery = 5 * time.Second

// joinAtOnce bounds how many addresses are tried at the same time: a name may
// resolve to hundreds.
const joinAtOnce = 16

// seek looks for the seeds until the context ends, and closes first when it
// has tried them all once.
func (c *Cluster) seek(ctx context.Context, first chan<- struct{}) {
	s := seeker{c: c, failed: make(map[string]bool)}
	for _, name := range c.cfg.Join {
		seed, err := parseSeed(name)
		if err != nil {
			continue // New has refused these
		}
		s.seeds = append(s.seeds, seed)
	}
	tick := time.NewTicker(rejoinEvery)
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
	}
}

// seeker is the state of the search. Its own goroutine uses it.
type seeker struct {
	c      *Cluster
	seeds  []seed
	failed map[string]bool // seeds that were out of reach the last time
}

// round tries every address of every seed at which gossip knows no living
// node, and one lost member, and returns when all attempts have ended.
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
	slots := make(chan struct{}, joinAtOnce)
	try := func(addr netip.AddrPort) {
		if _, ok := results[addr]; ok || sight.alive[addr] {
			return // this node's own address is among the living
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
				err = inner // of a list of one
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

// report says when a seed gets out of reach, and when it is back.
func (s *seeker) report(turn int, seed seed, err error) {
	switch {
	case err != nil && !s.failed[seed.name]:
		// When all nodes start at once, the first finds nobody: no warning yet.
		level, what := slog.LevelWarn, "a seed is out of reach; it will be tried again for ever"
		switch {
		case otherKeys(err.Error()):
			what = "a seed has other gossip keys than this node: compare gossip_keys of `ganglion members --json` on both; it will be tried again for ever"
		case turn == 0:
			level = slog.LevelInfo
		}
		s.c.log.Log(context.Background(), level, what, "seed", seed.name, "every", rejoinEvery, "error", err)
	case err == nil && s.failed[seed.name]:
		s.c.log.Info("a seed is back in reach", "seed", seed.name)
	}
	s.failed[seed.name] = err != nil
}
