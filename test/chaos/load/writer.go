package load

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/chaos/check"
)

// writer sends commands and reads.
type writer struct {
	load   *Load
	random *rand.Rand
	client *client
	other  *client // the same client at another gateway
	lanes  map[string]int
	last   check.Command // the last acknowledged command
}

// run starts operations until running ends. It completes them unless all ends.
func (w *writer) run(running, all context.Context) {
	defer w.client.close()
	defer w.other.close()
	for running.Err() == nil {
		switch n := w.random.IntN(20); {
		case n < 12:
			w.write(all)
		case n < 16:
			stream, _ := w.load.pool.reserve(1)
			w.read(all, w.client, check.Read{Stream: stream, Strong: true})
		case w.last.Version > 0:
			w.read(all, w.other, check.Read{Stream: w.last.Stream, AtLeast: w.last.Position, Known: w.last.Version})
		}
		pause(running, w.load.cfg.Think/2+rand.N(w.load.cfg.Think))
	}
}

func (w *writer) write(ctx context.Context) {
	count := 1
	if w.random.IntN(3) == 0 {
		count = 2 + w.random.IntN(5)
	}
	stream, sent := w.load.pool.reserve(count)
	cmds := make([]*check.Command, count)
	for i := range cmds {
		w.lanes[stream]++
		cmd := &check.Command{Client: w.client.id, Stream: stream, Key: w.load.key(), Lane: w.lanes[stream]}
		if strings.HasPrefix(stream, "auction/") {
			cmd.Name, cmd.Amount = "bid", int64(10*(sent+i)+w.random.IntN(60)+1)
			if sent+i < 3 || w.random.IntN(20) == 0 {
				cmd.Name, cmd.Amount = "open", 1
			}
		} else {
			cmd.Name, cmd.Amount = "add", int64(w.random.IntN(20)) // 0 is rejected
			if w.random.IntN(12) == 0 {
				expect := uint64(max(0, sent/2+w.random.IntN(6)-3))
				if w.last.Stream == stream {
					expect = w.last.Version
				}
				cmd.Amount, cmd.Expect = cmd.Amount+1, &expect
			}
		}
		cmds[i] = cmd
	}
	errors := w.client.send(ctx, cmds)
	done := make([]check.Command, count)
	for i, cmd := range cmds {
		if done[i] = *cmd; cmd.Outcome == check.Done {
			w.last = *cmd
		}
	}
	w.load.record(done, errors...)
}

// read sends a get until it has a result.
func (w *writer) read(ctx context.Context, c *client, r check.Read) {
	frame := map[string]any{"op": "get", "aggregate": r.Stream}
	if r.Strong {
		frame["strong"] = true
	}
	if r.AtLeast > 0 {
		frame["at_least"] = r.AtLeast
	}
	r.Client = c.id
	for ctx.Err() == nil {
		r.Call = w.load.Now()
		delete(frame, "id")
		f, err := c.call(ctx, frame)
		if err != nil || f.Op != "result" {
			w.load.record(nil, "get: "+reason(f, err))
			if err == nil && f.Retry == "no" {
				return
			}
			pause(ctx, max(5*time.Millisecond, time.Duration(f.AfterMS)*time.Millisecond))
			continue
		}
		r.Return = w.load.Now()
		r.Version, r.Position = f.Version, f.Position
		if r.State, err = check.ParseState(f.Data); err != nil {
			r.State.Seller = err.Error() // which no state has
		}
		w.load.mu.Lock()
		w.load.reads = append(w.load.reads, r)
		w.load.mu.Unlock()
		return
	}
}

// probe measures the waits for one owner through one gateway.
type probe struct {
	load           *Load
	owner, gateway string
	client         *client
	ring           *ring.Ring // with all owners
	stream         string
	sent, made     int
}

func (p *probe) run(running, all context.Context) {
	defer p.client.close()
	for running.Err() == nil {
		if p.stream == "" || p.sent == maxOperations {
			p.next()
		}
		p.sent++
		cmd := &check.Command{Client: p.client.id, Stream: p.stream, Key: p.load.key(), Name: "add", Amount: 1, Lane: p.sent}
		via := p.load.cfg.Gateways[p.client.at].Name
		errors := p.client.send(all, []*check.Command{cmd})
		p.load.record([]check.Command{*cmd}, errors...)
		p.load.mu.Lock()
		p.load.waits = append(p.load.waits, Wait{Owner: p.owner, Gateway: p.gateway, Via: via, Begin: cmd.Call, End: p.load.Now(), Errors: errors})
		p.load.mu.Unlock()
		pause(running, p.load.cfg.ProbeEvery/2+rand.N(p.load.cfg.ProbeEvery))
	}
}

// next selects another aggregate of the owner.
func (p *probe) next() {
	for p.sent = 0; ; {
		p.made++
		id := eventstore.StreamID{Type: "counter", ID: p.client.id + "-" + p.load.pool.prefix + "-" + p.load.key()}
		if owner, _ := p.ring.Owner(id); owner == p.owner {
			p.stream = id.String()
			return
		}
	}
}
