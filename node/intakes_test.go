package node_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/harness"
)

// A queue of one broker gives its messages to one consumer at a time, as a queue with
// x-single-active-consumer does.
type queue struct {
	away     atomic.Bool
	requests chan *relay.Request
	has      chan struct{} // holds a token while no consumer has the queue
}

func newQueue() *queue {
	q := &queue{requests: make(chan *relay.Request, 100), has: make(chan struct{}, 1)}
	q.has <- struct{}{}
	return q
}

func (q *queue) intake(name string) relay.Intake {
	return relay.Intake{Name: name, Where: "queue " + secret, New: func() relay.Source {
		return &consumer{queue: q, got: make(chan *relay.Request, 100), end: make(chan struct{}), unfinished: map[*relay.Request]bool{}}
	}}
}

// put puts a message into the queue: one that is no command if the aggregate is "".
func (q *queue) put(key, aggregate string) {
	c, wrong := relay.Text{Key: key, Aggregate: aggregate, Command: "note", Data: []byte(`{"text":"good"}`)}.Parse()
	if wrong != nil {
		c.Key = key
	}
	q.requests <- &relay.Request{Command: c, Client: "amqp:bob", Wrong: wrong}
}

// A consumer is a relay.Source of a queue.
type consumer struct {
	*queue
	got chan *relay.Request
	end chan struct{}

	mu         sync.Mutex
	closed     bool
	unfinished map[*relay.Request]bool
}

func (c *consumer) Open(context.Context, int) error {
	if c.away.Load() {
		return errors.New("the broker " + secret + " is away")
	}
	go func() {
		select {
		case <-c.has:
		case <-c.end:
			return
		}
		defer func() { c.has <- struct{}{} }()
		for {
			select {
			case r := <-c.requests:
				c.deliver(r)
			case <-c.end:
				return
			}
		}
	}()
	return nil
}

// deliver delivers a message, or returns it to the queue if the connection ends.
func (c *consumer) deliver(r *relay.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.requests <- r
		return
	}
	c.unfinished[r] = true
	c.got <- r
}

func (c *consumer) Requests() <-chan *relay.Request { return c.got }

func (c *consumer) Finish(_ context.Context, r *relay.Request, _ []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the connection is closed")
	}
	delete(c.unfinished, r)
	return nil
}

func (c *consumer) Refuse(ctx context.Context, r *relay.Request, answer []byte) error {
	return c.Finish(ctx, r, answer)
}
func (*consumer) Err() error { return nil }

func (c *consumer) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.end)
		for r := range c.unfinished {
			c.requests <- r
		}
	}
}

// TestEveryNodeShowsTheIntakesOfAllMembers has two nodes with two intakes. The broker of
// one is away, and the queue of the other has messages, of which one is no command.
func TestEveryNodeShowsTheIntakesOfAllMembers(t *testing.T) {
	t.Parallel()
	w, orders, lost := newWorkshop(), newQueue(), newQueue()
	lost.away.Store(true)
	const nodes = 2
	urls, _ := harness.Serve(t, nodes, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{
			Catalog: w.catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready, Intakes: []node.Intake{orders.intake("orders"), lost.intake("lost")},
		}, nodes)
	})
	for i := range 3 {
		orders.put(fmt.Sprint("k", i), "task/t1")
	}
	orders.put("k3", "unicorn/u1") // which no program has
	for _, url := range urls {
		harness.Eventually(t, "the intakes of all members", func() error {
			members, executed, dead := map[string]int{}, uint64(0), uint64(0)
			for _, m := range clusterWork(t, url, "?projections=true").Members {
				if m.Projections == nil {
					return fmt.Errorf("%s did not answer", m.ID)
				}
				for _, in := range m.Projections.Intakes {
					members[m.ID+" "+in.Intake]++
					// Under load, a node may rest, and then another has the queue.
					executed, dead = executed+in.Commands["result"], dead+in.Commands["dead_letter"]
				}
			}
			if got := fmt.Sprint(members, executed, dead); got != "map[dev1 lost:1 dev1 orders:1 dev2 lost:1 dev2 orders:1] 3 1" {
				return errors.New(got)
			}
			return nil
		})
	}
	for _, token := range []string{asOperator, asViewer} {
		harness.Eventually(t, "the console shows intakes", func() error { return intakesShown(t, urls[0], token) })
	}
}

// intakesShown reports what the console of dev1 does not show as it is.
func intakesShown(t *testing.T, url, token string) error {
	t.Helper()
	v, err := view[struct {
		Intakes []struct{ Name, Member, State, Queue, Problem string }
	}](t, url, "relays", token)
	if err != nil {
		return err
	}
	queue, problem := "queue "+secret, "the broker "+secret+" is away"
	if token == asViewer {
		queue, problem = "", ""
	}
	own := 0
	for _, in := range v.Intakes {
		if in.Member == "dev1" {
			own++
		}
		switch {
		case in.Queue != queue, in.Name == "lost" && (in.State != "away" || in.Problem != problem), in.Name == "orders" && in.State != "working" && in.State != "waiting":
			return fmt.Errorf("%+v", in)
		}
	}
	if own != 2 {
		return fmt.Errorf("%+v", v.Intakes)
	}
	return nil
}
