package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// table answers the queries of tests from rows in memory. The query cheap has the
// rows up to a price, for every client; mine has those of an identified client, and
// of all clients for the claim "all"; vault is for ada.
type table struct {
	mu      sync.Mutex
	rows    map[string]goods
	at      eventstore.Position            // of the newest change
	left    map[string]eventstore.Position // deleted rows
	lives   map[*live]bool
	changed chan struct{} // closed at the next change
	blocked int
	hold    chan struct{} // if set, questions wait until it is closed
	held    int           // questions that wait for it
	renewed int           // calls of Renew
	closed  bool          // no client may ask any more
}

type goods struct {
	position eventstore.Position
	price    int
	owner    string
	text     string
}

func newTable() *table {
	return &table{rows: map[string]goods{}, left: map[string]eventstore.Position{}, lives: map[*live]bool{}, changed: make(chan struct{})}
}

// put changes rows, of which price 0 deletes one, and wakes the live queries.
func (t *table) put(owner string, price int, text string, keys ...string) eventstore.Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		t.at++
		delete(t.rows, key)
		if t.left[key] = t.at; price > 0 {
			t.rows[key] = goods{t.at, price, owner, text}
		}
	}
	close(t.changed)
	t.changed = make(chan struct{})
	for l := range t.lives {
		l.hasNews = true
		l.wake() // with the lock held: a caller must not call back
	}
	return t.at
}

// following returns the number of live queries that were not closed.
func (t *table) following() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.lives)
}

// condition returns which rows the caller may see.
func condition(q ask.Question) (func(goods) bool, *command.Failure) {
	var data struct{ Max *int }
	d := json.NewDecoder(bytes.NewReader(q.Data))
	d.DisallowUnknownFields()
	if err := d.Decode(&data); err != nil {
		return nil, command.BadRequest("max", "the parameters are not valid: %v", err)
	}
	cheap := func(g goods) bool { return data.Max == nil || g.price <= *data.Max }
	switch {
	case q.Query == "cheap", q.Query == "count":
		return cheap, nil
	case q.Query == "mine" && q.Client == "", q.Query == "vault" && q.Client == "":
		return nil, command.Unauthenticated("identify yourself to ask %q", q.Query)
	case q.Query == "vault" && (q.Client != "ada" || q.Claims["out"] != nil):
		return nil, command.Forbidden("%s may not ask %q", q.Client, q.Query)
	case q.Query == "vault":
		return cheap, nil
	case q.Query == "mine" && q.Claims["all"] != nil:
		return cheap, nil
	case q.Query == "mine":
		return func(g goods) bool { return cheap(g) && g.owner == q.Client }, nil
	}
	return nil, command.NotFound("unknown query %s", command.Quote(q.Query))
}

// await waits until the table has reached a position. It returns with the lock held,
// unless it fails.
func (t *table) await(ctx context.Context, at eventstore.Position) *command.Failure {
	t.mu.Lock()
	if hold := t.hold; hold != nil {
		t.held++
		t.mu.Unlock()
		select {
		case <-hold:
		case <-ctx.Done():
			return command.Timeout(command.RetryLater, "the rows could not be read in time: retry")
		}
		t.mu.Lock()
	}
	for t.at < at {
		changed, now := t.changed, t.at
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return command.Unavailable("the rows show the log up to position %d, not yet %d: retry later", now, at)
		}
		t.mu.Lock()
	}
	return nil
}

// matching returns the rows of a condition in order. The caller holds t.mu.
func (t *table) matching(is func(goods) bool) []ask.Row {
	list := []ask.Row{}
	for key, g := range t.rows {
		if is(g) {
			list = append(list, row(key, g))
		}
	}
	slices.SortFunc(list, func(a, b ask.Row) int { return strings.Compare(a.Rank, b.Rank) })
	return list
}

func row(key string, g goods) ask.Row {
	return ask.Row{
		Key: key, Rank: fmt.Sprintf("%09d%s", g.price, key), Position: g.position,
		Data: fmt.Appendf(nil, `{"price":%d,"owner":%q,"text":%q}`, g.price, g.owner, g.text),
	}
}

const pageRows = 2

func (t *table) Ask(ctx context.Context, q ask.Question) (ask.Answer, *command.Failure) {
	is, failure := condition(q)
	if failure != nil {
		return ask.Answer{}, failure
	}
	if failure := t.await(ctx, q.AtLeast); failure != nil {
		return ask.Answer{}, failure
	}
	defer t.mu.Unlock()
	a := ask.Answer{Position: t.at, Blocked: t.blocked}
	if q.Query == "count" { // as a query that is answered by code
		a.Value = fmt.Append(nil, len(t.matching(is)))
		return a, nil
	}
	for _, r := range t.matching(is) {
		switch {
		case r.Rank <= q.After:
		case len(a.Rows) == pageRows:
			a.Next = a.Rows[pageRows-1].Rank
			return a, nil
		default:
			a.Rows = append(a.Rows, r)
		}
	}
	return a, nil
}

// live is a live query: it remembers what it has sent.
type live struct {
	t        *table
	question ask.Question
	is       func(goods) bool
	wake     func()
	shown    map[string]eventstore.Position
	rest     []ask.Row // of the state; nil once it is complete
	hasNews  bool
	pending  []ask.Part
	cursor   string
	resumed  bool // a synced follows, even if nothing has changed
}

func (t *table) Follow(ctx context.Context, q ask.Question, cursor string, wake func()) (ask.Live, *command.Failure) {
	is, failure := condition(q)
	if failure != nil {
		return nil, failure
	}
	if failure := t.await(ctx, q.AtLeast); failure != nil {
		return nil, failure
	}
	defer t.mu.Unlock()
	l := &live{t: t, question: q, is: is, wake: wake, hasNews: true}
	t.lives[l] = true
	switch from, ok := l.parse(cursor); {
	case ok:
		l.resume(from)
	case cursor != "":
		l.reset("expired")
	default:
		l.begin()
	}
	wake()
	return l, nil
}

// cursorAt is a cursor: a hash of the question, and a position.
func (l *live) cursorAt(at eventstore.Position) string {
	h := fnv.New32()
	fmt.Fprintf(h, "%s %s %s %v", l.question.Query, l.question.Data, l.question.Client, l.question.Claims)
	return fmt.Sprintf("table:%x:%d", h.Sum32(), at)
}

func (l *live) parse(cursor string) (at eventstore.Position, ok bool) {
	_, err := fmt.Sscanf(cursor[strings.LastIndex(cursor, ":")+1:], "%d", &at)
	return at, err == nil && at <= l.t.at && cursor == l.cursorAt(at)
}

func (l *live) begin() {
	l.shown, l.cursor, l.rest = map[string]eventstore.Position{}, "", l.t.matching(l.is)
}

func (l *live) reset(reason string) {
	l.pending = append(l.pending, part(frame.Reset{Reason: reason}))
	l.begin()
}

// resume continues after a position: what the client has is what matches and has not
// changed since.
func (l *live) resume(from eventstore.Position) {
	l.shown = map[string]eventstore.Position{}
	l.cursor, l.resumed = l.cursorAt(from), true
	keys := frame.Keys{Keys: []string{}}
	hasLeft := false
	for _, r := range l.t.matching(l.is) {
		keys.Keys = append(keys.Keys, r.Key)
		l.shown[r.Key] = min(r.Position, from)
	}
	for _, at := range l.t.left {
		hasLeft = hasLeft || at > from
	}
	if hasLeft {
		l.pending = append(l.pending, part(keys))
	}
}

// part makes a part of a frame without a subscription.
func part(f frame.Frame) ask.Part {
	head := `{"op":"` + f.Op() + `","sub":"",`
	return ask.Part{Op: f.Op(), Tail: bytes.TrimPrefix(f.Append(nil), []byte(head))}
}

func (l *live) Next(room int) (parts []ask.Part, more bool) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	for size := 0; size < room; {
		if len(l.pending) == 0 && !l.next() {
			return parts, false
		}
		parts = append(parts, l.pending[0])
		size += len(l.pending[0].Tail)
		l.pending = l.pending[1:]
	}
	return parts, len(l.pending) > 0 || l.hasNews || l.rest != nil
}

// next makes the next pending part. It returns false if there is none.
func (l *live) next() bool {
	switch {
	case l.rest != nil:
		page := l.rest[:min(pageRows, len(l.rest))]
		f := frame.Rows{Rows: []frame.Row{}, More: len(page) < len(l.rest)}
		for _, r := range page {
			f.Rows = append(f.Rows, frame.Row(r))
			l.shown[r.Key] = r.Position
		}
		l.pending = append(l.pending, part(f))
		if l.rest = l.rest[len(page):]; !f.More {
			l.rest = nil
			l.cursor = l.cursorAt(l.t.at) // changes since begin follow as updates
			l.pending = append(l.pending, part(frame.Live{Cursor: l.cursor, Position: &l.t.at, Blocked: l.t.blocked}))
		}
	case l.hasNews:
		l.hasNews = false
		for _, r := range l.t.matching(l.is) {
			if at, ok := l.shown[r.Key]; !ok || at < r.Position {
				l.pending = append(l.pending, part(frame.Update{Key: r.Key, Rank: r.Rank, Position: r.Position, Data: r.Data}))
				l.shown[r.Key] = r.Position
			}
		}
		for key := range l.shown {
			if g, ok := l.t.rows[key]; !ok || !l.is(g) {
				l.pending = append(l.pending, part(frame.Update{Key: key, Gone: true}))
				delete(l.shown, key)
			}
		}
		if l.cursor != l.cursorAt(l.t.at) || len(l.pending) > 0 || l.resumed {
			l.cursor, l.resumed = l.cursorAt(l.t.at), false
			l.pending = append(l.pending, part(frame.Synced{Cursor: l.cursor, Position: l.t.at}))
		}
	}
	return len(l.pending) > 0
}

func (l *live) Cursor() (cursor string, behind bool) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	return l.cursor, l.hasNews || len(l.pending) > 0 || l.t.hold != nil
}

func (l *live) Renew(_ context.Context, client string, claims map[string]any) *command.Failure {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	l.t.renewed++
	if l.t.closed {
		return command.Forbidden("%s may not ask %q any more", client, l.question.Query)
	}
	q := l.question
	q.Client, q.Claims = client, claims
	is, failure := condition(q)
	if failure != nil {
		return failure
	}
	if fmt.Sprint(q.Claims) != fmt.Sprint(l.question.Claims) {
		l.question, l.is, l.pending = q, is, nil
		l.reset("access")
		l.wake()
	}
	return nil
}

func (l *live) Close() {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	delete(l.t.lives, l)
}
