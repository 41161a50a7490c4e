package gateway_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// stateOwner is an owner whose reads of states can fail, and whose states can
// be large.
type stateOwner struct {
	*owner
	mu     sync.Mutex
	isAway bool
	failed chan struct{} // has an element once a read has failed
	asked  int
}

func (w *world) stateOwner() *stateOwner {
	return &stateOwner{owner: w.router, failed: make(chan struct{}, 1)}
}

func (o *stateOwner) setAway(isAway bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.isAway = isAway
}

func (o *stateOwner) Get(ctx context.Context, g command.Get) (command.State, error) {
	o.mu.Lock()
	isAway := o.isAway
	o.asked++
	o.mu.Unlock()
	if isAway {
		select {
		case o.failed <- struct{}{}:
		default:
		}
		return command.State{}, command.Unavailable("the owner is away")
	}
	return o.owner.Get(ctx, g)
}

func (c *client) wantState(sub string, version int) {
	c.t.Helper()
	f := want[frame.State](c)
	if f.Sub != sub || int(f.Version) != version || string(f.Data) != fmt.Sprintf(`{"version":%d}`, version) {
		c.t.Fatalf("got %s, want the state of version %d on %s", f.Append(nil), version, sub)
	}
}

// protocol: gateway state
// protocol: rule States of an aggregate
func TestStateEachFollowsLiveAndEachEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 3)
	n.catchUp()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":"each"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	c.wantState("s", 3)
	for v := 4; v < 8; v++ {
		w.add("counter/a", 1)
		c.wantEvents("s", v)
		c.wantState("s", v)
	}
	c.send(`{"op":"subscribe","id":"new","stream":"counter/unused","state":"each"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	c.wantState("new", 0)
}

func TestStateOnlyHasNoEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small)
	w.add("counter/a", 30) // more than the window has
	n.catchUp()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":"only"}`)
	want[frame.Subscribed](c)
	if f := want[frame.Live](c); *f.Version != 30 {
		t.Errorf("got %s", f.Append(nil))
	}
	c.wantState("s", 30)
	w.add("counter/b", 1)
	w.add("counter/a", 1)
	c.wantState("s", 31)
	c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
	want[frame.Unsubscribed](c)
	w.add("counter/a", 1)
	c.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](c)
}

func TestStateIsNeverAheadOfItsEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 1)
	n.catchUp()
	n.feed.hold(true)
	w.add("counter/a", 2) // the owner knows them, the gateway does not
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"0","state":"each"}
{"op":"subscribe","id":"only","stream":"counter/a","state":"only"}`)
	for range 6 { // subscribed and live of both, an event and a state: those of the two subscriptions are in any order
		switch f := c.read().(type) {
		case frame.Event:
			if f.Version != 1 {
				t.Fatalf("got %s", f.Append(nil))
			}
		case frame.State:
			if f.Sub != "only" || f.Version != 3 {
				t.Fatalf("got %s before its event", f.Append(nil))
			}
		}
	}
	n.feed.hold(false)
	c.wantEvents("s", 2, 3)
	c.wantState("s", 3)
}

func TestSubscriptionResumesWithTheNewestState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n, behind := w.node(), w.node()
	behind.feed.hold(true)
	w.add("counter/a", 5)
	n.catchUp()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"3","state":"each"}`)
	want[frame.Subscribed](c)
	c.wantEvents("s", 4, 5)
	want[frame.Live](c)
	c.wantState("s", 5)
	c.send(`{"op":"subscribe","id":"only","stream":"counter/a","cursor":"5","state":"only"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	c.wantState("only", 5) // also if nothing has changed
	c.send(`{"op":"subscribe","id":"no","stream":"counter/a","cursor":"6","state":"only"}`)
	c.wantFault("no", command.CodeCursorAhead)

	c = behind.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"5","state":"only"}`)
	want[frame.Subscribed](c)
	behind.feed.hold(false) // until then, the gateway can't know that version 5 is the newest
	want[frame.Live](c)
	c.wantState("s", 5)
}

func TestOwnerThatIsAwayDelaysTheStateOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.stateOwner()
	n := w.node(func(c *gateway.Config) { c.Router = o })
	o.setAway(true)
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":"each"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	<-o.failed
	w.add("counter/a", 1)
	c.wantEvents("s", 1)
	<-o.failed // it is asked again
	w.add("counter/a", 1)
	c.wantEvents("s", 2)
	o.setAway(false)
	c.wantState("s", 2)
}

// TestStatesOfABusyStreamAreReadOnceForAllSubscribers also expects that versions
// rise, that no state precedes its event, and that the newest arrives.
func TestStatesOfABusyStreamAreReadOnceForAllSubscribers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.stateOwner()
	n := w.node(func(c *gateway.Config) { c.Router = o })
	const clients, events = 100, 300
	var done sync.WaitGroup
	for i := range clients {
		mode := []frame.StateMode{frame.StateEach, frame.StateOnly}[i%2]
		c := n.join(fmt.Sprint("c", i))
		c.sendf(`{"op":"subscribe","id":"s","stream":"auction/hot","state":"%s"}`, mode)
		want[frame.Subscribed](c)
		want[frame.Live](c)
		done.Go(func() {
			if err := followStates(c, mode, events); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	for range events {
		w.add("auction/hot", 1)
	}
	done.Wait()
	if n := n.Stats().StateReads; n > events+10 {
		t.Errorf("%d subscribers caused %d reads of %d versions", clients, n, events)
	}
}

// followStates reads frames until the state of the last version, and checks
// their order.
func followStates(c *client, mode frame.StateMode, last eventstore.Version) error {
	var event, state eventstore.Version
	for state < last {
		f, err := c.next()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case frame.Event:
			if mode == frame.StateOnly || f.Version != event+1 {
				return fmt.Errorf("got version %d after %d", f.Version, event)
			}
			event = f.Version
		case frame.State:
			if f.Version < state || f.Version == state && state > 0 || mode == frame.StateEach && f.Version > event {
				return fmt.Errorf("got the state of version %d after that of %d and event %d", f.Version, state, event)
			}
			state = f.Version
		default:
			return fmt.Errorf("got %s", f.Append(nil))
		}
	}
	if mode == frame.StateEach && event != last {
		return fmt.Errorf("the last state came after event %d of %d", event, last)
	}
	return nil
}

func TestSlowClientGetsTheNewestState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small)
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"auction/1","state":"each"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	c.wantState("s", 0)
	events := n.fillASocket()
	var event, state int
	for state < events { // live comes again after each demotion
		switch f := c.read().(type) {
		case frame.Event:
			if event++; int(f.Version) != event {
				t.Fatalf("got version %d, want %d", f.Version, event)
			}
		case frame.State:
			if int(f.Version) <= state || int(f.Version) > event {
				t.Fatalf("got the state of version %d after that of %d and event %d", f.Version, state, event)
			}
			state = int(f.Version)
		}
	}
}

func TestStatesFollowAccess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	c := n.dial()
	c.send(`{"op":"hello","id":"hello"}`)
	want[frame.Welcome](c)
	for _, mode := range []frame.StateMode{frame.StateEach, frame.StateOnly} {
		c.sendf(`{"op":"subscribe","id":"s","stream":"counter/a","state":%q}`, mode)
		c.wantFault("s", command.CodeUnauthenticated)
	}
	if got := n.Stats().StateReads; got != 0 {
		t.Errorf("the owner was asked %d times for a client without access", got)
	}
}

func TestStatesAreReadAgainOnceTheLogHasGoneBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.stateOwner()
	n := w.node(func(c *gateway.Config) { c.Router = o })
	w.add("counter/a", 2)
	n.catchUp()
	for range 2 {
		c := n.join("ada")
		c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":"only"}`)
		want[frame.Subscribed](c)
		want[frame.Live](c)
		c.wantState("s", 2)
		n.Begin(2)
		c.wantClose(frame.CloseLost)
	}
	if got := n.Stats().StateReads; got != 2 {
		t.Errorf("the owner was asked %d times, want once for each log", got)
	}
}

func TestEventStreamMayHaveStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("auction/1", 2)
	n.catchUp()
	each := n.events("/v1/streams/auction/1/events?state=each", "ada")
	defer each.close()
	each.wantVersions(t, "auction/1", 1, 2)
	each.wantEvent(t, "live", `{"version":2,"cursor":"2"}`)
	each.wantEvent(t, "state", `{"version":2,"position":2,"data":{"version":2}}`)
	only := n.events("/v1/streams/auction/1/events?state=only", "ada")
	defer only.close()
	only.wantEvent(t, "live", `{"version":2,"cursor":"2"}`)
	only.wantEvent(t, "state", `{"version":2,"position":2,"data":{"version":2}}`)
	w.add("auction/1", 1)
	each.wantVersions(t, "auction/1", 3, 3)
	each.wantEvent(t, "state", `{"version":3,"position":3,"data":{"version":3}}`)
	only.wantEvent(t, "state", `{"version":3,"position":3,"data":{"version":3}}`)

	again := n.events("/v1/streams/auction/1/events?state=each", "ada", "Last-Event-ID", "2")
	defer again.close()
	again.wantVersions(t, "auction/1", 3, 3)
	again.wantEvent(t, "live", `{"version":3,"cursor":"3"}`)
	again.wantEvent(t, "state", `{"version":3,"position":3,"data":{"version":3}}`)
}
