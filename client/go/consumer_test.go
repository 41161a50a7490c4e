package ganglion

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// consume joins the group of the golden frames and returns the consumer.
func (g *gateway) consume(opts ...ConsumeOption) *consumer {
	k := g.client.consume(g.t.Context(), "mailer", false, opts)
	g.t.Cleanup(k.close)
	return k
}

// deliver assigns a segment, sends the golden event of it and returns the delivery.
func (g *gateway) deliver(frames map[string]struct {
	From  string
	Frame object
},
) *Delivery {
	k := g.consume()
	id := g.last()["id"]
	for _, name := range []string{"consuming", "assigned", "event_segment"} {
		f := maps.Clone(frames[name].Frame)
		for _, member := range []string{"id", "sub"} {
			if f[member] != nil {
				f[member] = id
			}
		}
		g.send(f)
	}
	d, err := k.next(g.t.Context())
	if err != nil {
		g.t.Fatal(err)
	}
	return d
}

func TestConsumerHandlesTheGoldenFrames(t *testing.T) {
	t.Parallel()
	frames := goldens(t)
	for name, check := range map[string]func(k *consumer, d *Delivery) bool{
		"assigned_retried": func(k *consumer, _ *Delivery) bool { return k.assigned[`~auction/ä "1"`] != nil },
		"revoking":         func(_ *consumer, d *Delivery) bool { return d.assignment.isRevoking && d.Context().Err() == nil },
		"revoked":          func(_ *consumer, d *Delivery) bool { return context.Cause(d.Context()) == ErrRevoked },
		"unsubscribed_replaced": func(k *consumer, d *Delivery) bool {
			_, err := k.take()
			return errors.Is(err, ErrReplaced) && d.Context().Err() != nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				g := welcomed(t, Options{})
				d := g.deliver(frames)
				k := d.assignment.consumer
				if d.Position != 1051 || d.Log != frames["assigned"].Frame["log"] || k.allowed != 100 {
					t.Errorf("delivered %+v, window %d", d.GroupEvent, k.allowed)
				}
				f := maps.Clone(frames[name].Frame)
				f["sub"] = k.id
				g.send(f)
				synctest.Wait()
				if !check(k, d) {
					t.Errorf("%s has another effect", name)
				}
			})
		})
	}
}

func TestConsumerRefusesInvalidOptions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		for want, opts := range map[string][]ConsumeOption{
			"the window is 1001":     {WithWindow(1001)},
			"the concurrency is 0":   {WithConcurrency(0)},
			"the member \"ä\" is in": {WithMember("ä")},
		} {
			err := g.client.Handle(t.Context(), "mailer", nil, opts...)
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeBadRequest || !strings.Contains(e.Message, want) {
				t.Errorf("the error is %v, want %s", err, want)
			}
		}
	})
}

func TestBoundedReasonIsValidText(t *testing.T) {
	t.Parallel()
	for reason, want := range map[string]string{
		"":                             "no reason given",
		"a\x00b\xff":                   "a?b?",
		strings.Repeat("ä", 600):       strings.Repeat("ä", 512),
		"x" + strings.Repeat("ä", 600): "x" + strings.Repeat("ä", 511),
	} {
		if got := boundedReason(reason); got != want {
			t.Errorf("%q is %q, want %q", reason, got, want)
		}
	}
}

// TestHandlerPanicIsReportedAndRetried also covers a handler that ends its goroutine.
func TestHandlerPanicIsReportedAndRetried(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		calls := make(chan int, 1)
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			ended <- g.client.Handle(ctx, "mailer", func(_ context.Context, e GroupEvent) error {
				if e.Attempt == 1 {
					panic("boom")
				}
				calls <- e.Attempt
				return nil
			})
		}()
		synctest.Wait()
		id := g.last()["id"]
		g.send(object{"op": "consuming", "id": id, "window": 10, "ack_within_ms": 30000})
		g.send(object{"op": "assigned", "sub": id, "segment": "0", "epoch": 1, "cursor": "0", "log": "log-1"})
		g.send(object{"op": "event", "sub": id, "segment": "0", "stream": "auction/42", "version": 1, "position": 1, "event": "opened", "data": object{}})
		if n := <-calls; n != 2 {
			t.Errorf("attempt %d succeeded", n)
		}
		if e := g.reported[0]; e.Code != CodeHandler || !strings.Contains(e.Message, "the handler panicked: boom") {
			t.Errorf("reported %v", e)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Handle returned %v", err)
		}
	})
}

// TestSlowApplicationJoinsAgainOnceItReceives: while it hangs, the group must not wait
// for it again.
func TestSlowApplicationJoinsAgainOnceItReceives(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		d := g.deliver(goldens(t))
		k := d.assignment.consumer
		g.send(object{"op": "unsubscribed", "sub": k.id, "code": "timeout", "message": "too slow"})
		time.Sleep(30 * time.Second)
		if said := g.last(); k.id != "" {
			t.Fatalf("the application hangs, and the client sent %v", said)
		}
		if d, err := k.take(); d != nil || err != nil {
			t.Fatal(d, err)
		}
		if said := g.last(); said["op"] != "consume" || said["id"] != k.id {
			t.Errorf("the client sent %v", said)
		}
	})
}
