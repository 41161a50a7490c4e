package ganglion

import (
	"cmp"
	"fmt"
	"strconv"
)

const (
	// defaultBuffer bounds the items that wait for the application, unless
	// WithBuffer sets another bound.
	defaultBuffer = 1_000
	// minWatchedStreams is the minimum number of streams of a category that are
	// checked for gaps. Beyond it the client forgets the streams that have been
	// quiet for longest.
	minWatchedStreams = 10_000
)

// follower is a subscription to the events, or the states, of a stream or a
// category: its buffered items, and the cursors of the newest item that arrived
// and of the newest item that was delivered.
type follower struct {
	subscriber
	topic topic
	start start
	limit int  // number of buffered items at which it pauses
	marks bool // "live" is an item, for Follow

	received  string    // cursor of the newest item that arrived
	delivered string    // cursor of the newest item that the application received
	previous  string    // delivered, before the newest item
	position  uint64    // of the newest event that arrived
	version   uint64    // of the newest event that arrived, for a stream; of the newest state, without events
	known     bool      // version is known
	versions  *versions // for a category, instead of version
	buffer    []item
	paused    bool
}

// versions remembers the newest version of each stream of a category. When recent
// is full, it becomes older, and the streams that were only in older are forgotten.
type versions struct {
	recent, older map[string]uint64
	isWhole       bool // it began with the first event and has forgotten no stream, so an unknown stream is at version 0
}

func (v *versions) of(stream string) (version uint64, known bool) {
	if version, known = v.recent[stream]; !known {
		version, known = v.older[stream]
	}
	return version, known || v.isWhole
}

func (v *versions) set(stream string, version uint64) {
	v.recent[stream] = version
	if len(v.recent) >= minWatchedStreams {
		v.isWhole = v.isWhole && len(v.older) == 0
		v.older, v.recent = v.recent, map[string]uint64{}
	}
}

// follow begins a subscription. If invalid is not nil, it returns a subscription
// that has ended with this error.
func (c *Client) follow(t topic, o subscribeOptions, invalid *Error) *follower {
	f := &follower{
		topic: t, start: o.start, limit: o.buffer, marks: o.marks,
		received: o.start.Cursor, delivered: o.start.Cursor,
	}
	if o.start.After != nil {
		f.version, f.known = *o.start.After, true
	}
	if t.Category != "" {
		f.versions = &versions{recent: map[string]uint64{}, isWhole: o.start.Cursor == "0"}
	}
	c.subscribe(&f.subscriber, f, invalid)
	return f
}

func (f *follower) isPaused() bool { return f.paused }

func (f *follower) request() subscribeFrame {
	return subscribeFrame{topic: f.topic, start: f.nextStart()}
}

// nextStart returns where the next subscribe begins or resumes. A subscription
// without events gets the newest state wherever it begins.
func (f *follower) nextStart() start {
	if f.received == "" || f.start.State == stateOnly {
		return f.start
	}
	s := start{Cursor: f.received}
	if f.start.State == stateEach {
		s.State = stateEach
	}
	return s
}

func (f *follower) isResuming() bool {
	w := f.nextStart()
	return w.After != nil && *w.After > 0 || w.Cursor != "" && w.Cursor != "0"
}

func (f *follower) interrupted()            {}
func (f *follower) isTransient(*Error) bool { return false }
func (f *follower) finished()               {}

func (f *follower) startOver() {
	if f.start.State == stateOnly {
		f.version, f.known = 0, false
	}
}

func (f *follower) handle(a *gatewayFrame) {
	switch a.Op {
	case "event":
		f.handleEvent(a)
	case "state":
		f.handleState(a)
	case "live":
		f.handleLive(a)
	}
}

func (f *follower) handleHeartbeat(cursor string, isBehind bool) {
	if isBehind {
		f.live = false
	}
	if isBehind || f.live {
		f.received = cursor
	}
}

func (f *follower) handleSubscribed(a *gatewayFrame) {
	if f.received == "" && f.start.isNow() {
		f.received = a.Cursor
	}
}

func (f *follower) handleUnsubscribed(cursor string) { f.received = cmp.Or(cursor, f.received) }

// handleState handles the state that comes first, or a state after events, which
// has no cursor of its own.
func (f *follower) handleState(a *gatewayFrame) {
	i := a.item
	i.kind, i.Stream = KindState, f.topic.Stream
	switch f.start.State {
	case stateEach:
		i.Cursor = f.received
	case stateOnly:
		if f.known && a.Version <= f.version {
			return // of a gateway that is behind the previous one
		}
		f.version, f.known, i.Cursor = a.Version, true, f.received
	default:
		f.version, f.known, f.position = a.Version, true, a.Position
		i.Cursor = strconv.FormatUint(a.Position, 10)
	}
	if last := len(f.buffer) - 1; last >= 0 && f.buffer[last].kind == KindState {
		f.buffer[last], f.received = i, i.Cursor // a newer state replaces one that the application has not received
		return
	}
	f.bufferItem(i)
}

func (f *follower) handleEvent(a *gatewayFrame) {
	last, known := f.version, f.known
	if f.versions != nil {
		last, known = f.versions.of(a.Stream)
	}
	switch {
	case a.Position <= f.position || known && a.Version <= last:
		f.c.report(&Error{
			Code: CodeProtocol, Version: a.Version, Retry: RetryNo,
			Message: fmt.Sprintf("the server sent version %d of %s, position %d, again: dropped", a.Version, a.Stream, a.Position),
		})
		return
	case known && a.Version != last+1:
		f.endWithGap(a.Stream, last+1, a.Version)
		return
	}
	if f.versions != nil {
		f.versions.set(a.Stream, a.Version)
	} else {
		f.version, f.known = a.Version, true
	}
	f.position = a.Position
	i := a.item
	i.kind, i.Cursor, i.Stream = KindEvent, strconv.FormatUint(i.Position, 10), cmp.Or(i.Stream, f.topic.Stream)
	f.bufferItem(i)
}

// endWithGap ends the subscription because the server left out an event.
func (f *follower) endWithGap(stream string, expected, got uint64) {
	f.endForApplication(&Error{
		Code: CodeGap, Version: expected, Retry: RetryNo,
		Message: fmt.Sprintf("the server left out version %d of %s before version %d: subscribe again from cursor %q", expected, stream, got, f.received),
	})
}

func (f *follower) handleLive(a *gatewayFrame) {
	if a.KnownVersion != nil && f.versions == nil && f.start.State != stateOnly {
		if f.known && a.Version != f.version {
			f.endWithGap(f.topic.Stream, f.version+1, a.Version+1)
			return
		}
		f.version, f.known = a.Version, true
	}
	f.live = true
	if !f.marks {
		f.received = a.Cursor
		return
	}
	i := a.item
	i.kind = KindLive
	f.bufferItem(i)
}

// bufferItem adds an item for the application.
func (f *follower) bufferItem(i item) {
	f.received = i.Cursor
	f.buffer = append(f.buffer, i)
	f.signal()
	if len(f.buffer) >= f.limit && !f.paused && !f.ended {
		// All subscriptions share the socket, so the client must continue to read
		// it. It requests later events again, from the cursor.
		f.paused = true
		f.c.unsubscribe(&f.subscriber)
	}
}

// next returns the next item, or the error that ended the subscription, or
// neither if there is no item yet.
func (f *follower) next() (i item, ok bool, err error) {
	f.c.mu.Lock()
	defer f.c.unlock()
	if len(f.buffer) == 0 {
		return item{}, false, f.err
	}
	i = f.buffer[0]
	f.buffer[0] = item{} // release its data
	f.buffer = f.buffer[1:]
	f.previous, f.delivered = f.delivered, i.Cursor
	if f.paused && len(f.buffer) <= f.limit/2 {
		f.paused = false
		if f.wantsSubscribe() {
			f.c.sendSubscribe(&f.subscriber)
		}
	}
	return i, true, nil
}

// cursor returns the cursor from which the application can resume.
func (f *follower) cursor() string {
	f.c.mu.Lock()
	defer f.c.unlock()
	if len(f.buffer) > 0 {
		return f.delivered
	}
	return f.received
}

// close ends the subscription for the application and delivers nothing more.
func (f *follower) close(err error) {
	f.c.mu.Lock()
	defer f.c.unlock()
	if len(f.buffer) > 0 { // not delivered
		f.buffer, f.received = nil, f.delivered
	}
	f.endForApplication(err)
}

// rejectNewest closes the subscription because the newest item could not be
// decoded. The cursor stays before that item.
func (f *follower) rejectNewest(err error) {
	f.close(err)
	f.c.mu.Lock()
	defer f.c.unlock()
	f.received, f.delivered = f.previous, f.previous
}
