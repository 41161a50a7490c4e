package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Log is the part of an [eventstore.Store] that the console reads.
type Log interface {
	Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error)
	ReadType(ctx context.Context, typ string, after eventstore.Position, limit, scan int) ([]eventstore.Commit, eventstore.Position, error)
	Head(ctx context.Context) (eventstore.Position, error)
	StreamHead(ctx context.Context, s eventstore.StreamID) (eventstore.Head, error)
	Load(ctx context.Context, r eventstore.LoadRequest) (eventstore.Loaded, error)
	LogID() string
}

const (
	// reads is the number of concurrent reads of the log for pages. Further ones wait.
	reads = 2
	// clipBytes is the number of bytes of an event's data in a list of events.
	clipBytes = 2 << 10
	// defaultEvents and maxEvents are the numbers of events in an answer.
	defaultEvents, maxEvents = 50, 200
	// scanPositions and scanBytes bound what one request examines; with filters, few
	// of the events may match.
	scanPositions, scanBytes = 20_000, 16 << 20
	// readBytes is about how much one read of the log may return. readCommits is the
	// number of commits of the first read, which does not know their size yet.
	readBytes, readCommits, maxReadCommits = 4 << 20, 64, 2000
)

// event is an event as pages show it.
type event struct {
	Position uint64 `json:"position"`
	Version  uint64 `json:"version"`
	Type     string `json:"type"`
	ID       string `json:"id"`
	Event    string `json:"event"`
	Form     int    `json:"form,omitempty"`
	At       string `json:"at"` // RFC 3339
	Client   string `json:"client,omitempty"`
	Key      string `json:"key"`
	Trace    string `json:"trace,omitempty"`
	Depth    int    `json:"depth,omitempty"`
	// First is the position of the first event of the command, Count their number.
	First uint64 `json:"first"`
	Count int    `json:"count"`
	// Cause is the position of the event to which a process manager reacted with the
	// command, 0 for commands of clients.
	Cause uint64 `json:"cause,omitempty"`
	// Data is the text of the data, Bytes its length. Users without the role reader get
	// neither. If the text is longer than clipBytes, lists have only its beginning.
	Data    *string `json:"data,omitempty"`
	Bytes   int     `json:"bytes,omitempty"`
	Clipped bool    `json:"clipped,omitempty"`
}

// show returns event i of a commit for a user with a role.
func show(c *eventstore.Commit, i int, role Role, whole bool) event {
	e := event{
		Position: uint64(c.First()) + uint64(i), Version: uint64(c.FirstVersion()) + uint64(i), Type: c.Stream.Type, ID: c.Stream.ID,
		Event: c.Events[i].Type, Form: c.Events[i].Form, At: c.At.UTC().Format(time.RFC3339Nano),
		Client: c.Meta.Client, Key: c.Key, Trace: c.Meta.Trace, Depth: c.Meta.Depth,
		First: uint64(c.First()), Count: len(c.Events), Cause: causeOf(c),
	}
	if role.includes(Reader) {
		data := c.Events[i].Data
		e.Bytes, e.Clipped = len(data), !whole && len(data) > clipBytes
		if e.Clipped {
			n := clipBytes
			for n > 0 && !utf8.RuneStart(data[n]) {
				n--
			}
			data = data[:n]
		}
		text := string(data)
		e.Data = &text
	}
	return e
}

// causeOf returns the position of the event that caused a command. It is in the keys
// of commands of process managers: ~NAME:POSITION.K:N.
func causeOf(c *eventstore.Commit) uint64 {
	if !strings.HasPrefix(c.Key, eventstore.Reserved) {
		return 0
	}
	parts := strings.Split(c.Key, ":")
	if len(parts) != 3 {
		return 0
	}
	position, _, ok := strings.Cut(parts[1], ".")
	n, err := strconv.ParseUint(position, 10, 64)
	if !ok || err != nil {
		return 0
	}
	return n
}

// filter selects events. Empty members match all events.
type filter struct {
	typ, id, event, client, key string
	cause                       uint64
}

func filterOf(q url.Values) (filter, error) {
	f := filter{typ: q.Get("type"), id: q.Get("id"), event: q.Get("event"), client: q.Get("client"), key: q.Get("key")}
	var err error
	f.cause, _, err = number(q, "cause")
	return f, err
}

// matches reports whether event i of a commit matches.
func (f *filter) matches(c *eventstore.Commit, i int) bool {
	return (f.typ == "" || f.typ == c.Stream.Type) && (f.id == "" || f.id == c.Stream.ID) && (f.event == "" || f.event == c.Events[i].Type) &&
		(f.client == "" || f.client == c.Meta.Client) && (f.key == "" || f.key == c.Key) && (f.cause == 0 || f.cause == causeOf(c))
}

// number returns a parameter that is a whole number, and whether it is there.
func number(q url.Values, name string) (n uint64, given bool, err error) {
	text := q.Get(name)
	if text == "" {
		return 0, false, nil
	}
	n, err = strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, false, fmt.Errorf("the parameter %s must be a whole number of 0 or more", name)
	}
	return n, true, nil
}

// limitOf returns the parameter limit.
func limitOf(q url.Values) (int, error) {
	n, given, err := number(q, "limit")
	switch {
	case err != nil:
		return 0, err
	case !given:
		return defaultEvents, nil
	case n < 1 || n > maxEvents:
		return 0, fmt.Errorf("the parameter limit must be from 1 to %d", maxEvents)
	}
	return int(n), nil
}

// reader reads the log for pages. It bounds the concurrent reads, and the memory of
// each.
type reader struct {
	log    Log
	places chan struct{} // one element for each read in progress
}

func newReader(log Log) *reader { return &reader{log, make(chan struct{}, reads)} }

// turn waits until a read may begin. The caller must call done.
func (r *reader) turn(ctx context.Context) (done func(), err error) {
	select {
	case r.places <- struct{}{}:
		return func() { <-r.places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *reader) head(ctx context.Context) (eventstore.Position, error) {
	done, err := r.turn(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	return r.log.Head(ctx)
}

// scan calls each with the commits that have events in (after, upTo], in order, until
// each returns false or scanBytes were read. With a type it may leave out commits of
// others. It returns the position up to which it has looked.
func (r *reader) scan(ctx context.Context, typ string, after, upTo eventstore.Position, each func(*eventstore.Commit) bool) (eventstore.Position, error) {
	limit, total := readCommits, 0
	for after < upTo {
		commits, end, err := r.page(ctx, typ, after, upTo, limit)
		if err != nil {
			return after, err
		}
		size := 0
		for i := range commits {
			c := &commits[i]
			size += sizeOf(c)
			if c.First() > upTo {
				return upTo, nil
			}
			if !each(c) {
				return min(c.Position, upTo), nil
			}
		}
		if end <= after { // the head
			return after, nil
		}
		after = min(end, upTo)
		if total += size; total > scanBytes {
			break
		}
		if len(commits) > 0 {
			limit = min(max(readBytes*len(commits)/size, 1), maxReadCommits)
		}
	}
	return after, nil
}

// page reads once. It returns the position up to which it has looked: after, at the
// head.
func (r *reader) page(ctx context.Context, typ string, after, upTo eventstore.Position, limit int) ([]eventstore.Commit, eventstore.Position, error) {
	done, err := r.turn(ctx)
	if err != nil {
		return nil, after, err
	}
	defer done()
	if typ != "" {
		return r.log.ReadType(ctx, typ, after, limit, int(min(upTo-after, scanPositions)))
	}
	commits, err := r.log.Read(ctx, after, limit)
	if err != nil || len(commits) == 0 {
		return nil, after, err
	}
	return commits, commits[len(commits)-1].Position, nil
}

// sizeOf returns about how many bytes a commit takes.
func sizeOf(c *eventstore.Commit) int {
	size := 300
	for i := range c.Events {
		size += len(c.Events[i].Data) + 50
	}
	return size
}

// since returns the position before the first commit that was decided at or after a
// time. Clocks of nodes differ a little, so commits near it may be earlier or later.
func (r *reader) since(ctx context.Context, at time.Time, head eventstore.Position) (eventstore.Position, error) {
	var failure error
	n := sort.Search(int(head), func(i int) bool {
		if failure != nil {
			return true
		}
		commits, _, err := r.page(ctx, "", eventstore.Position(i), head, 1)
		if err != nil {
			failure = err
			return true
		}
		return len(commits) == 0 || !commits[0].At.Before(at)
	})
	return eventstore.Position(n), failure
}

// eventsPage is an answer of serveEvents.
type eventsPage struct {
	Log  string `json:"log"`
	Head uint64 `json:"head"`
	// The positions after After and up to To were examined; Events are the matching ones.
	After  uint64  `json:"after"`
	To     uint64  `json:"to"`
	Events []event `json:"events"` // in the order of the log
}

// serveEvents answers with a page of the log: the first matching events after a
// position or from a time on, or the last ones before a position. It examines a bounded
// number of events, and says which, so the page can continue.
func (c *Console) serveEvents(w http.ResponseWriter, r *http.Request, user User) {
	q := r.URL.Query()
	f, err := filterOf(q)
	limit, limitErr := limitOf(q)
	after, isForward, afterErr := number(q, "after")
	before, isBackward, beforeErr := number(q, "before")
	var at time.Time
	var atErr error
	if text := q.Get("at"); text != "" {
		if at, atErr = time.Parse(time.RFC3339, text); atErr != nil {
			atErr = fmt.Errorf("the parameter at must be a time as in RFC 3339, such as 2026-01-31T12:00:00Z")
		}
	}
	if bad := firstOf(err, limitErr, afterErr, beforeErr, atErr); bad != nil {
		refuse(w, http.StatusBadRequest, bad.Error())
		return
	}
	head, err := c.reader.head(r.Context())
	p := eventsPage{Log: c.cfg.Log.LogID(), Head: uint64(head), Events: []event{}}
	if err == nil && !at.IsZero() {
		var found eventstore.Position
		found, err = c.reader.since(r.Context(), at, head)
		after, isForward = uint64(found), true
	}
	if err == nil {
		switch whole := q.Get("whole") != "" && limit == 1; {
		case isForward:
			err = c.forward(r.Context(), &p, f, min(eventstore.Position(after), head), limit, user.Role, whole)
		case isBackward && before == 0:
		default:
			if !isBackward || before > uint64(head) {
				before = uint64(head) + 1
			}
			err = c.backward(r.Context(), &p, f, eventstore.Position(before-1), limit, user.Role)
		}
	}
	if err != nil {
		c.refuseRead(w, r, err)
		return
	}
	answer(w, p)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// forward adds the first matching events after a position.
func (c *Console) forward(ctx context.Context, p *eventsPage, f filter, after eventstore.Position, limit int, role Role, whole bool) error {
	upTo := min(after+scanPositions, eventstore.Position(p.Head))
	full := eventstore.Position(0)
	to, err := c.reader.scan(ctx, f.typ, after, upTo, func(commit *eventstore.Commit) bool {
		for i := range commit.Events {
			position := commit.First() + eventstore.Position(i)
			if position <= after || position > upTo || !f.matches(commit, i) {
				continue
			}
			p.Events = append(p.Events, show(commit, i, role, whole))
			if len(p.Events) == limit {
				full = position
				return false
			}
		}
		return true
	})
	if full > 0 {
		to = full
	}
	p.After, p.To = uint64(after), uint64(to)
	return err
}

// backward adds the last matching events up to a position. It reads pieces of the log,
// the newest first, each forward.
func (c *Console) backward(ctx context.Context, p *eventsPage, f filter, last eventstore.Position, limit int, role Role) error {
	p.After, p.To = uint64(last), uint64(last)
	oldest := last - min(last, scanPositions)
	for step, size := eventstore.Position(limit), 0; p.After > uint64(oldest) && len(p.Events) < limit && size < scanBytes; step = min(2*step, 2*maxReadCommits) {
		upTo := eventstore.Position(p.After)
		from := max(oldest, upTo-min(upTo, step))
		found := []event{}
		for at := from; at < upTo; {
			next, err := c.reader.scan(ctx, f.typ, at, upTo, func(commit *eventstore.Commit) bool {
				size += sizeOf(commit)
				for i := range commit.Events {
					position := commit.First() + eventstore.Position(i)
					if position > at && position <= upTo && f.matches(commit, i) {
						found = append(found, show(commit, i, role, false))
					}
				}
				return true
			})
			if err != nil {
				return err
			}
			if next == at {
				break
			}
			at = next
		}
		p.After = uint64(from)
		if more := len(p.Events) + len(found) - limit; more > 0 { // the oldest of them belong to the next page
			p.After = found[more-1].Position
			found = found[more:]
		}
		p.Events = append(found, p.Events...)
	}
	return nil
}

// answer sends JSON.
func answer(w http.ResponseWriter, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "the answer cannot be written as JSON")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // the page may have gone
}

// refuseRead answers that a read of the log failed.
func (c *Console) refuseRead(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // the page has gone
	}
	c.cfg.Logger.Warn("reading the log for the console failed", "err", err)
	refuse(w, http.StatusServiceUnavailable, "the log cannot be read: "+err.Error())
}
