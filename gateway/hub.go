package gateway

import (
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// topic is what a subscription wants: one stream, or all streams of a type.
type topic struct {
	stream   eventstore.StreamID
	category string
}

func (t topic) typ() string {
	if t.category != "" {
		return t.category
	}
	return t.stream.Type
}

// hub keeps the newest events, each encoded once, and tells the shards which
// topics they belong to. It hands no event to any session: sessions take from
// the window, each from its own cursor on, when a shard's turn comes to them.
type hub struct {
	encode func(c *eventstore.Commit, i int) *entry
	shards []*shard

	mu     sync.RWMutex
	head   eventstore.Position
	window *window
}

// deliver takes commits in, dense and in order. It returns false when they do
// not follow on the head; they are then taken in all the same, and who counts
// on their order must start again.
func (h *hub) deliver(commits []eventstore.Commit) (dense bool) {
	head, hole := h.position(), eventstore.Position(0)
	var fresh []*entry
	for i := range commits {
		c := &commits[i]
		if c.First() > head+1 {
			hole = c.First() - 1
			fresh = fresh[:0]
		}
		for j := range c.Events {
			if p := c.First() + eventstore.Position(j); p > head { // else it is known already
				fresh = append(fresh, h.encode(c, j))
				head = p
			}
		}
	}
	h.mu.Lock()
	if hole > 0 {
		h.window.clear(hole)
	}
	for _, e := range fresh {
		h.window.add(e)
	}
	h.head = head
	h.mu.Unlock()
	for _, sh := range h.shards {
		sh.announce(fresh, head)
	}
	return hole == 0
}

func (h *hub) position() eventstore.Position {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.head
}

// excerpt returns what the window knows of a topic, and the head.
func (h *hub) excerpt(t topic) (excerpt, eventstore.Position) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.window.excerpt(t), h.head
}

// versionAt returns a stream's version at a position, if the window knows.
func (h *hub) versionAt(t topic, at eventstore.Position) (eventstore.Version, bool) {
	x, head := h.excerpt(t)
	if at > head {
		return 0, false
	}
	return x.versionAt(at)
}

// reset sets the head anew: the log may have gone back.
func (h *hub) reset(head eventstore.Position) {
	h.mu.Lock()
	h.window.clear(head)
	h.head = head
	h.mu.Unlock()
	for _, sh := range h.shards {
		sh.announce(nil, head)
	}
}

// encode makes the one form of an event that all sessions share.
func (g *Gateway) encode(c *eventstore.Commit, i int) *entry {
	ev := &c.Events[i]
	e := &entry{
		stream:   c.Stream,
		version:  c.FirstVersion() + eventstore.Version(i),
		position: c.First() + eventstore.Position(i),
	}
	data, err := g.cfg.Catalog.Show(c.Stream.Type, ev.Type, max(ev.Form, 1), ev.Data)
	if err != nil {
		e.err = err
		return e
	}
	f := frame.Event{
		Stream: c.Stream, Version: e.version, Position: e.position,
		Event: ev.Type, Data: data, Time: c.At, Cause: c.Key,
	}
	if g.cfg.Catalog.ShowsCaller(c.Stream.Type) {
		f.By = c.Meta.Client
	}
	e.tail = f.AppendTail(make([]byte, 0, 192+len(data)+len(c.Key)+len(c.Stream.ID)))
	return e
}
