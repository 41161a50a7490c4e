package gateway

import (
	"cmp"
	"container/list"
	"errors"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// pageMemory bounds the pages that are kept for others who read the same.
const pageMemory = 16 << 20

// page is a part of the log as one topic sees it, encoded, shared by all who
// read there. It is immutable.
type page struct {
	topic topic
	from  place // the events come after it
	to    place // and every one at or below it is there
	list  []*entry
	bytes int

	pins int // readers that were given it and have not looked yet; guarded by pages.mu
}

// place is where a reader is: a position, and for streams a version.
type place struct {
	at      eventstore.Position
	version eventstore.Version
}

// covers tells whether a page has what comes next for a reader.
func (p *page) covers(r place) bool {
	if p.topic.category == "" {
		return p.from.version <= r.version && r.version <= p.to.version && r.at < p.to.at
	}
	return p.from.at <= r.at && r.at < p.to.at
}

// after returns the page's events past a place and not past head, and up to
// where that is all of them.
func (p *page) after(at eventstore.Position, version eventstore.Version, head eventstore.Position) ([]*entry, eventstore.Position) {
	var i int
	if p.topic.category == "" {
		i = search(p.list, func(e *entry) int { return cmp.Compare(e.version, version) })
	} else {
		i = search(p.list, func(e *entry) int { return cmp.Compare(e.position, at) })
	}
	rest := p.list[i:]
	if n := len(rest); n > 0 && rest[n-1].position > head {
		rest = rest[:search(rest, func(e *entry) int { return cmp.Compare(e.position, head) })]
	}
	return rest, min(p.to.at, head)
}

// pages reads the log for subscriptions that are behind the window.
//
// Readers that are near each other get the same page: reads begin at round
// places, a read that is under way is joined, and the newest pages are kept.
// No more than Config.PageReads reads are under way at once, whoever waits;
// clients are served in turn. A page is pinned until those who waited for it
// have had their turn, and nothing more is read while the pinned ones take all
// of the memory.
type pages struct {
	g *Gateway

	mu      sync.Mutex
	topics  map[topic][]*list.Element // of kept pages
	kept    *list.List                // of *page, the one used last in front
	bytes   int
	pinned  int       // bytes of the pages with pins
	unpins  sync.Cond // signalled when that falls, and by stop
	stopped bool
	reads   map[pageKey]*pageRead // wanted or under way
	wanted  fairQueue[*pageRead]  // by the client that asked first
	readers int
	epoch   int // of the log; pages of an older one are not kept
	done    sync.WaitGroup
}

// pageKey is where a read begins.
type pageKey struct {
	topic topic
	from  place
}

type pageRead struct {
	key     pageKey
	client  string // the one that asked first
	waiting []*subscription
}

func newPages(g *Gateway) *pages {
	ps := &pages{g: g, topics: make(map[topic][]*list.Element), kept: list.New(), reads: make(map[pageKey]*pageRead)}
	ps.unpins.L = &ps.mu
	return ps
}

// stop ends the reading, and waits until it has ended. The gateway's context
// has ended before.
func (ps *pages) stop() {
	ps.mu.Lock()
	ps.stopped = true
	ps.unpins.Broadcast()
	ps.mu.Unlock()
	ps.done.Wait()
}

// get returns a page that has what comes next for a subscription. If it
// returns nil, the subscription is resumed once the page is there. The caller
// holds session.mu.
func (ps *pages) get(sub *subscription) *page {
	here := place{sub.at, sub.version}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, el := range ps.topics[sub.topic] {
		if p := el.Value.(*page); p.covers(here) {
			ps.kept.MoveToFront(el)
			return p
		}
	}
	key := pageKey{sub.topic, ps.round(sub.topic, here)}
	r := ps.reads[key]
	if r == nil && !ps.stopped {
		r = &pageRead{key: key, client: sub.session.identity.Client}
		ps.reads[key] = r
		ps.wanted.push(r.client, r)
		if ps.readers < ps.g.cfg.PageReads {
			ps.readers++
			ps.done.Add(1)
			go ps.read()
		}
	}
	if r != nil {
		r.waiting = append(r.waiting, sub)
	}
	return nil
}

// round moves a place back to where others begin as well, no further than one
// page reaches.
func (ps *pages) round(t topic, p place) place {
	step := uint64(max(1, ps.g.cfg.PageCommits/4))
	if t.category == "" {
		return place{version: p.version - p.version%eventstore.Version(step)}
	}
	return place{at: p.at - p.at%eventstore.Position(step)}
}

// read reads what is wanted until nothing is.
func (ps *pages) read() {
	defer ps.done.Done()
	for {
		ps.mu.Lock()
		for ps.pinned > pageMemory && !ps.stopped {
			ps.unpins.Wait()
		}
		if ps.wanted.len() == 0 || ps.stopped {
			ps.readers--
			ps.mu.Unlock()
			return
		}
		r, epoch := ps.wanted.pop(), ps.epoch
		ps.mu.Unlock()

		p := ps.readOne(r)
		ps.mu.Lock()
		delete(ps.reads, r.key)
		waiting := r.waiting
		if epoch != ps.epoch {
			p = nil
		}
		if p != nil {
			ps.keep(p)
			ps.pin(p, len(waiting))
		}
		ps.mu.Unlock()
		for _, sub := range waiting {
			if !sub.resume(p) && p != nil {
				ps.unpin(p)
			}
		}
	}
}

// pin keeps a page in memory for some more readers. The caller holds ps.mu.
func (ps *pages) pin(p *page, readers int) {
	if p.pins == 0 && readers > 0 {
		ps.pinned += p.bytes
	}
	p.pins += readers
}

// unpin undoes pin for one reader.
func (ps *pages) unpin(p *page) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p.pins--; p.pins == 0 {
		ps.pinned -= p.bytes
		ps.unpins.Broadcast()
	}
}

// readOne reads a page, again and again while the log can't be read and
// somebody waits. It returns nil if nobody does.
func (ps *pages) readOne(r *pageRead) *page {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause+50*time.Millisecond, 2*time.Second) {
		p, err := ps.g.readPage(ps.g.ctx, r.client, r.key.topic, r.key.from, ps.g.hub.position())
		if err == nil {
			return p
		}
		if !errors.Is(err, eventstore.ErrUnavailable) && ps.g.ctx.Err() == nil {
			ps.g.cfg.Logger.Warn("reading the log for subscriptions failed", "error", err)
		}
		if !ps.needed(r) {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ps.g.ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// needed drops those who wait no longer, and tells whether anybody does.
func (ps *pages) needed(r *pageRead) bool {
	ps.mu.Lock()
	waiting := r.waiting
	r.waiting = nil
	ps.mu.Unlock()
	var still []*subscription // session.mu comes before pages.mu
	for _, sub := range waiting {
		if !sub.over() {
			still = append(still, sub)
		}
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	r.waiting = append(still, r.waiting...)
	return len(r.waiting) > 0
}

func (ps *pages) keep(p *page) {
	ps.topics[p.topic] = append(ps.topics[p.topic], ps.kept.PushFront(p))
	ps.bytes += p.bytes
	for ps.bytes > pageMemory && ps.kept.Len() > 1 {
		ps.drop(ps.kept.Back())
	}
}

func (ps *pages) drop(el *list.Element) {
	p := ps.kept.Remove(el).(*page)
	ps.bytes -= p.bytes
	of := ps.topics[p.topic]
	for i := range of {
		if of[i] == el {
			last := len(of) - 1
			of[i], of[last] = of[last], nil
			of = of[:last]
			break
		}
	}
	if len(of) == 0 {
		delete(ps.topics, p.topic)
	} else {
		ps.topics[p.topic] = of
	}
}

// clear forgets all pages: the log is another one.
func (ps *pages) clear() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.topics = make(map[topic][]*list.Element)
	ps.kept.Init()
	ps.bytes = 0
	ps.epoch++
}
