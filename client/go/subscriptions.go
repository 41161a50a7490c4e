package ganglion

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

const (
	// bufferEvents is where a subscription reads no more until its application
	// has caught up, unless WithBuffer says otherwise.
	bufferEvents = 1_000
	// watchedStreams is how many streams of a category are checked for holes
	// at least; past it those unheard of for longest are not.
	watchedStreams = 10_000
	// helloBytes is how much of hello is subscriptions; the others follow
	// welcome.
	helloBytes = 16_000
)

// subscriptions are all those of a client.
type subscriptions struct {
	feeds []*feed // in the order in which they began
	byID  map[string]*feed
}

// feed is one subscription: what has come, what the application has had, and
// where to go on.
type feed struct {
	c     *Client
	topic topic
	start start
	most  int  // where it pauses
	marks bool // "live" is an item

	id   string // on the current connection
	live bool

	received  string    // the cursor of what has come
	delivered string    // that of what the application has had
	before    string    // that of what it had before the newest
	position  uint64    // of the last event that came
	version   uint64    // of a stream: that of the last event that came
	known     bool      // version is
	versions  *versions // of a category, instead
	buffer    []item
	paused    bool
	retry     *timer // of the next attempt
	moves     bool   // waits for another connection
	attempts  int
	over      bool
	err       error
	ready     chan struct{} // there is something to take; has room for one
}

// versions remembers the newest version of each stream of a category: in two
// generations, so that what is unheard of for longest is forgotten.
type versions struct {
	young, old map[string]uint64
	whole      bool // the category from its beginning: streams begin at version 1
}

func (v *versions) of(stream string) (version uint64, known bool) {
	if version, known = v.young[stream]; !known {
		version, known = v.old[stream]
	}
	return version, known || v.whole
}

func (v *versions) set(stream string, version uint64) {
	v.young[stream] = version
	if len(v.young) >= watchedStreams {
		v.whole = v.whole && len(v.old) == 0
		v.old, v.young = v.young, map[string]uint64{}
	}
}

// follow begins a subscription, unless something is wrong with it.
func (c *Client) follow(t topic, o subscribeOptions, wrong *Error) *feed {
	f := &feed{
		c: c, topic: t, start: o.start, most: o.buffer, marks: o.marks,
		received: o.start.Cursor, delivered: o.start.Cursor, ready: make(chan struct{}, 1),
	}
	if o.start.After != nil {
		f.version, f.known = *o.start.After, true
	}
	if t.Category != "" {
		f.versions = &versions{young: map[string]uint64{}, whole: o.start.Cursor == "0"}
	}
	c.mu.Lock()
	defer c.unlock()
	if wrong == nil && c.status == Closed {
		wrong = &Error{Code: CodeClosed, Message: "the client is closed", Retry: RetryNo, cause: c.err}
	}
	if wrong != nil {
		f.over, f.err = true, wrong
		return f
	}
	c.feeds = append(c.feeds, f)
	c.begin(f)
	c.settle()
	return f
}

// wanted tells whether a connection is to have it.
func (f *feed) wanted() bool { return f.id == "" && !f.paused && f.retry == nil && !f.moves && !f.over }

// where says where it begins or goes on.
func (f *feed) where() start {
	if f.received == "" {
		return f.start
	}
	return start{Cursor: f.received}
}

// resumes tells whether it goes on from something known of the log.
func (f *feed) resumes() bool {
	w := f.where()
	return w.After != nil && *w.After > 0 || w.Cursor != "" && w.Cursor != "0"
}

// helloSubscriptions are those that fit into hello.
func (c *Client) helloSubscriptions() []subscribeFrame {
	var frames []subscribeFrame
	size := 0
	for _, f := range c.feeds {
		if !f.wanted() {
			continue
		}
		frame := c.subscribe(f)
		if size += len(encode(frame)); size > helloBytes {
			c.forget(f)
			break
		}
		frames = append(frames, frame)
	}
	return frames
}

func (c *Client) openSubscriptions() {
	for _, f := range c.feeds {
		if f.wanted() {
			c.begin(f)
		}
	}
}

func (c *Client) begin(f *feed) {
	if c.welcomed {
		c.say(encode(c.subscribe(f)))
	}
}

func (c *Client) subscribe(f *feed) subscribeFrame {
	f.id = c.id()
	c.byID[f.id] = f
	return subscribeFrame{Op: "subscribe", ID: f.id, topic: f.topic, start: f.where()}
}

// stopFrames ends the frames of a subscription.
func (c *Client) stopFrames(f *feed) {
	if f.id != "" && c.welcomed {
		c.say(encode(smallFrame{Op: "unsubscribe", ID: c.id(), Sub: f.id}))
	}
	c.forget(f)
	c.settle()
}

func (c *Client) forget(f *feed) {
	delete(c.byID, f.id)
	f.id, f.live = "", false
}

func (c *Client) behind() bool {
	return slices.ContainsFunc(c.feeds, func(f *feed) bool { return !f.live })
}

// heard takes a frame of a subscription. It returns false if that is none.
func (c *Client) heard(a *answer) bool {
	switch a.Op {
	case "event":
		if f := c.byID[a.Sub]; f != nil { // those of one that was stopped may still arrive
			f.event(a)
		}
	case "state":
		if f := c.byID[a.Sub]; f != nil {
			f.version, f.known, f.position = a.Version, true, a.Position
			f.push(KindState, a)
		}
	case "live":
		if f := c.byID[a.Sub]; f != nil {
			f.caughtUp(a)
			c.settle()
		}
	case "heartbeat":
		c.heartbeat(a)
	case "subscribed":
		if f := c.byID[a.ID]; f != nil {
			f.begun(a.Cursor)
		}
	case "unsubscribed":
		if f := c.byID[a.Sub]; f != nil && a.ID == "" {
			f.received = cmp.Or(a.Cursor, f.received)
			e := a.failure()
			e.Retry = RetryNo
			f.refused(e, a, e.Code == CodeUnavailable)
		}
	case "error":
		f := c.byID[a.ID]
		if f == nil {
			return false
		}
		f.refused(a.failure(), a, a.Code == CodeNotFound)
	default:
		return false
	}
	return true
}

// heartbeat tells each subscription that is live how far it has all there
// is; one that is named as behind has its own cursor, and no part in the
// heartbeat's.
func (c *Client) heartbeat(a *answer) {
	for _, f := range c.byID {
		if f.live {
			f.received = a.Cursor
		}
	}
	for _, b := range a.Behind {
		if f := c.byID[b.Sub]; f != nil {
			f.live, f.received = false, b.Cursor
		}
	}
	c.settle()
}

func (f *feed) begun(cursor string) {
	f.attempts = 0
	if f.received == "" && f.start == (start{}) {
		f.received = cursor
	}
}

func (f *feed) event(a *answer) {
	last, known := f.version, f.known
	if f.versions != nil {
		last, known = f.versions.of(a.Stream)
	}
	switch {
	case a.Position <= f.position || known && a.Version <= last:
		f.c.report(&Error{
			Code: CodeProtocol, Version: a.Version, Retry: RetryNo,
			Message: fmt.Sprintf("version %d of %s, position %d, came again: left out", a.Version, a.Stream, a.Position),
		})
		return
	case known && a.Version != last+1:
		f.gap(a.Stream, last+1, a.Version)
		return
	}
	if f.versions != nil {
		f.versions.set(a.Stream, a.Version)
	} else {
		f.version, f.known = a.Version, true
	}
	f.position = a.Position
	f.push(KindEvent, a)
}

// gap ends it, since the server left something out.
func (f *feed) gap(stream string, expected, got uint64) {
	f.c.stopFrames(f)
	f.end(&Error{
		Code: CodeGap, Version: expected, Retry: RetryNo,
		Message: fmt.Sprintf("the server left out version %d of %s before version %d: subscribe again from the cursor %q", expected, stream, got, f.received),
	})
}

func (f *feed) caughtUp(a *answer) {
	if a.KnownVersion != nil && f.versions == nil {
		if f.known && a.Version != f.version {
			f.gap(f.topic.Stream, f.version+1, a.Version+1)
			return
		}
		f.version, f.known = a.Version, true
	}
	f.live = true
	if f.marks {
		f.push(KindLive, a)
	} else {
		f.received = a.Cursor
	}
}

// refused takes note that the server does not serve it: for good, for now or,
// if away is set, as long as it is this server.
func (f *feed) refused(e *Error, a *answer, away bool) {
	c := f.c
	c.forget(f)
	if away && c.elsewhere(e.Code == CodeNotFound) {
		f.moves, e.Retry = true, RetryLater
	}
	if e.Retry == RetryNo {
		f.end(e)
		return
	}
	c.report(e)
	if f.moves {
		c.settle()
		return
	}
	wait, told := a.after()
	if !told {
		wait = c.backoff(f.attempts, 500*time.Millisecond, longestWait)
		f.attempts++
	}
	f.retry = c.after(wait, func() {
		f.retry = nil
		if f.wanted() {
			c.begin(f)
		}
	})
	c.settle()
}

// push hands an item to the application.
func (f *feed) push(kind Kind, a *answer) {
	i := a.item
	i.kind = kind
	if kind != KindLive {
		i.Cursor = strconv.FormatUint(i.Position, 10)
		i.Stream = cmp.Or(i.Stream, f.topic.Stream)
	}
	f.received = i.Cursor
	f.buffer = append(f.buffer, i)
	f.signal()
	if len(f.buffer) >= f.most && !f.paused && !f.over {
		// The socket is everybody's, so reading it can't pause: the events that
		// follow come again from the cursor.
		f.paused = true
		f.c.stopFrames(f)
	}
}

func (f *feed) signal() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// take returns the next item, or why there will be none; neither, if there is
// none yet.
func (f *feed) take() (i item, ok bool, err error) {
	f.c.mu.Lock()
	defer f.c.unlock()
	if len(f.buffer) == 0 {
		return item{}, false, f.err
	}
	i = f.buffer[0]
	f.buffer[0] = item{} // its data is the application's from now on
	f.buffer = f.buffer[1:]
	f.before, f.delivered = f.delivered, i.Cursor
	if f.paused && len(f.buffer) <= f.most/2 {
		f.paused = false
		if f.wanted() {
			f.c.begin(f)
		}
	}
	return i, true, nil
}

// cursor is where the application would go on.
func (f *feed) cursor() string {
	f.c.mu.Lock()
	defer f.c.unlock()
	if len(f.buffer) > 0 {
		return f.delivered
	}
	return f.received
}

// end ends it; what has come before is still delivered.
func (f *feed) end(err error) {
	if f.over {
		return
	}
	c := f.c
	f.over, f.err = true, err
	f.signal()
	f.retry.stop()
	c.forget(f)
	if at := slices.Index(c.feeds, f); at >= 0 {
		c.feeds = slices.Delete(c.feeds, at, at+1)
	}
	c.settle()
}

// close ends it as the application wants, and delivers nothing more.
func (f *feed) close(err error) {
	f.c.mu.Lock()
	defer f.c.unlock()
	if len(f.buffer) > 0 { // the application has not had these
		f.buffer, f.received = nil, f.delivered
	}
	if !f.over {
		f.c.stopFrames(f)
		f.end(err)
	}
}

// refuse closes it since the application could not take the newest item.
func (f *feed) refuse(err error) {
	f.close(err)
	f.c.mu.Lock()
	defer f.c.unlock()
	f.received, f.delivered = f.before, f.before
}

func (c *Client) lostSubscriptions() {
	for _, f := range c.byID {
		f.id, f.live = "", false
	}
	clear(c.byID)
	for _, f := range c.feeds {
		f.moves = false
	}
}

// otherLog ends what refers to a log that is no more.
func (c *Client) otherLog() {
	for _, f := range slices.Clone(c.feeds) {
		if f.resumes() {
			f.end(&Error{
				Code: CodeCursorAhead, Retry: RetryNo,
				Message: fmt.Sprintf("the cursor belongs to another log than %s: what you know was lost here; start again", c.log),
			})
		}
	}
}

func (c *Client) closeSubscriptions(err *Error) {
	for _, f := range slices.Clone(c.feeds) {
		f.end(err)
	}
}
