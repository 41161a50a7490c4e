package conversation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// consumer is a member of a consumer group in the script. Its events are received
// immediately. A call of its handler waits for the step "finish".
type consumer struct {
	seen chan any
	gone chan struct{} // closed at the end of the script

	mu     sync.Mutex
	events map[float64]*delivered // the newest of each position
}

type delivered struct {
	ctx      context.Context
	delivery *ganglion.Delivery // of Consume
	finish   chan error         // of Handle; has room for one
}

func (a *application) consume(ctx context.Context, as, verb string, raw json.RawMessage) error {
	var o struct {
		Group, Member       string
		Window, Concurrency int
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	var options []ganglion.ConsumeOption
	if o.Member != "" {
		options = append(options, ganglion.WithMember(o.Member))
	}
	if o.Window != 0 {
		options = append(options, ganglion.WithWindow(o.Window))
	}
	if o.Concurrency != 0 {
		options = append(options, ganglion.WithConcurrency(o.Concurrency))
	}
	k := &consumer{seen: make(chan any, maxSeen), gone: make(chan struct{}), events: map[float64]*delivered{}}
	a.consumers[as] = k
	a.reading.Go(func() {
		if verb == "handle" {
			k.end(a.client.Handle(ctx, o.Group, k.handle, options...))
			return
		}
		for d, err := range a.client.Consume(ctx, o.Group, options...) {
			if err != nil {
				k.end(err)
				return
			}
			k.see(d.GroupEvent, &delivered{ctx: d.Context(), delivery: d})
		}
	})
	return nil
}

func (k *consumer) handle(ctx context.Context, e ganglion.GroupEvent) error {
	d := &delivered{ctx: ctx, finish: make(chan error, 1)}
	k.see(e, d)
	select {
	case err := <-d.finish: // also after the end of ctx
		return err
	case <-k.gone:
		return errors.New("the script has ended")
	}
}

func (k *consumer) see(e ganglion.GroupEvent, d *delivered) {
	k.mu.Lock()
	k.events[float64(e.Position)] = d
	k.mu.Unlock()
	k.seen <- map[string]any{"event": map[string]any{
		"event": e.Name, "data": value(e.Data), "stream": e.Stream, "id": e.ID(), "version": float64(e.Version), "position": float64(e.Position),
		"group": e.Group, "log": e.Log, "attempt": float64(e.Attempt), "key": e.CommandKey(0),
	}}
}

func (k *consumer) end(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, ganglion.ErrClosed) { // by the application
		k.seen <- map[string]any{"end": nil}
		return
	}
	k.seen <- map[string]any{"end": describe(err)}
}

func (k *consumer) at(position float64) (*delivered, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.events[position]
	if d == nil {
		return nil, fmt.Errorf("the application has no event at position %v", position)
	}
	return d, nil
}

// callConsumer acknowledges or parks an event, or finishes a call of the handler.
func (a *application) callConsumer(verb string, raw json.RawMessage) error {
	var o struct {
		Of, Reason, Error, Park string
		Position                float64
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	d, err := a.consumers[o.Of].at(o.Position)
	switch {
	case err != nil:
		return err
	case verb == "ack":
		d.delivery.Ack()
	case verb == "park":
		d.delivery.Park(o.Reason)
	case o.Park != "":
		d.finish <- ganglion.Park(o.Park)
	case o.Error != "":
		d.finish <- errors.New(o.Error)
	default:
		d.finish <- nil
	}
	return nil
}

// next returns the observation at the position of want, since concurrent calls of a
// handler begin in any order, or the first one.
func (k *consumer) next(ctx context.Context, want map[string]any) (any, error) {
	for range len(k.seen) {
		got := <-k.seen
		if position(got) == position(want) {
			return got, nil
		}
		k.seen <- got
	}
	select {
	case got := <-k.seen:
		return got, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func position(observation any) any {
	all, _ := observation.(map[string]any)
	event, _ := all["event"].(map[string]any)
	return event["position"]
}

func (a *application) observeConsumer(ctx context.Context, as string, body map[string]json.RawMessage) error {
	k := a.consumers[as]
	for kind, raw := range body {
		switch kind {
		case "consumer":
			continue
		case "none":
			if len(k.seen) > 0 {
				return fmt.Errorf("%s arrived: %v", as, <-k.seen)
			}
			return nil
		case "over":
			position, _ := value(raw).(float64)
			d, err := k.at(position)
			if err != nil {
				return err
			}
			select {
			case <-d.ctx.Done():
				return nil
			case <-ctx.Done():
				return fmt.Errorf("the context of the event at %v of %s does not end", position, as)
			}
		}
		want := map[string]any{kind: value(raw)}
		got, err := k.next(ctx, want)
		if err != nil {
			return fmt.Errorf("no %s of %s arrives", kind, as)
		}
		return compare(want, got, as)
	}
	return errors.New("the step observes nothing")
}
