package node

import (
	"context"
	"time"
)

const (
	// clockEvery is how often a node compares its clock with the database's.
	clockEvery = 10 * time.Second
	// clockMost is how far the two may differ before the node says so.
	clockMost = 2 * time.Second
	// clockStep is the least change of a wrong clock that the node announces.
	clockStep = time.Second
)

// clockSource is a log whose clock is not this machine's. The embedded store
// is none.
type clockSource interface {
	Clock(ctx context.Context) (time.Time, error)
}

// watchClock compares this node's clock with the database's, and tells the log
// and the other members when it is wrong. All nodes compare with the same clock,
// so the node that differs is named, whatever the others show.
func (n *node) watchClock(ctx context.Context) error {
	source, ok := n.store.(clockSource)
	if !ok {
		return nil
	}
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		n.compareClock(ctx, source)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *node) compareClock(ctx context.Context, source clockSource) {
	begun, here := time.Now(), n.cfg.Now()
	there, err := source.Clock(ctx)
	took := time.Since(begun)
	if err != nil {
		n.log.Debug("the database's clock can't be read", "error", err)
		return
	}
	if took > clockMost { // says nothing about such a difference
		return
	}
	ahead := here.Add(took / 2).Sub(there)
	n.clockAhead.Store(int64(ahead))

	told := n.clockTold
	switch wrong := ahead.Abs()-took/2 > clockMost; {
	case !wrong && told == 0:
		return
	case !wrong:
		n.clockTold = 0
		n.log.Info("this node's clock agrees with the database's again", "member", n.cfg.Name)
	case (ahead - told).Abs() > clockStep:
		n.clockTold = ahead
		n.log.Error("this node's clock differs from the database's: set it by NTP, or set the database server's if all nodes say so",
			"member", n.cfg.Name, "ahead", ahead.Round(time.Millisecond))
	}
	n.cluster.SetClock(n.clockTold)
}
