package processor

import (
	"slices"
	"sort"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A relayLedger has the commits that a relay has read and whose messages a broker has not
// confirmed all. It is safe for concurrent use: one goroutine reads and publishes,
// another one confirms.
//
// Its entries are bounded by the window: commits without a message join the entry
// before them.
type relayLedger struct {
	slots chan struct{} // one element for each unconfirmed message

	changed chan struct{} // has an element after done has moved

	mu      sync.Mutex
	entries []ledgerEntry // by position
	done    ledgerPlace   // up to which everything is confirmed
}

// A ledgerPlace is the end of a commit.
type ledgerPlace struct {
	position eventstore.Position
	key      string
}

// A ledgerEntry is a commit with messages, and the ones without that follow it.
type ledgerEntry struct {
	last    eventstore.Position   // of the commit with messages
	end     ledgerPlace           // of the entry
	pending []eventstore.Position // not confirmed, perhaps not yet published
}

func newRelayLedger(window int, begin ledgerPlace) *relayLedger {
	return &relayLedger{slots: make(chan struct{}, window), done: begin, changed: make(chan struct{}, 1)}
}

// begin adds a commit that was read, with the positions of its messages. Each of them
// needs a slot before it is published.
func (l *relayLedger) begin(c *eventstore.Commit, messages []eventstore.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := ledgerPlace{c.Position, c.Key}
	n := len(l.entries)
	switch {
	case len(messages) > 0:
		l.entries = append(l.entries, ledgerEntry{last: c.Position, end: end, pending: messages})
	case n > 0:
		l.entries[n-1].end = end
	default:
		l.move(end)
	}
}

// confirm records that the broker has confirmed a message, and frees its slot. A
// position that is not pending changes nothing.
func (l *relayLedger) confirm(p eventstore.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].last >= p })
	if i == len(l.entries) {
		return
	}
	e := &l.entries[i]
	n := slices.Index(e.pending, p)
	switch {
	case n < 0:
		return
	case n == 0: // mostly
		e.pending = e.pending[1:]
	default:
		e.pending = slices.Delete(e.pending, n, n+1)
	}
	<-l.slots
	for len(l.entries) > 0 && len(l.entries[0].pending) == 0 {
		l.move(l.entries[0].end)
		l.entries = l.entries[1:]
	}
}

// move sets done.
func (l *relayLedger) move(to ledgerPlace) {
	l.done = to
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// place returns up to where everything is confirmed.
func (l *relayLedger) place() ledgerPlace {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

// unconfirmed returns the number of messages that were published and not confirmed.
func (l *relayLedger) unconfirmed() int { return len(l.slots) }
