package hub

import (
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
)

// Turn is the work of a shard's goroutine in one turn, and the memory that its
// turns reuse.
type Turn struct {
	Head    eventstore.Position // later events are not sent in this turn
	Limit   int                 // of a message, in bytes
	Scratch []byte              // for the message that is being built

	hub     *Hub
	number  uint64
	members []*Member
	seats   []*Seat

	// Sessions of one topic are served one after another, and most have the
	// same cursor, so they can share an excerpt and a message.
	topic   history.Topic
	excerpt history.Excerpt
	memos   [4]Memo
	oldest  int
}

// Memo is a message of events that one session got, for others to reuse.
type Memo struct {
	Topic   history.Topic
	Head    string // of the event frames
	First   *history.Entry
	Last    *history.Entry
	Count   int
	IsAll   bool // nothing was left after it
	Message []byte
}

func (sh *Shard) newTurn() *Turn { return &Turn{hub: sh.hub} }

func (t *Turn) begin(head eventstore.Position, limit int) {
	t.number++
	t.Head, t.Limit = head, limit
	t.forget()
}

// forget drops the members, seats, excerpt and memos of the last turn.
func (t *Turn) forget() {
	clear(t.members)
	clear(t.seats)
	t.members, t.seats = t.members[:0], t.seats[:0]
	t.topic, t.excerpt = history.Topic{}, history.Excerpt{}
	for i := range t.memos {
		m := &t.memos[i]
		m.Topic, m.Head, m.First, m.Last = history.Topic{}, "", nil, nil
	}
}

// shrink drops large buffers, so that an idle shard keeps little.
func (t *Turn) shrink() {
	t.forget()
	if cap(t.Scratch) > 2*wire.MessageBytes {
		t.Scratch = nil
	}
	for i := range t.memos {
		if cap(t.memos[i].Message) > 2*wire.MessageBytes {
			t.memos[i].Message = nil
		}
	}
}

// Excerpt returns the window's events of a topic, at least up to the turn's
// head.
func (t *Turn) Excerpt(topic history.Topic) *history.Excerpt {
	if t.topic != topic {
		t.topic = topic
		t.excerpt, _ = t.hub.Excerpt(topic)
	}
	return &t.excerpt
}

// Recall returns the message of this turn that begins with the event first, or
// nil.
func (t *Turn) Recall(topic history.Topic, head string, first *history.Entry) *Memo {
	for i := range t.memos {
		if m := &t.memos[i]; m.First == first && m.Head == head && m.Topic == topic {
			return m
		}
	}
	return nil
}

// Remember keeps a message for other sessions of this turn. It copies the
// message.
func (t *Turn) Remember(m Memo) {
	slot := &t.memos[t.oldest]
	t.oldest = (t.oldest + 1) % len(t.memos)
	m.Message = append(slot.Message[:0], m.Message...)
	*slot = m
}
