package router_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/transport"
)

// tally is an Executor that keeps a sum in memory.
type tally struct {
	mu    sync.Mutex
	total int
	count eventstore.Version
}

func (t *tally) Submit(c command.Command, reply func(command.Outcome)) {
	if f := c.Ticket.Refusal(); f != nil {
		reply(command.Failed(f))
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var add struct{ By int }
	if err := json.Unmarshal(c.Data, &add); err != nil {
		reply(command.Failed(&command.Failure{Code: command.CodeBadRequest, Retry: command.RetryNo, Message: err.Error()}))
		return
	}
	t.total += add.By
	t.count++
	reply(command.Outcome{Result: command.Result{Key: c.Key, Version: t.count}})
}

func (t *tally) Get(context.Context, command.Get) (command.State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return command.State{Version: t.count, Data: json.RawMessage(fmt.Sprintf(`{"value":%d}`, t.total))}, nil
}

// A cluster of one node, which owns everything.
func Example() {
	view := &cluster.View{Members: []cluster.Member{{ID: "n1", Domain: true, Gateway: true, State: cluster.Ready}}}
	pool := transport.NewPool(transport.PoolConfig{})
	defer pool.Close()
	r, err := router.New(router.Config{
		Self: "n1", Executor: &tally{}, Pool: pool,
		Watch: func(ctx context.Context) <-chan *cluster.View {
			views := make(chan *cluster.View, 1)
			views <- view
			context.AfterFunc(ctx, func() { close(views) })
			return views
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()

	counter := eventstore.StreamID{Type: "counter", ID: "hits"}
	var answers sync.WaitGroup
	for _, by := range []string{`{"by":2}`, `{"by":3}`} {
		answers.Add(1)
		r.Send(command.Command{Stream: counter, Session: "s", Name: "add", Data: json.RawMessage(by)}, func(out command.Outcome) {
			defer answers.Done()
			fmt.Println("version", out.Result.Version)
		})
	}
	answers.Wait()
	state, err := r.Get(ctx, command.Get{Stream: counter})
	fmt.Println(string(state.Data), err)

	stop()
	fmt.Println(<-ended)
	// Output:
	// version 1
	// version 2
	// {"value":5} <nil>
	// <nil>
}
