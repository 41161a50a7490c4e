package load

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/harness"
)

const (
	// window is how many rows open_auctions answers with at most.
	window = 100
	// seeds is the number of auctions at the start: more than a window has rows.
	seeds = 120
	// askEvery is the mean pause of an asker between two questions.
	askEvery = 150 * time.Millisecond
)

// budgets are the parameters of the questions. With 1, the answer has only
// auctions without bids: rows leave, and all have the same price.
var budgets = []int64{0, 1, 60, 300}

// seed opens auctions, so that the answers to most questions are full windows.
func (l *Load) seed(running, all context.Context) {
	for i := 0; i < seeds && running.Err() == nil; i++ {
		l.open(all, fmt.Sprintf("%s-seed-%d", l.pool.prefix, i))
	}
}

// open opens an auction.
func (l *Load) open(ctx context.Context, id string) {
	c := newClient(l, "seed", 0)
	defer c.close()
	cmd := &check.Command{Client: c.id, Stream: "auction/" + id, Key: l.key(), Name: "open", Amount: 1, Lane: 1}
	errors := c.send(ctx, []*check.Command{cmd})
	l.record([]check.Command{*cmd}, errors...)
}

// asker asks open_auctions, often with the position of a command that some client
// knows to be stored.
type asker struct {
	load   *Load
	random *rand.Rand
	client *client
}

func (a *asker) run(running, all context.Context) {
	defer a.client.close()
	for running.Err() == nil {
		q := check.Answer{Client: a.client.id, Budget: budgets[a.random.IntN(len(budgets))]}
		if a.random.IntN(3) > 0 {
			q.AtLeast = a.load.acknowledged.Load()
		}
		a.ask(all, q)
		a.client.leave() // the next question is for another gateway
		pause(running, askEvery/2+rand.N(askEvery))
	}
}

// ask sends a question until it has an answer.
func (a *asker) ask(ctx context.Context, q check.Answer) {
	for ctx.Err() == nil {
		frame := map[string]any{
			"op": "query", "query": "open_auctions", "data": map[string]any{"budget": q.Budget}, "timeout_ms": timeout.Milliseconds(),
		}
		if q.AtLeast > 0 {
			frame["at_least"] = q.AtLeast
		}
		f, err := a.client.call(ctx, frame)
		if err != nil || f.Op != "result" {
			a.load.record(nil, "query: "+reason(f, err)+" "+f.Message)
			if err == nil && f.Retry == "no" {
				return
			}
			pause(ctx, max(5*time.Millisecond, time.Duration(f.AfterMS)*time.Millisecond))
			continue
		}
		var answer struct {
			Rows []harness.Row `json:"rows"`
		}
		if err := json.Unmarshal(f.Data, &answer); err != nil {
			answer.Rows = []harness.Row{{Key: err.Error()}} // which no auction has
		}
		q.Position = f.Position
		for _, r := range answer.Rows {
			q.Rows = append(q.Rows, rowOf(r))
		}
		a.load.mu.Lock()
		a.load.asked = append(a.load.asked, q)
		a.load.mu.Unlock()
		return
	}
}

func rowOf(r harness.Row) check.Row {
	var listing struct {
		Price int64 `json:"price"`
	}
	if err := json.Unmarshal(r.Data, &listing); err != nil {
		listing.Price = -1 // which no auction has
	}
	return check.Row{Key: r.Key, Price: listing.Price, Position: r.Position}
}
