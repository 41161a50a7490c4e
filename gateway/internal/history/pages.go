package history

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/queue"
)

const (
	// pageMemory bounds the pages that are kept for other readers, in bytes.
	pageMemory = 16 << 20
	// pagesAhead is how many pages past one that a reader got are read before anybody
	// asks for them, as long as no read waits for its turn.
	pagesAhead = 4
)

// Page has the events of one topic between two places. Readers share it.
type Page struct {
	topic   Topic
	from    Place // the page has the events after it
	to      Place // and up to it
	isLast  bool  // to was the head
	entries []*Entry
	bytes   int

	pins int // readers that got the page and have not read it yet; guarded by Pages.mu
}

// Entries returns the page's events.
func (p *Page) Entries() []*Entry { return p.entries }

// End returns the position up to which the page has every event.
func (p *Page) End() eventstore.Position { return p.to.At }

// covers reports whether the page has the events that follow a reader's place.
func (p *Page) covers(r Place) bool {
	if !p.topic.isStream() {
		return p.from.At <= r.At && r.At < p.to.At
	}
	return p.from.Version <= r.Version && r.Version <= p.to.Version && r.At < p.to.At
}

// Continues reports whether no event is between a place and the page. It is true for
// the place from which the page was asked for, and all later ones.
func (p *Page) Continues(from Place) bool {
	if p.topic.isStream() {
		return p.from.Version <= from.Version
	}
	return p.from.At <= from.At
}

// After returns the page's events past a place and up to head, if the page continues
// the place. No event is missing up to the position that it returns.
func (p *Page) After(from Place, head eventstore.Position) ([]*Entry, eventstore.Position) {
	var i int
	if !p.topic.isStream() {
		i = afterPosition(p.entries, from.At)
	} else {
		i = afterVersion(p.entries, from.Version)
	}
	return upTo(p.entries[i:], head), min(p.to.At, head)
}

// Reader waits for a page.
type Reader interface {
	// IsWaiting reports whether the reader still wants the page.
	IsWaiting() bool
	// Resume passes the page to the reader, or nil if it must ask again. It
	// returns false if the reader does not use the page.
	Resume(*Page) bool
}

// Pages reads the log for readers that are behind the window.
//
// Readers at nearby places get the same page: reads begin at round places,
// readers share a read in progress, and the most recently used pages are kept.
// The number of concurrent reads is bounded; clients are served in turn. Reads that
// no client waits for use the turns that are left. A page is pinned until the
// readers that waited for it have read it. While the pinned pages exceed 16 MiB, no
// other page is read.
type Pages struct {
	source  pageSource
	log     *slog.Logger
	commits int // that one read asks for
	reads   int // maximum of concurrent reads

	mu      sync.Mutex
	topics  map[Topic][]*list.Element // of kept pages
	kept    *list.List                // of *Page, the most recently used in front
	bytes   int
	pinned  int       // bytes of the pages with pins
	unpins  sync.Cond // signalled when pinned falls, and by Stop
	stopped bool
	pending map[pageKey]*pageRead // wanted or in progress
	wanted  queue.Fair[*pageRead] // by the client that asked first
	readers int                   // goroutines
	epoch   int                   // of the log; pages of an older one are not kept
	done    sync.WaitGroup
}

// pageSource is the log that pages are read from.
type pageSource interface {
	// context ends when no client is left.
	context() context.Context
	// next reads the page that follows a place, up to the head.
	next(client string, t Topic, from Place) (*Page, error)
}

// pageKey is where a read begins.
type pageKey struct {
	topic Topic
	from  Place
}

type pageRead struct {
	key     pageKey
	client  string // the one that asked first
	ahead   int    // pages past it to read
	waiting []Reader
}

func newPages(source pageSource, commits, reads int, log *slog.Logger) *Pages {
	ps := &Pages{
		source: source, commits: commits, reads: reads, log: log,
		topics: make(map[Topic][]*list.Element), kept: list.New(), pending: make(map[pageKey]*pageRead),
	}
	ps.unpins.L = &ps.mu
	return ps
}

// Stop waits until no read is in progress. The log's context must have ended.
func (ps *Pages) Stop() {
	ps.mu.Lock()
	ps.stopped = true
	ps.unpins.Broadcast()
	ps.mu.Unlock()
	ps.done.Wait()
}

// Get returns a page with the events that follow a place. If it returns nil, it
// reads the page and then calls the reader's Resume.
func (ps *Pages) Get(r Reader, client string, t Topic, from Place) *Page {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if el := ps.find(t, from); el != nil {
		ps.kept.MoveToFront(el)
		p := el.Value.(*Page)
		if ps.readers < ps.reads {
			ps.readAhead(client, p, pagesAhead)
		}
		return p
	}
	if read := ps.want(client, pageKey{t, ps.round(t, from)}); read != nil {
		read.ahead = pagesAhead
		read.waiting = append(read.waiting, r)
	}
	return nil
}

// find returns the kept page that has the events that follow a place, or nil. The
// caller holds ps.mu.
func (ps *Pages) find(t Topic, from Place) *list.Element {
	for _, el := range ps.topics[t] {
		if el.Value.(*Page).covers(from) {
			return el
		}
	}
	return nil
}

// want returns the read of a page, which it begins if there is none. It returns nil
// after Stop. The caller holds ps.mu.
func (ps *Pages) want(client string, key pageKey) *pageRead {
	if read := ps.pending[key]; read != nil || ps.stopped {
		return read
	}
	read := &pageRead{key: key, client: client}
	ps.pending[key] = read
	ps.wanted.Push(client, read)
	if ps.readers < ps.reads {
		ps.readers++
		ps.done.Add(1)
		go ps.readWanted()
	}
	return read
}

// readAhead begins to read the first page that is missing of the n that follow p,
// unless reads wait for their turn. The caller holds ps.mu, and knows that a read is
// possible.
func (ps *Pages) readAhead(client string, p *Page, n int) {
	for ; n > 0 && !p.isLast && ps.wanted.Len() == 0; n-- {
		el := ps.find(p.topic, p.to)
		if el == nil {
			key := pageKey{p.topic, ps.round(p.topic, p.to)}
			if ps.pending[key] == nil {
				if read := ps.want(client, key); read != nil {
					read.ahead = n - 1
				}
			}
			return
		}
		p = el.Value.(*Page)
	}
}

// round moves a place back by less than a page, to a multiple of a step, so that
// nearby readers begin at the same place.
func (ps *Pages) round(t Topic, p Place) Place {
	step := uint64(max(1, ps.commits/4))
	if !t.isStream() {
		return Place{At: p.At - p.At%eventstore.Position(step)}
	}
	return Place{Version: p.Version - p.Version%eventstore.Version(step)}
}

// readWanted reads pages until no more are wanted.
func (ps *Pages) readWanted() {
	defer ps.done.Done()
	for {
		ps.mu.Lock()
		for ps.pinned > pageMemory && !ps.stopped {
			ps.unpins.Wait()
		}
		if ps.wanted.Len() == 0 || ps.stopped {
			ps.readers--
			ps.mu.Unlock()
			return
		}
		r, epoch := ps.wanted.Pop(), ps.epoch
		ps.mu.Unlock()

		p := ps.readPatiently(r)
		ps.mu.Lock()
		delete(ps.pending, r.key)
		waiting := r.waiting
		if epoch != ps.epoch {
			p = nil
		}
		if p != nil {
			ps.keep(p)
			ps.pin(p, len(waiting))
			ps.readAhead(r.client, p, r.ahead)
		}
		ps.mu.Unlock()
		for _, reader := range waiting {
			if !reader.Resume(p) && p != nil {
				ps.Unpin(p)
			}
		}
	}
}

// pin keeps a page in memory for more readers. The caller holds ps.mu.
func (ps *Pages) pin(p *Page, readers int) {
	if p.pins == 0 && readers > 0 {
		ps.pinned += p.bytes
	}
	p.pins += readers
}

// Unpin unpins a page. A reader calls it when it has read the page of its
// Resume.
func (ps *Pages) Unpin(p *Page) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.pins--; p.pins == 0 {
		ps.pinned -= p.bytes
		ps.unpins.Broadcast()
	}
}

// readPatiently reads a page. If that fails, it retries as long as a reader
// waits for the page. It returns nil when none does.
func (ps *Pages) readPatiently(r *pageRead) *Page {
	ctx := ps.source.context()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause+50*time.Millisecond, 2*time.Second) {
		p, err := ps.source.next(r.client, r.key.topic, r.key.from)
		if err == nil {
			return p
		}
		if !errors.Is(err, eventstore.ErrUnavailable) && ctx.Err() == nil {
			ps.log.Warn("reading the log for subscriptions failed", "err", err)
		}
		if !ps.isNeeded(r) {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// isNeeded drops the readers that no longer wait, and reports whether any is
// left.
func (ps *Pages) isNeeded(r *pageRead) bool {
	ps.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	ps.mu.Unlock()
	var still []Reader // IsWaiting takes a lock that comes before ps.mu
	for _, reader := range waiting {
		if reader.IsWaiting() {
			still = append(still, reader)
		}
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r.waiting = append(still, r.waiting...)
	return len(r.waiting) > 0
}

// keep keeps a page for other readers. The caller holds ps.mu.
func (ps *Pages) keep(p *Page) {
	ps.topics[p.topic] = append(ps.topics[p.topic], ps.kept.PushFront(p))
	ps.bytes += p.bytes
	for ps.bytes > pageMemory && ps.kept.Len() > 1 {
		ps.drop(ps.kept.Back())
	}
}

// drop drops a kept page. The caller holds ps.mu.
func (ps *Pages) drop(el *list.Element) {
	p := ps.kept.Remove(el).(*Page)
	ps.bytes -= p.bytes
	same := ps.topics[p.topic]
	for i := range same {
		if same[i] == el {
			last := len(same) - 1
			same[i], same[last] = same[last], nil
			same = same[:last]
			break
		}
	}
	if len(same) == 0 {
		delete(ps.topics, p.topic)
	} else {
		ps.topics[p.topic] = same
	}
}

// Clear drops all pages, since the log has changed.
func (ps *Pages) Clear() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.topics = make(map[Topic][]*list.Element)
	ps.kept.Init()
	ps.bytes = 0
	ps.epoch++
}
