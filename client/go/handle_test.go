package ganglion

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// coordinator is a server of one group that takes segments away at random, and checks
// the acknowledgements.
type coordinator struct {
	t        *testing.T
	g        *gateway
	random   *rand.Rand
	events   []object        // all, in order
	acked    [2]int          // by segment: the position up to which it is acknowledged
	sent     [2]int          // the same for sent, under the newest epoch
	epochs   [2]int          // newest
	done     map[int]bool    // positions that the handler has handled, or that are parked
	streams  map[string]int  // versions that were handled, or are parked
	running  map[string]bool // streams
	parked   map[string]int  // from this position on
	read     int             // frames of the client that were looked at
	sub      any
	attempts int

	mu sync.Mutex // guards random, done, streams, running and attempts
}

func (c *coordinator) roll(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

const (
	modelStreams = 6
	modelWindow  = 8
)

// segmentOf divides the streams.
func segmentOf(stream string) int { return int(stream[len(stream)-1]) % 2 }

func (c *coordinator) assign(segment int) {
	c.epochs[segment]++
	c.sent[segment] = c.acked[segment]
	c.g.send(object{
		"op": "assigned", "sub": c.sub, "segment": strconv.Itoa(segment), "epoch": c.epochs[segment], "cursor": strconv.Itoa(c.acked[segment]), "log": "log-1",
	})
}

// deliver sends events up to the window.
func (c *coordinator) deliver(segment int) {
	open := 0
	for _, e := range c.events[c.acked[segment]:] {
		position, stream := e["position"].(int), e["stream"].(string)
		from, isParked := c.parked[stream]
		if segmentOf(stream) != segment || isParked && position >= from {
			continue
		}
		if open++; open > modelWindow {
			return
		}
		if position > c.sent[segment] {
			c.sent[segment] = position
			sent := object{"sub": c.sub, "segment": strconv.Itoa(segment)}
			for k, v := range e {
				sent[k] = v
			}
			c.g.send(sent)
		}
	}
}

// receive handles the frames of the client.
func (c *coordinator) receive() {
	synctest.Wait()
	c.g.socket.mu.Lock()
	frames := c.g.socket.received[c.read:]
	c.g.socket.mu.Unlock()
	for _, f := range frames {
		c.read++
		switch f["op"] {
		case "consume":
			c.sub = f["id"]
			c.g.send(object{"op": "consuming", "id": c.sub, "window": modelWindow, "ack_within_ms": 30000})
			c.assign(0)
			c.assign(1)
		case "ack", "park":
			segment, _ := strconv.Atoi(f["segment"].(string))
			if f["sub"] != c.sub || int(f["epoch"].(float64)) != c.epochs[segment] {
				c.t.Errorf("the client sent %v under an old epoch", f)
				continue
			}
			if f["op"] == "park" {
				position := int(f["position"].(float64))
				e := c.events[position-1]
				c.parked[e["stream"].(string)] = position
				c.g.send(object{"op": "result", "id": f["id"]})
				continue
			}
			to, _ := strconv.Atoi(f["cursor"].(string))
			c.mu.Lock()
			for position := c.acked[segment] + 1; position <= to; position++ {
				stream := c.events[position-1]["stream"].(string)
				from, isParked := c.parked[stream]
				if segmentOf(stream) == segment && !c.done[position] && !(isParked && position >= from) {
					c.t.Errorf("position %d was acknowledged, and not handled", position)
				}
			}
			c.mu.Unlock()
			c.acked[segment] = max(c.acked[segment], to)
		}
	}
}

// handle takes some time, and fails now and then. Version 5 of stream 3 is parked.
func (c *coordinator) handle(ctx context.Context, e GroupEvent) error {
	c.mu.Lock()
	c.attempts++
	if c.running[e.Stream] {
		c.t.Errorf("two calls for %s run", e.Stream)
	}
	if int(e.Version) > c.streams[e.Stream]+1 {
		c.t.Errorf("version %d of %s comes after version %d", e.Version, e.Stream, c.streams[e.Stream])
	}
	c.running[e.Stream] = true
	takes, fails := time.Duration(c.random.IntN(3000))*time.Millisecond, c.random.IntN(4) == 0
	ignores := c.random.IntN(2) == 0
	c.mu.Unlock()
	if ignores {
		time.Sleep(takes)
	} else {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			fails = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[e.Stream] = false
	switch {
	case e.Stream == "auction/3" && e.Version == 5:
		return Park("never")
	case fails:
		return errors.New("not now")
	}
	c.done[int(e.Position)] = true
	c.streams[e.Stream] = max(c.streams[e.Stream], int(e.Version))
	return nil
}

// TestHandlerKeepsOrderUnderRandomFaults: segments are revoked and assigned again,
// connections end, and calls fail, take long and ignore the end of their context.
func TestHandlerKeepsOrderUnderRandomFaults(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				g := welcomed(t, Options{})
				c := &coordinator{
					t: t, g: g, random: rand.New(rand.NewPCG(seed, 1)), done: map[int]bool{}, streams: map[string]int{},
					running: map[string]bool{}, parked: map[string]int{},
				}
				versions := map[string]int{}
				for position := 1; position <= 120; position++ {
					stream := fmt.Sprint("auction/", c.random.IntN(modelStreams))
					versions[stream]++
					c.events = append(c.events, object{
						"op": "event", "stream": stream, "version": versions[stream], "position": position, "event": "bid_placed", "data": object{},
					})
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- g.client.Handle(ctx, "mailer", c.handle, WithConcurrency(3)) }()
				finished := func() bool {
					for _, e := range c.events {
						from, isParked := c.parked[e["stream"].(string)]
						if !c.done[e["position"].(int)] && !(isParked && e["position"].(int) >= from) {
							return false
						}
					}
					return true
				}
				for range 2000 {
					c.receive()
					c.mu.Lock()
					over := finished()
					c.mu.Unlock()
					if over {
						break
					}
					if c.sub == nil {
						time.Sleep(50 * time.Millisecond)
						continue
					}
					segment := c.roll(2)
					switch c.roll(60) {
					case 0:
						g.send(object{"op": "revoked", "sub": c.sub, "segment": strconv.Itoa(segment), "epoch": c.epochs[segment]})
						c.receive()
						c.assign(segment)
					case 1: // without revoked
						c.receive()
						c.assign(segment)
					case 2:
						g.send(object{"op": "revoking", "sub": c.sub, "segment": strconv.Itoa(segment), "epoch": c.epochs[segment]})
					case 3:
						c.sub, c.read = nil, 0
						g.cut()
						g.welcome()
						continue
					}
					c.deliver(0)
					c.deliver(1)
					time.Sleep(time.Duration(c.roll(500)) * time.Millisecond)
				}
				c.mu.Lock()
				if !finished() {
					t.Errorf("not everything was handled: %v of %v", c.streams, versions)
				}
				if c.parked["auction/3"] == 0 && versions["auction/3"] >= 5 {
					t.Error("nothing was parked")
				}
				c.mu.Unlock()
				cancel()
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("Handle returned %v", err)
				}
			})
		})
	}
}
