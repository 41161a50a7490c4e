package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/test/harness"
)

// renew sends another token on a session.
func renew(ctx context.Context, t *testing.T, s *harness.Session, token string) harness.Frame {
	t.Helper()
	f, err := s.Call(ctx, map[string]any{"op": "auth", "token": token})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestLiveQueryShowsWhatTheTokenAllows changes the claims of a token in the middle
// of a session. The rows of other claims leave immediately, and only they do.
func TestLiveQueryShowsWhatTheTokenAllows(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c := startTrioOf(t, database(t), programAt(t, "notes"))
	writer := &harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer writer.Leave()
	written := 0
	write := func(id, team string) {
		t.Helper()
		written++
		if _, err := writer.Do(ctx, "note/"+id, "write", fmt.Sprint("k", written), writeNote{Text: "x", Team: team, Rank: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		write(fmt.Sprint("red", i), "red")
		write(fmt.Sprint("blue", i), "blue")
	}
	const red, blue = `dev:bob {"team":"red"}`, `dev:bob {"team":"blue"}`
	v := newViewer(`bob {"team":"red"}`, "team_notes", struct{}{})
	s, err := harness.Dial(ctx, c.wsURLs()[0], v.client, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := v.follow(ctx, s); err != nil {
		t.Fatal(err)
	}
	shows := func(keys string) {
		t.Helper()
		if err := v.await(ctx, s, func() bool { return v.keys() == keys }); err != nil {
			t.Fatalf("the client shows %q, want %q: %v", v.keys(), keys, err)
		}
	}
	shows("red0 red1 red2 red3 red4")
	renew(ctx, t, s, red) // nothing changes
	write("red5", "red")
	shows("red0 red1 red2 red3 red4 red5")
	renew(ctx, t, s, blue)
	write("blue5", "blue")
	write("red6", "red")
	write("blue6", "blue")
	shows("blue0 blue1 blue2 blue3 blue4 blue5 blue6")
	if got := fmt.Sprint(v.resets); got != "[access]" {
		t.Errorf("the client was reset: %s", got)
	}
	for _, key := range v.strangers("blue") {
		t.Errorf("the key %s was sent after the client had become blue", key)
	}
	write("blue3", "red") // a row that changes its owner leaves
	shows("blue0 blue1 blue2 blue4 blue5 blue6")

	// A cursor of other rights shows nothing of them at another gateway.
	s.Close()
	v.client = `bob {"team":"red"}`
	if s, err = harness.Dial(ctx, c.wsURLs()[1], v.client, nil); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := v.follow(ctx, s); err != nil {
		t.Fatal(err)
	}
	shows("blue3 red0 red1 red2 red3 red4 red5 red6")
	if len(v.resets) != 2 {
		t.Errorf("the client was reset: %v", v.resets)
	}
	for _, key := range v.strangers("red") {
		if key != "blue3" {
			t.Errorf("the key %s was sent after the client had become red", key)
		}
	}
	if err := v.err(); err != nil {
		t.Error(err)
	}
}

// keys returns the keys that the client shows. The caller holds v.mu, or nothing
// is being received.
func (v *viewer) keys() string {
	var keys []string
	for _, r := range v.ordered() {
		keys = append(keys, r.Key)
	}
	return strings.Join(keys, " ")
}

// strangers returns the keys without a prefix that were sent since the last reset.
func (v *viewer) strangers(prefix string) (keys []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key := range v.sent {
		if !strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// TestNobodySeesTheBidsOfOthers asks for bob's bids as eve: with a query, a live
// query, bob's cursor and bob's session.
func TestNobodySeesTheBidsOfOthers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c := startTrio(t, database(t))
	do := func(client, command, key string, data any) (position uint64) {
		t.Helper()
		by := &harness.Client{ID: client, URLs: c.wsURLs()}
		defer by.Leave()
		f, err := by.Do(ctx, "auction/1", command, key, data)
		if err != nil {
			t.Fatal(err)
		}
		return f.Position
	}
	do("ada", "open", "open", opening(1))
	do("bob", "bid", "b1", map[string]int{"amount": 2000})
	head := do("eve", "bid", "e1", map[string]int{"amount": 2100})
	ofBob := map[string]any{"bidder": "bob"}
	bob := newViewer("bob", "bids_of", ofBob)
	// No batch needs to follow for eve's bid, which changes none of bob's rows.
	if err := bob.view(ctx, c.wsURLs()[0], func() bool { return bob.keys() == "1/bob" }); err != nil {
		t.Fatal(err)
	}
	for i, cursor := range []string{"", bob.cursor} {
		eve := newViewer("eve", "bids_of", ofBob)
		eve.cursor = cursor
		s, err := harness.Dial(ctx, c.wsURLs()[1], "eve", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := eve.follow(ctx, s); err != nil {
			t.Fatal(err)
		}
		if err := eve.await(ctx, s, func() bool { return eve.batches == 1 }); err != nil {
			t.Fatal(err)
		}
		do("bob", "bid", fmt.Sprint("after", i), map[string]int{"amount": 3000 + 1000*i})
		own := newViewer("bob", "bids_of", ofBob)
		if err := own.view(ctx, c.wsURLs()[1], func() bool { return own.batches > 0 }); err != nil { // the state may lack the bid, which then follows
			t.Fatal(err)
		}
		f, err := s.Call(ctx, map[string]any{"op": "query", "query": "bids_of", "data": ofBob, "at_least": head})
		if err != nil {
			t.Fatal(err)
		}
		var page struct{ Rows []harness.Row }
		if err := json.Unmarshal(f.Data, &page); err != nil || len(page.Rows) > 0 {
			t.Errorf("eve asks for bob's bids: %s, %v", f.Data, err)
		}
		if len(eve.sent) > 0 || len(eve.rows) > 0 {
			t.Errorf("eve follows bob's bids with the cursor %q: the keys %v were sent", cursor, eve.sent)
		}
	}

	s, err := harness.Dial(ctx, c.wsURLs()[2], "bob", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := bob.follow(ctx, s); err != nil {
		t.Fatal(err)
	}
	if f := renew(ctx, t, s, "dev:eve"); f.Code != "unauthenticated" {
		t.Errorf("eve's token on bob's session: %s %s", f.Op, f.Code)
	}
	if code := websocket.CloseStatus(s.Err()); code != 4001 {
		t.Errorf("bob's session with eve's token ends with %v, want 4001", s.Err())
	}
}
