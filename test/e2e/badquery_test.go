package e2e

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestWrongQueriesAreRefusedWithTheirMember sends wrong questions over WebSocket
// and HTTP.
func TestWrongQueriesAreRefusedWithTheirMember(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c := startCluster(t, database(t), []string{""})
	url := c.urls()[0]
	s, err := harness.Dial(ctx, harness.WS(url), "bob", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	harness.Eventually(t, "the rows are built", func() error {
		f, err := s.Call(ctx, map[string]any{"op": "query", "query": "open_auctions", "data": struct{}{}})
		if err == nil && f.Op != "result" {
			err = &harness.ErrRefused{Frame: f}
		}
		return err
	})
	for _, wrong := range []struct{ query, data, code, field string }{
		{"nosuch", `{}`, "not_found", ""},
		{"Open_Auctions", `{}`, "not_found", ""},
		{"listings", `{}`, "not_found", ""}, // a projection
		{"open_auctions", `{"budget":"x"}`, "bad_request", "budget"},
		{"open_auctions", `{"budget":1.5}`, "bad_request", "budget"},
		{"open_auctions", `{"budget":1e400}`, "bad_request", "budget"},
		{"open_auctions", `{"most":1}`, "bad_request", "most"},
		{"bids_of", `{"bidder":null}`, "bad_request", "bidder"},
		{"bids_of", `{"bidder":{"$ne":""}}`, "bad_request", "bidder"},
	} {
		for _, op := range []string{"query", "subscribe"} {
			f, err := s.Call(ctx, map[string]any{"op": op, "query": wrong.query, "data": json.RawMessage(wrong.data)})
			if err != nil || f.Op != "error" || f.Code != wrong.code || f.Field != wrong.field && f.Field != "data."+wrong.field || f.Message == "" || f.Retry != "no" {
				t.Errorf("%s of %s with %s: %s %s of the member %q, retry %q, %s, %v", op, wrong.query, wrong.data, f.Op, f.Code, f.Field, f.Retry, f.Message, err)
			}
		}
		for _, accept := range []string{"application/json", "text/event-stream"} {
			status, f := refusal(ctx, t, url+"/v1/queries/"+wrong.query, accept, "", wrong.data)
			if want := map[string]int{"not_found": 404, "bad_request": 400}[wrong.code]; status != want || f.Code != wrong.code || f.Field != wrong.field && f.Field != "data."+wrong.field {
				t.Errorf("POST %s with %s, accepting %s: %d %s of the member %q", wrong.query, wrong.data, accept, status, f.Code, f.Field)
			}
		}
	}
	long := strings.Repeat("x", 1025)
	for field, frames := range map[string][]map[string]any{
		"at_least":   {{"op": "query", "at_least": -1}, {"op": "query", "at_least": "1"}, {"op": "subscribe", "at_least": 1 << 60}},
		"timeout_ms": {{"op": "query", "timeout_ms": 0}, {"op": "query", "timeout_ms": 30001}},
		"after":      {{"op": "query", "after": "garbage"}, {"op": "query", "after": "e30"}, {"op": "query", "after": long}},
		"cursor":     {{"op": "subscribe", "cursor": long}, {"op": "subscribe", "cursor": "\u00e9"}, {"op": "subscribe", "cursor": 7}},
	} {
		for _, frame := range frames {
			frame["query"], frame["data"] = "open_auctions", struct{}{}
			if f, err := s.Call(ctx, frame); err != nil || f.Code != "bad_request" || f.Field != field {
				t.Errorf("%v: %s %s of the member %q, %s, %v", frame, f.Op, f.Code, f.Field, f.Message, err)
			}
		}
	}
	for parameters, field := range map[string]string{
		"at_least=x": "at_least", "timeout_ms=0": "timeout_ms", "after=garbage": "after", "nosuch=1": "nosuch", "at_least=1&at_least=2": "at_least",
	} {
		if status, f := refusal(ctx, t, url+"/v1/queries/open_auctions?"+parameters, "application/json", "", "{}"); status != 400 || f.Field != field {
			t.Errorf("POST with %s: %d %s of the member %q", parameters, status, f.Code, f.Field)
		}
	}
	for _, body := range []string{"[]", "{", `{"budget":1,"budget":2}`, "\xff"} {
		if status, f := refusal(ctx, t, url+"/v1/queries/open_auctions", "application/json", "", body); status != 400 || f.Code != "bad_request" {
			t.Errorf("POST of %q: %d %s", body, status, f.Code)
		}
	}
}

func posted(ctx context.Context, t *testing.T, url, accept, last, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer dev:bob")
	req.Header.Set("Accept", accept)
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := harness.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func refusal(ctx context.Context, t *testing.T, url, accept, last, body string) (status int, f harness.Frame) {
	t.Helper()
	resp := posted(ctx, t, url, accept, last, body)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err != nil {
		t.Fatalf("%s: %q: %v", url, raw, err)
	}
	return resp.StatusCode, f
}

// TestWrongCursorsGetANewStateAndNeverAnError resumes a live query with cursors of
// other queries, builds and logs, and with damaged ones.
func TestWrongCursorsGetANewStateAndNeverAnError(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c, other := startCluster(t, database(t), []string{"", ""}), startCluster(t, database(t), []string{""})
	opened := func(c *cluster, n int) (position uint64) {
		t.Helper()
		seller := &harness.Client{ID: "ada", URLs: c.wsURLs()}
		defer seller.Leave()
		for i := range n {
			f, err := seller.Do(ctx, auction(0, i), "open", "open", opening(i))
			if err != nil {
				t.Fatal(err)
			}
			position = f.Position
		}
		return position
	}
	head := opened(c, 3)
	opened(other, 9) // positions that the first log does not have
	cursorOf := func(c *cluster, query string, data any) string {
		t.Helper()
		v := newViewer("bob", query, data)
		if err := v.view(ctx, c.wsURLs()[0], func() bool { return v.cursor != "" }); err != nil {
			t.Fatal(err)
		}
		return v.cursor
	}
	own := newViewer("bob", "open_auctions", struct{}{})
	if err := own.view(ctx, c.wsURLs()[0], func() bool { return own.position >= head }); err != nil {
		t.Fatal(err)
	}
	valid := own.cursor
	cursors := map[string][]string{
		"":       {valid},
		"log":    {cursorOf(other, "open_auctions", struct{}{})},
		"access": {cursorOf(c, "bids_of", map[string]any{"bidder": "bob"}), cursorOf(c, "open_auctions", map[string]int{"budget": 7})},
	}
	raw, err := base64.RawURLEncoding.DecodeString(valid)
	if err != nil {
		t.Fatal(err)
	}
	cursors["expired"] = []string{"garbage", "0", "17", valid[:len(valid)-1], valid + "AA", strings.Repeat("A", 1024)}
	for i := range raw {
		damaged := append([]byte(nil), raw...)
		damaged[i] ^= 1 << (i % 8)
		cursors["expired"] = append(cursors["expired"], base64.RawURLEncoding.EncodeToString(damaged))
	}
	s, err := harness.Dial(ctx, c.wsURLs()[1], "bob", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	resume := func(reason, cursor string) {
		t.Helper()
		v := newViewer("bob", "open_auctions", struct{}{})
		v.cursor, v.rows, v.id = cursor, own.rows, cursor[:min(20, len(cursor))]
		if err := v.follow(ctx, s); err != nil {
			t.Fatalf("the cursor %s: %v", cursor, err)
		}
		if err := v.await(ctx, s, func() bool { return v.batches == 1 }); err != nil {
			t.Fatalf("the cursor %s: %v", cursor, err)
		}
		if got := strings.Join(v.resets, " "); got != reason {
			t.Errorf("the cursor %s is answered with the reset %q, want %q", cursor, got, reason)
		}
		c.answers(ctx, 0, v, head)
		if err := v.err(); err != nil {
			t.Error(err)
		}
		if _, err := s.Call(ctx, map[string]any{"op": "unsubscribe", "id": "u", "sub": v.id}); err != nil {
			t.Fatal(err)
		}
	}
	for reason, list := range cursors {
		for _, cursor := range list {
			resume(reason, cursor)
		}
	}
	c.operate(binary, 0, "processor", "rebuild", "listings")
	c.rebuilt(binary, "listings", 2)
	fresh := own.cursor
	harness.Eventually(t, "the gateway answers from another build", func() error {
		if fresh = cursorOf(c, "open_auctions", struct{}{}); fresh == valid {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	resume("", fresh)
	// Rows of another build have the same form, so a cursor of it is continued or
	// reset; the rows are right in both cases.
	v := newViewer("bob", "open_auctions", struct{}{})
	v.cursor, v.rows = valid, own.rows
	if err := v.view(ctx, c.wsURLs()[0], func() bool { return v.batches == 1 }); err != nil {
		t.Fatal(err)
	}
	c.answers(ctx, 1, v, head)
	t.Logf("a cursor of another build is answered with resets %v", v.resets)
}

// TestEventStreamOfAQueryResumesFromItsLastID continues a live query over HTTP on
// another gateway.
func TestEventStreamOfAQueryResumesFromItsLastID(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c := startCluster(t, database(t), []string{"", ""})
	seller := &harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer seller.Leave()
	open := func(n int) {
		t.Helper()
		if _, err := seller.Do(ctx, auction(0, n), "open", "open", opening(n)); err != nil {
			t.Fatal(err)
		}
	}
	// stream reads events until one has a name, and returns all names, keys and the last id.
	stream := func(gateway int, last, until string) (names string, id string) {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp := posted(ctx, t, c.urls()[gateway]+"/v1/queries/open_auctions", "text/event-stream", last, "{}")
		defer resp.Body.Close()
		var name string
		var all []string
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				name = value
			case "id":
				id = value
			case "data":
				var f harness.Frame
				if err := json.Unmarshal([]byte(value), &f); err != nil {
					t.Fatalf("%q: %v", value, err)
				}
				for _, r := range f.Rows {
					name += " " + r.Key
				}
				all = append(all, strings.TrimSpace(name+" "+f.Key+f.Reason))
			case "":
				if name == until {
					return strings.Join(all, ", "), id
				}
			}
		}
		t.Fatalf("the event stream of %s ends after %v", resp.Status, all)
		return "", ""
	}
	open(0)
	var names, id string
	harness.Eventually(t, "the state has the auction", func() error {
		if names, id = stream(0, "", "live"); names != "state a0-0, live" {
			return fmt.Errorf("it is %s", names)
		}
		return nil
	})
	open(1)
	shown := "synced"
	harness.Eventually(t, "the change arrives", func() error { // perhaps in a batch of its own
		if shown, _ = stream(1, id, "synced"); shown != "update a0-1, synced" {
			return fmt.Errorf("the resumed event stream has %s", shown)
		}
		return nil
	})
	for _, last := range []string{"garbage", "12"} {
		if names, _ := stream(1, last, "live"); names != "reset expired, state a0-0 a0-1, live" {
			t.Errorf("from %s the event stream has %s", last, names)
		}
	}
}

// TestManyLiveQuestionsFollowOneTable has 50 live queries in each of many sessions,
// all with other parameters, and changes rows that concern all.
func TestManyLiveQuestionsFollowOneTable(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	sessions := 20
	if long {
		sessions = 200
	}
	const each = 50 // the bound of a session
	c := startCluster(t, database(t), []string{"", ""})
	seller := &harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer seller.Leave()
	bid := func(n, price int) {
		t.Helper()
		if _, err := seller.Do(ctx, auction(0, n), "open", "open", map[string]any{"item": "lamp", "reserve": price, "closes_at": "2099-01-01T00:00:00Z"}); err != nil {
			t.Fatal(err)
		}
	}
	bid(0, 10)
	url := c.wsURLs()[0]
	var mu sync.Mutex
	var all []*viewer
	open := map[*viewer]*harness.Session{}
	var starting sync.WaitGroup
	for n := range sessions {
		starting.Go(func() {
			s, err := harness.Dial(ctx, url, fmt.Sprint("client", n), nil)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(s.Close)
			for i := range each {
				v := newViewer(fmt.Sprint("client", n), "open_auctions", map[string]int{"budget": 100 + n*each + i})
				v.id = fmt.Sprint("q", i)
				if err := v.follow(ctx, s); err != nil {
					t.Errorf("question %d of session %d: %v", i, n, err)
					return
				}
				mu.Lock()
				all, open[v] = append(all, v), s
				mu.Unlock()
			}
			var refused *harness.ErrRefused
			v := newViewer("one more", "open_auctions", struct{}{})
			if err := v.follow(ctx, s); !asRefused(err, &refused) || refused.Frame.Code != "rate_limited" || refused.Frame.Retry != "no" {
				t.Errorf("the question after %d: %v", each, err)
			}
		})
	}
	starting.Wait()
	shows := func(keys func(budget int) string) {
		t.Helper()
		for _, v := range all {
			want := keys(v.frame["data"].(map[string]int)["budget"])
			if err := v.await(ctx, open[v], func() bool { return v.keys() == want }); err != nil {
				t.Fatalf("%s shows %q, want %q: %v", v.client, v.keys(), want, err)
			}
		}
	}
	shows(func(int) string { return "a0-0" })
	if n := gauge(t, c.urls()[0], "ganglion_live_questions"); int(n) != sessions*each {
		t.Errorf("the gateway has %v questions, want %d", n, sessions*each)
	}
	middle := 100 + sessions*each/2
	bid(1, middle) // concerns half of them
	bid(2, 20)     // concerns all
	shows(func(budget int) string {
		if budget >= middle {
			return "a0-0 a0-2 a0-1"
		}
		return "a0-0 a0-2"
	})
	for _, v := range all {
		if err := v.err(); err != nil || len(v.resets)+len(v.repeats) > 0 {
			t.Errorf("%s: %v, reset %v, repeats %v", v.client, err, v.resets, v.repeats)
		}
	}
	if scans := gauge(t, c.urls()[0], "ganglion_live_scans"); scans > 0 {
		t.Errorf("%v questions are found by no index", scans)
	}
	for _, s := range open {
		s.Close()
	}
	harness.Eventually(t, "the gateway forgets the questions", func() error {
		if n, entries := gauge(t, c.urls()[0], "ganglion_live_questions"), gauge(t, c.urls()[0], "ganglion_live_entries"); n+entries > 0 {
			return fmt.Errorf("it has %v with %v rows", n, entries)
		}
		return nil
	})
}
