package node

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
)

const (
	// clockInterval is how often a node compares its clock with the database's.
	clockInterval = 10 * time.Second
	// maxClockError is the largest difference that the node does not announce.
	maxClockError = 2 * time.Second
	// clockStep is the smallest change of the difference that the node announces.
	clockStep = time.Second
)

// clockSource is implemented by logs that have their own clock. The embedded log
// has this machine's.
type clockSource interface {
	Clock(ctx context.Context) (time.Time, error)
}

// watchClock compares this node's clock with the database's, and announces a
// difference in the log and to the other members. All nodes compare with the same
// clock, so the wrong one is identified.
func (n *node) watchClock(ctx context.Context) error {
	source, ok := n.store.(clockSource)
	if !ok {
		return nil
	}
	n.compareClock(ctx, source)
	return watched.Watch(ctx, clockInterval, func() { n.compareClock(ctx, source) })
}

func (n *node) compareClock(ctx context.Context, source clockSource) {
	begun, here := time.Now(), n.cfg.Now()
	there, err := source.Clock(ctx)
	took := time.Since(begun)
	if err != nil {
		n.log.Debug("the database's clock cannot be read", "err", err)
		return
	}
	if took > maxClockError { // the answer was too slow to detect such a difference
		return
	}
	ahead := here.Add(took / 2).Sub(there)
	n.clockAhead.Store(int64(ahead))

	announced := n.clockAnnounced
	switch wrong := ahead.Abs()-took/2 > maxClockError; {
	case !wrong && announced == 0:
		return
	case !wrong:
		n.clockAnnounced = 0
		n.log.Info("this node's clock agrees with the database's again", "member", n.cfg.Name)
	case (ahead - announced).Abs() > clockStep:
		n.clockAnnounced = ahead
		n.log.Error("this node's clock differs from the database's: synchronize it by NTP, or the database server's if all nodes log this",
			"member", n.cfg.Name, "ahead", ahead.Round(time.Millisecond))
	}
	n.cluster.SetClock(n.clockAnnounced)
}
