package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	client "github.com/ganglion-es/ganglion/client/go"
)

// follower is one subscription of one subscriber.
type follower struct {
	stream *stream
	client *connection

	mu      sync.Mutex
	version int           // of the last received event
	changed chan struct{} // closed when version or ended changes; nil if nothing waits
	ended   bool

	refused bool // by the gateway; set before ended
}

// refusals are the codes with which a gateway may refuse a subscription without
// breaking a promise.
var refusals = map[client.Code]bool{
	client.CodeUnsupported: true, client.CodeUnauthenticated: true, client.CodeForbidden: true, client.CodeNotFound: true, client.CodeRateLimited: true,
}

// run receives events until ctx ends.
func (f *follower) run(ctx context.Context) {
	l := f.stream.load
	events := client.Type[json.RawMessage, json.RawMessage]{Name: l.cfg.Type}.Aggregate(f.client.Client, f.stream.id)
	for e, err := range events.Subscribe(ctx, client.FromStart()) {
		if err != nil {
			var failure *client.Error
			switch {
			case ctx.Err() != nil:
			case errors.As(err, &failure) && refusals[failure.Code]:
				f.refused = true
				l.countRefusal(failure)
			default:
				l.addViolation("%s: a subscription ended: %v", f.stream.id, err)
			}
			break
		}
		f.stream.observe(f.current(), e.Version, e.Cause, e.Time)
		l.delivered.Add(1)
		f.mu.Lock()
		f.version = int(e.Version)
		f.wake()
		f.mu.Unlock()
	}
	f.mu.Lock()
	f.ended = true
	f.wake()
	f.mu.Unlock()
}

// wake wakes awaitVersion. The caller holds f.mu.
func (f *follower) wake() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// current returns the version that was received last.
func (f *follower) current() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

// awaitVersion waits until the follower has a version, or its subscription or ctx
// has ended.
func (f *follower) awaitVersion(ctx context.Context, version int) {
	for {
		f.mu.Lock()
		if f.version >= version || f.ended {
			f.mu.Unlock()
			return
		}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
