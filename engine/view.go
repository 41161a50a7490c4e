package engine

import (
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// view is an aggregate's public state, rendered. It is immutable.
type view struct {
	version  eventstore.Version
	position eventstore.Position
	data     []byte
}

func (v *view) state() command.State {
	return command.State{Version: v.version, Position: v.position, Data: v.data}
}

// render returns the view of the cell's state, rendered at most once for each
// version. It returns nil and logs the error if the application fails to render
// it. Such an aggregate still accepts commands, and its state is loaded again.
func (w worker) render() *view {
	h, c := w.host, w.cell
	h.mu.Lock()
	v := c.cached.view
	h.mu.Unlock()
	if v != nil && v.version == c.state.version {
		return v
	}
	v = &view{version: c.state.version, position: c.state.position}
	w.watch(rendering)
	err := guarded(func() (err error) {
		v.data, err = c.def.View(c.state.value)
		return err
	})
	c.watchdog.stop()
	if err != nil {
		h.failure(c.stream, "rendering the view", err)
		w.discard()
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !c.invalid {
		c.cached.view = v
		h.cache.count(c)
	}
	return v
}

// publish makes the state available to gets and to the next worker. If the state
// was invalidated in the meantime, publish drops it and returns false. known is
// the cell's known version as it was before the state was read. If the state is
// older, known was wrong, and publish corrects it.
func (w worker) publish(known eventstore.Version) bool {
	h, c := w.host, w.cell
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.invalid {
		c.invalid = false
		c.state = state{}
		h.cache.uncount(c)
		return false
	}
	if c.known == known {
		c.known = c.state.version
	}
	c.known = max(c.known, c.state.version)
	h.cache.count(c)
	return true
}

// keepPartial caches an incomplete state, unless it was invalidated. The next load
// drops an invalidated state.
func (w worker) keepPartial() {
	w.measure()
	w.host.mu.Lock()
	defer w.host.mu.Unlock()
	if !w.cell.invalid {
		w.host.cache.count(w.cell)
	}
}

// discard drops the state and the view.
func (w worker) discard() {
	w.cell.state = state{}
	w.host.mu.Lock()
	w.host.cache.uncount(w.cell)
	w.host.mu.Unlock()
}

// measureStep is the size of the events, in bytes, after which even a small state
// is measured again.
const measureStep = 64 << 10

// measure corrects the estimate of the state's size. Each event adds its own size
// to the estimate. Once the estimate has doubled, measure encodes the state.
func (w worker) measure() {
	c := w.cell
	if c.state.value == nil || c.state.bytes < 2*c.state.measured+measureStep {
		return
	}
	w.watch(encoding)
	defer c.watchdog.stop()
	_ = guarded(func() error {
		if raw, err := c.def.EncodeState(c.state.value); err == nil {
			c.state.bytes = len(raw)
		}
		return nil
	})
	c.state.measured = c.state.bytes
}
