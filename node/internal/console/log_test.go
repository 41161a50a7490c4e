package console

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

// sums is an application whose aggregates add numbers.
type sums struct{ canKeep bool }

type sum struct {
	sums
	Total int `json:"total"`
	Count int `json:"count"`
}

func (s sums) Start(typ string) (Fold, error) {
	if typ != "sum" {
		return nil, fmt.Errorf("no type %q", typ)
	}
	return &sum{sums: s}, nil
}

func (s sums) Restore(_ string, kept json.RawMessage) (Fold, error) {
	made := &sum{sums: s}
	return made, json.Unmarshal(kept, made)
}

func (s sums) Fingerprint(string) string {
	if s.canKeep {
		return "f1"
	}
	return ""
}

func (s *sum) Apply(e eventstore.Event) error {
	switch e.Type {
	case "added":
		var data struct{ By int }
		if err := json.Unmarshal(e.Data, &data); err != nil {
			return err
		}
		s.Total += data.By
		s.Count++
		return nil
	case "boom":
		panic("boom")
	}
	return errors.New("unknown event")
}

func (s *sum) View() (json.RawMessage, error) {
	return fmt.Appendf(nil, `{"total":%d,"secret":"state"}`, s.Total), nil
}

func (s *sum) Keep() (json.RawMessage, error) {
	if !s.canKeep {
		return nil, nil
	}
	return json.Marshal(s)
}

// site is a console on an embedded log.
type site struct {
	*Console
	t     *testing.T
	store *sqlite.Store
	url   string
	keys  atomic.Int64
}

func newSite(t *testing.T, folds Folds) *site {
	t.Helper()
	s := &site{t: t}
	var made atomic.Pointer[Console] // the store may deliver before the console is made
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: func(_ string, batch []eventstore.Commit) {
		if c := made.Load(); c != nil {
			c.Deliver(batch)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.store = store
	s.Console = New(Config{
		Node: "n1", Cluster: "test", Log: store, Folds: folds, Pages: fstest.MapFS{}, Logger: slog.New(slog.DiscardHandler),
		Owner: func(eventstore.StreamID) string { return "n2" },
		Size:  store.Size, Audit: store, Actions: map[string]Action{}, Now: time.Now,
		Identify: func(r *http.Request) (User, error) { return User{Name: "u", Role: Role(r.Header.Get("role"))}, nil },
	})
	made.Store(s.Console)
	server := httptest.NewServer(s.Handler())
	s.url = server.URL
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		server.Close()
		store.Close()
		s.kept.mu.Lock()
		if s.kept.clear != nil {
			s.kept.clear.Stop()
		}
		s.kept.mu.Unlock()
	})
	return s
}

// append stores the events of one command, and returns the position of the last one.
func (s *site) append(stream, client, key string, events ...eventstore.Event) eventstore.Position {
	s.t.Helper()
	id, err := eventstore.ParseStreamID(stream)
	if err != nil {
		s.t.Fatal(err)
	}
	head, err := s.store.StreamHead(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	if key == "" {
		key = fmt.Sprint("k", s.keys.Add(1))
	}
	appended, err := s.store.Append(s.t.Context(), eventstore.Unit{Stream: id, Expected: head.Version, Commands: []eventstore.Command{{
		Key: key, Hash: eventstore.Hash{1}, At: time.Now(), Meta: eventstore.Meta{Client: client}, Events: events,
	}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return appended.Commands[0].Position
}

func added(by int) eventstore.Event {
	return eventstore.Event{Type: "added", Data: fmt.Appendf(nil, `{"by":%d,"secret":"data"}`, by)}
}

// open sends a request, whose body the test must close.
func (s *site) open(ctx context.Context, role Role, path string, q url.Values) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", s.url+path+"?"+q.Encode(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("role", string(role))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// get returns an answer's JSON, and its text.
func get[T any](s *site, role Role, path string, q url.Values) (value T, text string) {
	s.t.Helper()
	resp := s.open(s.t.Context(), role, path, q)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(body, &value)
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s?%s: %s %s %v", path, q.Encode(), resp.Status, body, err)
	}
	return value, string(body)
}

// message is a message of a tail.
type message struct {
	kind string
	data string
}

// tail reads the messages of a tail until the test ends.
func (s *site) tail(ctx context.Context, role Role, q url.Values) <-chan message {
	s.t.Helper()
	resp := s.open(ctx, role, "/api/log", q)
	if resp.StatusCode != http.StatusOK {
		s.t.Fatal(resp.Status)
	}
	messages := make(chan message)
	go func() {
		defer close(messages)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 16<<20)
		var m message
		for lines.Scan() {
			if kind, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				m.kind = kind
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				m.data = data
				select {
				case messages <- m:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return messages
}

// positions returns those of the events in messages until one is at the last position
// or after it. It fails if an event was not shown.
func (s *site) positions(messages <-chan message, last uint64) (shown []uint64) {
	s.t.Helper()
	for m := range messages {
		switch m.kind {
		case "skipped":
			s.t.Errorf("events were skipped: %s", m.data)
		case "events":
			for _, e := range parse[[]event](s.t, m.data) {
				shown = append(shown, e.Position)
			}
		}
		if len(shown) > 0 && shown[len(shown)-1] >= last {
			return shown
		}
	}
	s.t.Fatalf("the tail ends after %v", shown)
	return nil
}

func parse[T any](t *testing.T, text string) (value T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

func query(pairs ...any) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(fmt.Sprint(pairs[i]), fmt.Sprint(pairs[i+1]))
	}
	return q
}

func TestViewerGetsNoPayloadFromAnyLogAnswer(t *testing.T) {
	s := newSite(t, sums{true})
	s.append("sum/1", "ada", "", added(1), added(2))
	s.append("other/1", "ada", "", added(3))
	for path, q := range map[string]url.Values{
		"/api/events": query("after", 0), "/api/streams/sum/1": query("after", 0), "/api/streams/other/1": query("limit", 1, "fold", "yes"),
	} {
		for _, role := range roles {
			_, body := get[map[string]any](s, role, path, q)
			if has := strings.Contains(body, "secret"); has != (role != Viewer) {
				t.Errorf("%s for the role %s: %s", path, role, body)
			}
			if !strings.Contains(body, `"client":"ada"`) {
				t.Errorf("%s for the role %s lacks the client: %s", path, role, body)
			}
		}
	}
	_, body := get[map[string]any](s, Viewer, "/api/events", query("after", 0, "limit", 1, "whole", "yes"))
	if strings.Contains(body, "secret") || strings.Contains(body, "bytes") {
		t.Errorf("a viewer gets %s", body)
	}
	for _, role := range roles {
		ctx, cancel := context.WithCancel(t.Context())
		for m := range s.tail(ctx, role, query("after", 0)) {
			if m.kind == "events" {
				if has := strings.Contains(m.data, "secret"); has != (role != Viewer) {
					t.Errorf("the tail for the role %s: %s", role, m.data)
				}
				cancel()
			}
		}
		cancel()
	}
}

func TestEventsArePagedAndFilteredInBothDirections(t *testing.T) {
	s := newSite(t, sums{})
	want := map[string][]uint64{}
	note := func(filter string, position uint64) { want[filter] = append(want[filter], position) }
	for i := range 100 {
		client, key := []string{"ada", "bob"}[i%2], fmt.Sprintf("key%d", i%7)
		stream, second := fmt.Sprintf("sum/%d", i), eventstore.Event{Type: "boom", Data: []byte(`{}`)}
		if i%5 == 0 {
			stream = fmt.Sprintf("other/%d", i)
		}
		if i%3 == 0 {
			key = fmt.Sprintf("~pm:%d.0:1", i%6+1)
		}
		last := uint64(s.append(stream, client, key, added(i), second))
		for _, position := range []uint64{last - 1, last} {
			note("", position)
			note("client="+client, position)
			note("key="+url.QueryEscape(key), position)
			note("type="+strings.Split(stream, "/")[0], position)
			if i < 4 {
				note("id="+fmt.Sprint(i), position)
			}
			if i%3 == 0 {
				note(fmt.Sprint("cause=", i%6+1), position)
			}
		}
		note("event=added", last-1)
		note("event=boom", last)
	}
	for filter, positions := range want {
		q, err := url.ParseQuery(filter)
		if err != nil {
			t.Fatal(err)
		}
		q.Set("limit", "7")
		var forward, backward []uint64
		for after := uint64(0); after < 200; {
			q.Set("after", fmt.Sprint(after))
			p, _ := get[eventsPage](s, Reader, "/api/events", q)
			for _, e := range p.Events {
				forward = append(forward, e.Position)
			}
			if p.After != after || p.To <= after || len(p.Events) > 7 || p.Head != 200 {
				t.Fatalf("%s after %d: %+v", filter, after, p)
			}
			after = p.To
		}
		q.Del("after")
		for before := uint64(0); before != 1; {
			p, _ := get[eventsPage](s, Reader, "/api/events", q) // first without before
			var page []uint64
			for _, e := range p.Events {
				page = append(page, e.Position)
			}
			backward = append(page, backward...)
			if before > 0 && p.To != before-1 || p.After >= p.To {
				t.Fatalf("%s before %d: %+v", filter, before, p)
			}
			before = p.After + 1
			q.Set("before", fmt.Sprint(before))
		}
		if fmt.Sprint(forward) != fmt.Sprint(positions) || fmt.Sprint(backward) != fmt.Sprint(positions) {
			t.Errorf("%q: forward %v, backward %v, want %v", filter, forward, backward, positions)
		}
	}
}

func TestPageWithoutMatchingEventsHasAnEmptyList(t *testing.T) {
	s := newSite(t, sums{})
	for range 2 { // also of an empty log
		for _, q := range []url.Values{query("key", "none"), query("key", "none", "after", 0), query("key", "none", "before", 1), query("at", "2026-01-01T00:00:00Z", "key", "none")} {
			if _, body := get[eventsPage](s, Reader, "/api/events", q); !strings.Contains(body, `"events":[]`) {
				t.Errorf("%v: %s", q, body)
			}
		}
		s.append("sum/1", "ada", "", added(1))
	}
}

func TestEventsAreFoundByTime(t *testing.T) {
	s := newSite(t, sums{})
	id := eventstore.StreamID{Type: "sum", ID: "1"}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 50 {
		if _, err := s.store.Append(t.Context(), eventstore.Unit{Stream: id, Expected: eventstore.Version(2 * i), Commands: []eventstore.Command{{
			Key: fmt.Sprint(i), Hash: eventstore.Hash{1}, At: begin.Add(time.Duration(i) * time.Minute), Events: []eventstore.Event{added(1), added(2)},
		}}}); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[time.Time]uint64{begin.Add(-time.Hour): 0, begin: 0, begin.Add(time.Second): 2, begin.Add(30 * time.Minute): 60, begin.Add(time.Hour): 100} {
		p, _ := get[eventsPage](s, Viewer, "/api/events", query("at", at.Format(time.RFC3339), "limit", 1))
		if p.After != want || len(p.Events) != min(1, int(100-want)) {
			t.Errorf("at %s: %+v, want the events after %d", at, p, want)
		}
	}
}

func TestLongDataIsClippedUnlessItsEventIsAskedFor(t *testing.T) {
	s := newSite(t, sums{})
	long := `{"text":"` + strings.Repeat("אב", 50_000) + `</script><img onerror=alert(1)>"}`
	s.append("sum/"+strings.Repeat("ש", 100), "ada", "", eventstore.Event{Type: "added", Data: []byte(long)})
	for _, q := range []url.Values{query("after", 0), query("after", 0, "limit", 1)} {
		e := first(get[eventsPage](s, Reader, "/api/events", q)).Events[0]
		if !e.Clipped || e.Bytes != len(long) || len(*e.Data) > clipBytes || !strings.HasPrefix(long, *e.Data) || e.ID != strings.Repeat("ש", 100) {
			t.Errorf("%v: %d bytes of %d, clipped: %v", q, len(*e.Data), e.Bytes, e.Clipped)
		}
	}
	e := first(get[eventsPage](s, Reader, "/api/events", query("after", 0, "limit", 1, "whole", "yes"))).Events[0]
	v := first(get[streamPage](s, Reader, "/api/streams/sum/"+url.PathEscape(e.ID), query("after", 0, "limit", 1))).List[0]
	if e.Clipped || *e.Data != long || v.Clipped || *v.Data != long {
		t.Error("the whole data is missing")
	}
}

func first[T any](v T, _ string) T { return v }

func TestInvalidLogParametersAreRefused(t *testing.T) {
	s := newSite(t, sums{})
	for _, path := range []string{
		"/api/events?after=x", "/api/events?after=-1", "/api/events?limit=0", "/api/events?limit=1000", "/api/events?at=noon", "/api/events?cause=x",
		"/api/events?before=99999999999999999999", "/api/log?after=x", "/api/streams/sum/1?after=x", "/api/streams/SUM/1", "/api/streams/sum/%01",
	} {
		resp := s.open(t.Context(), Reader, strings.Split(path, "?")[0], first2(url.ParseQuery(strings.TrimPrefix(path[strings.Index(path+"?", "?"):], "?"))))
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

func first2[T any](v T, _ error) T { return v }

func TestTailHasNoHoleAndNoRepeatAcrossReconnects(t *testing.T) {
	s := newSite(t, sums{})
	const all = 240
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		for i := range all / 2 {
			s.append("sum/1", "ada", "", added(i), added(i))
		}
	})
	var shown []uint64
	for end := uint64(20); ; end = min(uint64(len(shown))+40, all) { // a message may have shown more than it was read for
		ctx, cancel := context.WithCancel(t.Context())
		q := query("after", 0)
		if len(shown) > 0 {
			q.Set("after", fmt.Sprint(shown[len(shown)-1]))
		}
		shown = append(shown, s.positions(s.tail(ctx, Reader, q), end)...)
		cancel()
		if len(shown) >= all {
			break
		}
	}
	for i, position := range shown {
		if position != uint64(i+1) {
			t.Fatalf("event %d of the tail is at position %d: %v", i+1, position, shown)
		}
	}
	if len(shown) != all {
		t.Errorf("%d events are shown, want %d", len(shown), all)
	}
}

func TestTailBeginsAtHeadAndShowsOnlyMatchingEvents(t *testing.T) {
	s := newSite(t, sums{})
	s.append("sum/1", "ada", "", added(1))
	messages := s.tail(t.Context(), Reader, query("client", "bob", "event", "added"))
	if at := <-messages; at.kind != "at" || parse[place](t, at.data).Position != 1 || parse[place](t, at.data).Log != s.store.LogID() {
		t.Fatalf("the first message is %+v", at)
	}
	s.append("sum/1", "bob", "", eventstore.Event{Type: "boom", Data: []byte(`{}`)})
	s.append("sum/2", "ada", "", added(1))
	last := s.append("sum/3", "bob", "", eventstore.Event{Type: "boom", Data: []byte(`{}`)}, added(7))
	if shown := s.positions(messages, uint64(last)); len(shown) != 1 {
		t.Errorf("the tail shows %v, want %d", shown, last)
	}
}

// TestTailCountsEventsAboveItsRate adds events to a tail without a page, at times
// that the test chooses.
func TestTailCountsEventsAboveItsRate(t *testing.T) {
	tl := &tail{news: make(chan struct{}, 1)}
	now := time.Unix(0, 0)
	next := eventstore.Position(0)
	var shown, skipped, lastSkipped uint64
	for tick := range 600 { // a minute, with 1,000 events a second
		for range 100 {
			next++
			tl.add(&eventstore.Commit{Position: next, Stream: eventstore.StreamID{Type: "sum", ID: "1"}, Version: eventstore.Version(next), Events: []eventstore.Event{added(1)}})
		}
		events, skip, _ := tl.take(now.Add(time.Duration(tick) * 100 * time.Millisecond))
		if skip.Count > 0 {
			skipped += skip.Count
			lastSkipped = skip.To
			if got := shown + skipped; got != skip.To {
				t.Fatalf("%d events are shown or counted up to position %d", got, skip.To)
			}
		}
		for _, e := range events {
			shown++
			if uint64(e.position()) != shown+skipped || uint64(e.position()) <= lastSkipped {
				t.Fatalf("event %d is shown after %d events and %d skipped ones", e.position(), shown-1, skipped)
			}
		}
		if len(tl.pending) > tailPending || len(events) > tailBurst {
			t.Fatalf("%d events wait, %d are shown together", len(tl.pending), len(events))
		}
	}
	if shown > 50+60*50 || shown < 59*50 {
		t.Errorf("%d events are shown in a minute", shown)
	}
	big := make([]byte, 190<<10)
	for range 200 {
		next++
		tl.add(&eventstore.Commit{Position: next, Stream: eventstore.StreamID{Type: "sum", ID: "1"}, Version: eventstore.Version(next), Events: []eventstore.Event{{Type: "added", Data: big}}})
		if tl.bytes > tailBytes {
			t.Fatalf("%d bytes wait", tl.bytes)
		}
	}
}

func TestTailCountsEventsLongBeforeTheHead(t *testing.T) {
	s := newSite(t, sums{})
	many := make([]eventstore.Event, 500)
	for i := range many {
		many[i] = added(i)
	}
	for range 24 {
		s.append("sum/1", "ada", "", many...)
	}
	messages := s.tail(t.Context(), Viewer, query("after", 10, "event", "boom"))
	if at := <-messages; at.data != fmt.Sprintf(`{"log":%q,"position":10}`, s.store.LogID()) {
		t.Errorf("the first message is %s", at.data)
	}
	if skipped := <-messages; skipped.data != `{"count":1990,"to":2000,"unexamined":true}` {
		t.Errorf("the second message is %s", skipped.data)
	}
	last := s.append("sum/1", "ada", "", eventstore.Event{Type: "boom", Data: []byte(`{}`)})
	s.positions(messages, uint64(last))
}

func TestTailEndsWhenTheLogGoesBack(t *testing.T) {
	s := newSite(t, sums{})
	messages := s.tail(t.Context(), Viewer, query("after", 0))
	last := s.append("sum/1", "ada", "", added(1))
	s.positions(messages, uint64(last))
	commits := func(position eventstore.Position) []eventstore.Commit {
		return []eventstore.Commit{{Position: position, Stream: eventstore.StreamID{Type: "sum", ID: "2"}, Version: 1, Events: []eventstore.Event{added(1)}}}
	}
	s.Deliver(commits(last + 1))
	s.positions(messages, uint64(last)+1)
	s.Deliver(commits(last + 1))
	for m := range messages { // until the response ends
		t.Errorf("the tail shows %+v", m)
	}
}

func TestDeliverKeepsNothingWithoutTail(t *testing.T) {
	s := newSite(t, sums{})
	ctx, cancel := context.WithCancel(t.Context())
	messages := s.tail(ctx, Viewer, query())
	<-messages
	s.append("sum/1", "ada", "", added(1))
	s.positions(messages, 1)
	cancel()
	for range messages { // until the tail has ended
	}
	for s.tails.open.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	s.append("sum/1", "ada", "", added(1))
	s.tails.mu.Lock()
	defer s.tails.mu.Unlock()
	if len(s.tails.recent) > 0 || s.tails.bytes > 0 {
		t.Errorf("%d commits are kept", len(s.tails.recent))
	}
	commits := []eventstore.Commit{{}}
	if n := testing.AllocsPerRun(100, func() { s.Deliver(commits) }); n > 0 {
		t.Errorf("Deliver allocates %v times", n)
	}
}
