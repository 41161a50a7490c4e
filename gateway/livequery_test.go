package gateway_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/internal/sockettest"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// view is what a client shows of a live query, by docs/protocol.md.
type view struct {
	rows   map[string]frame.Row
	state  map[string]frame.Row // since a reset, until live
	batch  []frame.Frame        // until synced
	cursor string
	resets []string
	live   int // frames
}

func newView() *view {
	return &view{rows: map[string]frame.Row{}, state: map[string]frame.Row{}}
}

// apply applies a frame. It returns true if the rows are then those of one moment.
func (v *view) apply(t testing.TB, f frame.Frame) (complete bool) {
	t.Helper()
	switch f := f.(type) {
	case frame.Rows:
		for _, r := range f.Rows {
			v.state[r.Key] = r
		}
	case frame.Live:
		if f.Position == nil {
			t.Errorf("%s has no position", f.Append(nil))
		}
		v.rows, v.state, v.cursor = v.state, map[string]frame.Row{}, f.Cursor
		v.live++
		return true
	case frame.Update, frame.Keys:
		v.batch = append(v.batch, f)
	case frame.Synced:
		for _, change := range v.batch {
			v.change(change)
		}
		v.batch, v.cursor = nil, f.Cursor
		return true
	case frame.Reset:
		v.batch, v.state = nil, map[string]frame.Row{}
		if v.resets = append(v.resets, f.Reason); f.Reason == frame.ResetAccess {
			v.rows = map[string]frame.Row{}
		}
	default:
		t.Errorf("got %s", f.Append(nil))
	}
	return false
}

func (v *view) change(f frame.Frame) {
	switch f := f.(type) {
	case frame.Update:
		if f.Gone {
			delete(v.rows, f.Key)
			return
		}
		v.rows[f.Key] = frame.Row{Key: f.Key, Rank: f.Rank, Position: f.Position, Data: f.Data}
	case frame.Keys:
		maps.DeleteFunc(v.rows, func(key string, _ frame.Row) bool { return !slices.Contains(f.Keys, key) })
	}
}

// shows returns the rows in order, as key=position.
func (v *view) shows() string {
	var list []string
	for _, r := range slices.SortedFunc(maps.Values(v.rows), func(a, b frame.Row) int { return strings.Compare(a.Rank, b.Rank) }) {
		list = append(list, fmt.Sprintf("%s=%d", r.Key, r.Position))
	}
	return strings.Join(list, " ")
}

// until reads frames of the view's query until the rows are those given.
func (v *view) until(c *client, rows string) {
	c.t.Helper()
	for complete := false; !complete || v.shows() != rows; {
		f, err := c.next()
		if err != nil {
			c.t.Fatalf("the client shows %q and wants %q: %v", v.shows(), rows, err)
		}
		complete = v.apply(c.t, f)
	}
}

// protocol: client subscribe, gateway state, gateway live, gateway update, gateway synced, gateway subscribed
// protocol: rule A batch is atomic.
func TestLiveQuerySendsItsStateAndThenBatches(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 30, "", "c", "d")
	rows.put("ada", 10, "", "a")
	rows.blocked = 1
	n := newWorld(t).node(with(rows))
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","query":"cheap","data":{"max":50}}`)
	if f := want[frame.Subscribed](c); f.ID != "s" || f.Cursor != "0" {
		t.Errorf("got %s", f.Append(nil))
	}
	if first := want[frame.Rows](c); keysOf(first.Rows) != "a c" || !first.More || first.Sub != "s" {
		t.Errorf("got %s", first.Append(nil))
	}
	if last := want[frame.Rows](c); keysOf(last.Rows) != "d" || last.More {
		t.Errorf("got %s", last.Append(nil))
	}
	if f := want[frame.Live](c); f.Cursor == "" || *f.Position != 3 || f.Blocked != 1 {
		t.Errorf("got %s", f.Append(nil))
	}
	rows.put("ada", 40, "x", "a")
	if f := want[frame.Update](c); f.Key != "a" || f.Rank != "000000040a" || f.Position != 4 || !strings.Contains(string(f.Data), `"x"`) {
		t.Errorf("got %s", f.Append(nil))
	}
	if f := want[frame.Synced](c); f.Position != 4 || f.Cursor == "" {
		t.Errorf("got %s", f.Append(nil))
	}
	rows.put("ada", 60, "", "a")
	if f := want[frame.Update](c); f.Key != "a" || !f.Gone {
		t.Errorf("got %s", f.Append(nil))
	}
	want[frame.Synced](c)
	c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
	want[frame.Unsubscribed](c)
	if rows.following() != 0 || n.Stats().Following != 0 {
		t.Error("the live query was not closed")
	}
	rows.put("ada", 1, "", "a")
	c.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](c)
}

// protocol: gateway keys
// protocol: rule A live query resumes at any gateway.
func TestLiveQueryResumesAtAnyGateway(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, "", "a", "b", "c")
	w := newWorld(t)
	gateways := []*node{w.node(with(rows)), w.node(with(rows))}
	c := gateways[0].join("ada")
	c.send(`{"op":"subscribe","id":"s","query":"cheap","data":{}}`)
	want[frame.Subscribed](c)
	v := newView()
	v.until(c, "a=1 b=2 c=3")
	for i := range 5 {
		_ = c.conn.CloseNow()
		at := rows.put("ada", 1, "", "a")
		rows.put("ada", i%2, "", "b") // deleted at first
		c = gateways[i%2].dial()
		c.sendf(`{"op":"hello","id":"h","client":"ada","log":%q,"subscriptions":[{"id":"s","query":"cheap","data":{},"cursor":%q}]}`, w.store.LogID(), v.cursor)
		want[frame.Welcome](c)
		want[frame.Subscribed](c)
		if shows := fmt.Sprintf("a=%d c=3", at); i%2 == 0 {
			v.until(c, shows)
		} else {
			v.until(c, fmt.Sprintf("a=%d b=%d c=3", at, at+1))
		}
	}
	if v.live != 1 || len(v.resets) != 0 {
		t.Errorf("got %d live frames and the resets %v", v.live, v.resets)
	}
}

// protocol: gateway reset
// protocol: rule reset replaces all rows.
func TestForeignCursorOfAQueryGetsANewState(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, "", "a")
	n := newWorld(t).node(with(rows))
	c := n.join("ada")
	for _, cursor := range []string{"7", "0", "table:1:99999999", strings.Repeat("~", 1024)} {
		c.sendf(`{"op":"subscribe","id":"s","query":"cheap","data":{},"cursor":%q}`, cursor)
		want[frame.Subscribed](c)
		v := newView()
		v.until(c, "a=1")
		if !slices.Equal(v.resets, []string{"expired"}) {
			t.Errorf("%.20s: got the resets %v", cursor, v.resets)
		}
		c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
		want[frame.Unsubscribed](c)
	}
	c = n.dial()
	c.sendf(`{"op":"hello","id":"h","client":"ada","log":"an older one","subscriptions":[{"id":"s","query":"cheap","data":{},"cursor":"table:1:1"}]}`)
	want[frame.Welcome](c)
	want[frame.Subscribed](c)
	v := newView()
	v.until(c, "a=1")
	if !slices.Equal(v.resets, []string{"log"}) {
		t.Errorf("got the resets %v", v.resets)
	}
}

// protocol: client auth, gateway unsubscribed
func TestRenewedTokenChangesWhatALiveQueryShows(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, "", "a")
	rows.put("bob", 2, "", "b")
	n := newWorld(t).node(with(rows))
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","query":"mine","data":{}}`)
	want[frame.Subscribed](c)
	v := newView()
	v.until(c, "a=1")
	c.send(`{"op":"subscribe","id":"v","query":"vault","data":{}}`)
	want[frame.Subscribed](c)
	newView().until(c, "a=1 b=2")
	c.send(`{"op":"auth","id":"r","token":"dev:ada {\"all\":true,\"out\":true}"}`)
	var ended frame.Unsubscribed
	for authenticated, complete := false, false; !authenticated || !complete || ended.Sub == ""; {
		switch f := c.read().(type) {
		case frame.Unsubscribed:
			ended = f
		case frame.Result:
			authenticated = true
		default:
			complete = v.apply(t, f)
		}
	}
	if v.shows() != "a=1 b=2" || !slices.Equal(v.resets, []string{"access"}) {
		t.Errorf("the client shows %q after the resets %v", v.shows(), v.resets)
	}
	if ended.Sub != "v" || ended.Code != command.CodeForbidden || ended.Cursor == "" || rows.following() != 1 {
		t.Errorf("got %s, and %d queries continue", ended.Append(nil), rows.following())
	}
}

// protocol: error rate_limited, error busy
// protocol: rule Limits that a client cares for
func TestQueriesPastTheirLimitsAreRefused(t *testing.T) {
	t.Parallel()
	rows := newTable()
	n := newWorld(t).node(with(rows), limited(func(l *gateway.Limits) { l.LiveQueries, l.Queries = 1, 2 }))
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"1","query":"cheap","data":{}}`)
	want[frame.Subscribed](c)
	newView().until(c, "")
	c.send(`{"op":"subscribe","id":"2","query":"cheap","data":{}}`)
	if f := c.wantFault("2", command.CodeRateLimited); f.Retry != command.RetryNo || !strings.Contains(f.Message, "at most 1 live queries") {
		t.Errorf("got %s", f.Append(nil))
	}
	n.wantLimited("live_queries", 1)
	c.send(`{"op":"unsubscribe","id":"u","sub":"1"}`)
	want[frame.Unsubscribed](c)

	rows.mu.Lock()
	rows.hold = make(chan struct{})
	rows.mu.Unlock()
	c.send(`{"op":"query","id":"1","query":"cheap","data":{}}` + "\n" + `{"op":"subscribe","id":"2","query":"cheap","data":{}}`)
	waitFor(t, func() bool {
		rows.mu.Lock()
		defer rows.mu.Unlock()
		return rows.held == 2
	})
	c.send(`{"op":"query","id":"3","query":"cheap","data":{}}`)
	if f := c.wantFault("3", command.CodeBusy); f.Retry != command.RetryLater || f.AfterMS != 500 {
		t.Errorf("got %s", f.Append(nil))
	}
	if got := n.Stats().Limited["queries"]; got != 1 {
		t.Errorf("counted %d refusals, want 1", got)
	}
	if status, body := n.do("POST", "/v1/queries/cheap", "ada", "{}"); status != http.StatusTooManyRequests || !strings.Contains(body, `"code":"busy"`) {
		t.Errorf("got %d %s", status, body)
	}
	c.send(`{"op":"unsubscribe","id":"u","sub":"2"}`) // before it has begun
	if f := want[frame.Unsubscribed](c); f.Sub != "2" {
		t.Errorf("got %s", f.Append(nil))
	}
	close(rows.hold)
	if f := want[frame.Result](c); f.ID != "1" {
		t.Errorf("got %s", f.Append(nil))
	}
	waitFor(t, func() bool { return rows.following() == 0 })
}

func TestLiveQueryOverServerSentEvents(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, "", "a")
	w := newWorld(t)
	n := w.node(with(rows))
	for name, c := range map[string]struct {
		path   string
		header []string
		status int
		has    string
	}{
		"an unknown query": {"/v1/queries/unicorns", nil, 404, "not_found"},
		"a page":           {"/v1/queries/cheap?after=x", nil, 400, `"field":"after"`},
		"a future":         {"/v1/queries/cheap?at_least=9&timeout_ms=1", nil, 503, "not yet 9"},
		"a long cursor":    {"/v1/queries/cheap", []string{"Last-Event-ID", strings.Repeat("x", 1025)}, 400, `"field":"cursor"`},
	} {
		if _, resp, err := n.follow(c.path, "ada", `{}`, c.header...); err == nil || resp.StatusCode != c.status || !strings.Contains(err.Error(), c.has) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	waitFor(t, func() bool { return n.Stats().Sessions == 0 && rows.following() == 0 })
	e, resp, err := n.follow("/v1/queries/cheap", "ada", `{}`)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get("Ganglion-Log") != w.store.LogID() {
		t.Errorf("the header is %v", resp.Header)
	}
	if ev := e.wantEvent(t, "state", `{"rows":[{"key":"a","rank":"000000001a","position":1,`); ev.id != "" {
		t.Errorf("got %+v", ev)
	}
	live := e.wantEvent(t, "live", `"position":1}`)
	if live.id == "" || !strings.HasPrefix(live.data, fmt.Sprintf(`{"cursor":%q`, live.id)) {
		t.Errorf("got %+v", live)
	}
	rows.put("ada", 2, "", "b")
	e.wantEvent(t, "update", `{"key":"b",`)
	synced := e.wantEvent(t, "synced", `"position":2}`)
	if synced.id == live.id {
		t.Errorf("got %+v after %+v", synced, live)
	}
	e.close()
	rows.put("ada", 0, "", "a")
	again, _, err := w.node(with(rows)).follow("/v1/queries/cheap?log="+w.store.LogID(), "ada", `{}`, "Last-Event-ID", synced.id)
	if err != nil {
		t.Fatal(err)
	}
	again.wantEvent(t, "keys", `{"keys":["b"]}`)
	again.wantEvent(t, "synced", `"position":3}`)
	other, _, err := n.follow("/v1/queries/cheap?log=older", "ada", `{}`, "Last-Event-ID", synced.id)
	if err != nil {
		t.Fatal(err)
	}
	other.wantEvent(t, "reset", `{"reason":"log"}`)
	other.wantEvent(t, "state", `"key":"b"`)
	if err := n.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	other.wantEvent(t, "live", "")
	for name := ""; name != "close"; {
		ev, err := other.next()
		if err == io.EOF {
			t.Fatal("the event stream has no close")
		}
		name = ev.name
	}
	waitFor(t, func() bool { return rows.following() == 1 })
}

// TestSlowReaderOfALiveQueryMissesOnlyIntermediateForms does not read from a socket
// with a small buffer while rows change. The gateway holds one message for it. When
// it reads again, it gets the newest forms.
//
// protocol: rule Intermediate forms may be skipped.
func TestSlowReaderOfALiveQueryMissesOnlyIntermediateForms(t *testing.T) {
	t.Parallel()
	rows := newTable()
	n := newWorld(t).node(with(rows), func(c *gateway.Config) { c.SendBuffer = 4 << 10 })
	slow, quick := n.openRaw(), n.join("ada")
	slow.send(sockettest.Text(`{"op":"hello","id":"h","client":"eve"}` + "\n" + `{"op":"subscribe","id":"s","query":"cheap","data":{}}`))
	for op := ""; op != "live"; op = slow.answer().Op() {
	}
	keys := []string{"a", "b", "c", "d"}
	changes := 0
	change := func() {
		changes += len(keys)
		rows.put("ada", 1, strings.Repeat("x", 10_000), keys...)
		quick.send(`{"op":"ping","id":"p"}`) // a client that reads is not affected
		want[frame.Pong](quick)
	}
	for n.Stats().Full == 0 {
		change()
	}
	for range 100 {
		change()
	}
	waitFor(t, func() bool { return n.Stats().Full == 1 })
	if held := n.Stats().Outbound; held > 100<<10 {
		t.Errorf("the gateway holds %d bytes", held)
	}
	if err := slow.conn.SetDeadline(time.Now().Add(patience)); err != nil { // extend it
		t.Fatal(err)
	}
	v, updates := newView(), 0
	for complete := false; !complete || v.shows() != fmt.Sprintf("a=%d b=%d c=%d d=%d", changes-3, changes-2, changes-1, changes); {
		f := slow.answer()
		if _, ok := f.(frame.Update); ok {
			updates++
		}
		complete = v.apply(t, f)
	}
	if len(v.resets) != 0 || updates > changes-200 {
		t.Errorf("got %d updates of %d changes, and the resets %v", updates, changes, v.resets)
	}
}
