package node

import (
	"context"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/node/operator"
	"github.com/ganglion-es/ganglion/router/cluster"
)

const (
	// censusAge is how old the answers in /v1/cluster can be. Without it, each request
	// to one node would cause requests to all others.
	censusAge = time.Second
	// censusTimeout is how long /v1/cluster waits for the other members.
	censusTimeout = 300 * time.Millisecond
)

// census asks the other members one question.
type census[T any] struct {
	self string
	ask  func(context.Context, cluster.Member) (T, error)

	mu      sync.Mutex
	at      time.Time
	answers map[string]*T
}

// of returns the answer of each member that answers.
func (c *census[T]) of(ctx context.Context, members []cluster.Member) map[string]*T {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) < censusAge {
		return c.answers
	}
	// Later requests use the answers too, so the end of this one does not cancel the
	// calls.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), censusTimeout)
	defer cancel()
	var (
		asking  sync.WaitGroup
		answers = make([]*T, len(members))
	)
	for i, m := range members {
		if m.ID == c.self {
			continue
		}
		asking.Go(func() {
			if answer, err := c.ask(ctx, m); err == nil {
				answers[i] = &answer
			}
		})
	}
	asking.Wait()
	c.at, c.answers = time.Now(), make(map[string]*T)
	for i, m := range members {
		if answers[i] != nil {
			c.answers[m.ID] = answers[i]
		}
	}
	return c.answers
}

// makeCensuses makes what /v1/cluster asks the other members: gateways for the
// number of their sessions, and all for their work on projections.
func (n *node) makeCensuses() {
	client := operator.WithTLS(n.tls.Client())
	n.sessions = &census[int]{self: n.cfg.Name, ask: func(ctx context.Context, m cluster.Member) (int, error) {
		if !m.Gateway {
			return 0, errNoGateway
		}
		s, err := client.Sessions(ctx, m.PeerAddr, 0)
		return s.Open, err
	}}
	n.working = &census[ProjectionWork]{self: n.cfg.Name, ask: func(ctx context.Context, m cluster.Member) (ProjectionWork, error) {
		return client.Projections(ctx, m.PeerAddr)
	}}
}
