package ganglion

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type openAuctions struct {
	Budget int `json:"budget,omitzero"`
}

type listing struct {
	Price int `json:"price"`
}

var openAuctionsQuery = Query[openAuctions, listing]{Name: "open_auctions"}

func row(key, rank string, price any) object {
	return object{"key": key, "rank": rank, "position": 7, "data": object{"price": price}}
}

func update(sub any, key, rank string, price any) object {
	u := row(key, rank, price)
	u["op"], u["sub"] = "update", sub
	return u
}

// followed opens a live query with a first result of one row.
func followed(t *testing.T) (g *gateway, l *LiveQuery[listing], sub any) {
	g = welcomed(t, Options{})
	l = openAuctionsQuery.Follow(g.client, openAuctions{Budget: 10})
	sub = g.last()["id"]
	g.send(object{"op": "subscribed", "id": sub, "cursor": "100"},
		object{"op": "state", "sub": sub, "rows": []object{row("7", "B", 2)}},
		object{"op": "live", "sub": sub, "cursor": "c1", "position": 100, "blocked": 1})
	return g, l, sub
}

func prices(s Snapshot[listing]) string {
	var all []string
	for _, r := range s.Rows {
		all = append(all, fmt.Sprint(r.Key, "=", r.Data.Price))
	}
	return strings.Join(all, " ")
}

func TestQueryDecodesItsPageIntoGoTypes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		answer := func(data any) {
			g.send(object{"op": "result", "id": g.last()["id"], "version": 0, "position": 100, "data": data})
		}
		var page Page[listing]
		var err error
		ask := func(opts ...QueryOption) {
			go func() { page, err = openAuctionsQuery.Run(t.Context(), g.client, openAuctions{Budget: 10}, opts...) }()
		}
		ask(AtLeast(90), WithTimeout(2*time.Second), AfterPage("p"))
		want := object{
			"op": "query", "id": g.last()["id"], "query": "open_auctions", "data": object{"budget": 10.0},
			"at_least": 90.0, "timeout_ms": 2000.0, "after": "p",
		}
		if said := g.last(); !reflect.DeepEqual(said, want) {
			t.Errorf("got %v\nwant %v", said, want)
		}
		answer(object{"rows": []object{row("7", "A", 2)}, "next": "q", "blocked": 1})
		if want := (Page[listing]{Rows: []Row[listing]{{"7", listing{2}, "A", 7}}, Next: "q", Position: 100, Blocked: 1}); err != nil || !reflect.DeepEqual(page, want) {
			t.Errorf("got %+v (%v), want %+v", page, err, want)
		}
		ask()
		synctest.Wait()
		answer(object{"rows": []object{row("7", "A", "much")}})
		if err == nil || !strings.Contains(err.Error(), "row 7 of query open_auctions") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnswerOfCodeIsPassedOnAsJSON(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		for _, data := range []any{3.5, []any{"a"}, object{"sum": 7.0}} {
			var page Page[json.RawMessage]
			var err error
			go func() { page, err = g.client.Query(t.Context(), "total", nil) }()
			synctest.Wait()
			g.send(object{"op": "result", "id": g.last()["id"], "version": 0, "position": 100, "data": data})
			synctest.Wait()
			var got any
			if json.Unmarshal(page.Answer, &got) != nil || !reflect.DeepEqual(got, data) || page.Position != 100 || page.Rows != nil || err != nil {
				t.Errorf("got %+v (%v), want %v", page, err, data)
			}
		}
	})
}

func TestParametersThatAreNotJSONFailAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		var e *Error
		if _, err := g.client.Query(t.Context(), "q", func() {}); !errors.As(err, &e) || e.Code != CodeBadRequest {
			t.Errorf("got %v", err)
		}
		for _, err := range g.client.Live(t.Context(), "q", func() {}) {
			if !errors.As(err, &e) || e.Code != CodeBadRequest {
				t.Errorf("got %v", err)
			}
		}
		for _, err := range g.client.Live(t.Context(), "q", strings.Repeat("x", maxParameterBytes)) {
			if !errors.As(err, &e) || e.Code != CodeTooLarge || e.Field != "data" {
				t.Errorf("got %v", err)
			}
		}
		if n := len(g.socket.received); n != 1 {
			t.Errorf("the client sent %v", g.socket.received[1:])
		}
	})
}

func TestSlowLoopOfLiveQueryGetsTheNewestRows(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g, l, sub := followed(t)
		for i := range 100 {
			g.send(update(sub, "7", "B", i), update(sub, "x", "A", -i), object{"op": "synced", "sub": sub, "cursor": fmt.Sprint("d", i), "position": 101 + i})
		}
		s, err := l.Next(t.Context())
		if err != nil || prices(s) != "x=-99 7=99" || s.Position != 200 || s.Blocked != 0 {
			t.Errorf("got %+v (%v)", s, err)
		}
		g.send(update(sub, "7", "0", 5), object{"op": "synced", "sub": sub, "cursor": "e", "position": 300})
		again, err := l.Next(t.Context())
		if err != nil || prices(again) != "7=5 x=-99" {
			t.Errorf("got %+v (%v)", again, err)
		}
		if prices(s) != "x=-99 7=99" {
			t.Errorf("the earlier snapshot has changed to %s", prices(s))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if s, err := l.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %+v (%v) without a new batch", s, err)
		}
	})
}

func TestLeavingALoopOfLiveQueryUnsubscribes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		var got []string
		go func() {
			for s, err := range openAuctionsQuery.Live(t.Context(), g.client, openAuctions{}, AtLeast(90)) {
				if got = append(got, fmt.Sprint(prices(s), err)); len(got) == 2 {
					break
				}
			}
		}()
		sub := g.last()["id"]
		if g.last()["at_least"] != 90.0 {
			t.Errorf("got %v", g.last())
		}
		g.send(object{"op": "state", "sub": sub, "rows": []object{row("7", "B", 2)}}, object{"op": "live", "sub": sub, "cursor": "c1", "position": 100})
		g.send(object{"op": "synced", "sub": sub, "cursor": "c2", "position": 101})
		if said := g.last(); said["op"] != "unsubscribe" || said["sub"] != sub {
			t.Errorf("got %v", said)
		}
		if want := []string{"7=2<nil>", "7=2<nil>"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %q", got)
		}
	})
}

func TestRowsThatCannotBeUsedEndTheLiveQuery(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g, l, sub := followed(t)
		g.send(update(sub, "9", "C", "much"), object{"op": "synced", "sub": sub, "cursor": "c2", "position": 101})
		for range 2 {
			if _, err := l.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "row 9 of query open_auctions") {
				t.Errorf("got %v", err)
			}
		}
		if said := g.last(); said["op"] != "unsubscribe" || l.Status() != QueryClosed {
			t.Errorf("got %v, and the status is %v", said, l.Status())
		}

		many := g.client.Live(t.Context(), "many", nil)
		var e *Error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, err := range many {
				errors.As(err, &e)
			}
		}()
		sub = g.last()["id"]
		for from := 0; from <= maxRows; from += 1000 {
			var rows []object
			for i := range 1001 {
				rows = append(rows, row(fmt.Sprint(from+i), fmt.Sprint(from+i), 1))
			}
			g.send(object{"op": "state", "sub": sub, "rows": rows, "more": true})
		}
		<-done
		if e == nil || e.Code != CodeProtocol {
			t.Errorf("got %v", e)
		}
	})
}

func TestUnreceivedRowsAreDeliveredBeforeTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g, l, sub := followed(t)
		g.send(object{"op": "unsubscribed", "sub": sub, "code": "forbidden", "message": "no"})
		if s, err := l.Next(t.Context()); err != nil || prices(s) != "7=2" || s.Blocked != 1 {
			t.Errorf("got %+v (%v)", s, err)
		}
		if _, err := l.Next(t.Context()); !errors.Is(err, ErrForbidden) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStatesYieldsTheNewestStateOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		next := make(chan struct{})
		var got []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			for s, err := range g.client.Aggregate("counter", "a").States(t.Context()) {
				got = append(got, fmt.Sprint(s.Version, string(s.Data), err))
				<-next
			}
		}()
		state := func(version int) object {
			return object{"op": "state", "sub": g.last()["id"], "version": version, "position": version, "data": version}
		}
		want := object{"op": "subscribe", "id": g.last()["id"], "stream": "counter/a", "state": "only"}
		if said := g.last(); !reflect.DeepEqual(said, want) {
			t.Errorf("got %v, want %v", said, want)
		}
		sub := want["id"]
		g.send(object{"op": "subscribed", "id": sub, "cursor": "100"}, object{"op": "live", "sub": sub, "version": 3, "cursor": "100"}, state(3))
		for v := 4; v < 3000; v++ { // far more than the buffer has
			g.send(state(v))
		}
		g.cut()
		g.welcome()
		if subs := g.socket.received[0]["subscriptions"].([]any); !reflect.DeepEqual(subs[0].(object)["state"], "only") || subs[0].(object)["cursor"] != nil {
			t.Errorf("got %v", subs)
		}
		sub = g.socket.received[0]["subscriptions"].([]any)[0].(object)["id"]
		old := object{"op": "state", "sub": sub, "version": 2500, "position": 2500, "data": 2500} // of a gateway that is behind
		g.send(old)
		close(next)
		synctest.Wait()
		g.client.Close()
		<-done
		if want := []string{"33<nil>", "29992999<nil>", "0ganglion: closed: the client was closed"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestStatesAreRefusedWhereTheyMakeNoSense(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		var e *Error
		for _, s := range []*Subscription[json.RawMessage, json.RawMessage]{
			g.client.Aggregate("counter", "a").Follow(FromState(), WithStates()),
			g.client.Category("counter").Follow(WithStates()),
		} {
			if _, err := s.Next(t.Context()); !errors.As(err, &e) || e.Code != CodeBadRequest {
				t.Errorf("got %v", err)
			}
		}
		for _, err := range g.client.Aggregate("counter", "a").Subscribe(t.Context(), WithStates()) {
			if !errors.As(err, &e) || e.Code != CodeBadRequest {
				t.Errorf("got %v", err)
			}
		}
	})
}

// TestLiveQueryHandlesTheGoldenFrames sends the golden frames of a live query in
// the order in which a gateway would.
func TestLiveQueryHandlesTheGoldenFrames(t *testing.T) {
	t.Parallel()
	frames := goldens(t)
	synctest.Test(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		l := Query[any, json.RawMessage]{Name: "open_auctions"}.Follow(g.client, nil)
		sub := g.last()["id"]
		send := func(names ...string) {
			for _, name := range names {
				f := maps.Clone(frames[name].Frame)
				f["sub"] = sub
				g.send(f)
			}
		}
		keys := func() (keys []string) {
			s, err := l.Next(deadline(t, time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range s.Rows {
				keys = append(keys, r.Key)
			}
			return append(keys, fmt.Sprint(s.Position, " ", s.Blocked))
		}
		for _, step := range []struct {
			frames []string
			want   string
		}{
			{[]string{"state_rows", "state_rows_last", "live_query"}, `["42" "ä \"1\"" "1051 1"]`},
			{[]string{"update", "synced"}, `["42" "ä \"1\"" "1053 1"]`},
			{[]string{"update_gone", "keys", "synced"}, `["42" "ä \"1\"" "1053 1"]`},
			{[]string{"reset", "state_rows_last", "live_query_empty"}, `["0 0"]`},
		} {
			send(step.frames...)
			if got := fmt.Sprintf("%q", keys()); got != step.want {
				t.Errorf("after %q the rows are %s, want %s", step.frames, got, step.want)
			}
		}
		var page Page[json.RawMessage]
		var err error
		go func() { page, err = g.client.Query(t.Context(), "open_auctions", nil) }()
		result := maps.Clone(frames["result_query"].Frame)
		result["id"] = g.last()["id"]
		g.send(result)
		if err != nil || len(page.Rows) != 2 || page.Next == "" || page.Blocked != 2 || page.Position != 1051 {
			t.Errorf("got %+v (%v)", page, err)
		}
	})
}
