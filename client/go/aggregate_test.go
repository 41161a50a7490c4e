package ganglion

import (
	"strings"
	"testing"
)

type opened struct{ Item string }

type bidPlaced struct {
	Bidder string
	Amount int64
}

type auction struct{ Item string }

var auctions = Type[auction, any]{Name: "auction", Events: map[string]any{"opened": opened{}, "bid_placed": bidPlaced{}}}

func TestEventsDecodeIntoGoTypes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		sub := auctions.Aggregate(g.client, "42").Follow(FromState())
		defer sub.Close()
		id := g.last()["id"]
		in := func(version int, name string, data object) object {
			return event(id, version, object{"stream": "auction/42", "event": name, "data": data, "by": "ada"})
		}
		g.send(
			object{"op": "state", "sub": id, "version": 1, "position": 1, "data": object{"item": "a lamp"}},
			object{"op": "live", "sub": id, "version": 1, "cursor": "1"},
			in(2, "bid_placed", object{"bidder": "ada", "amount": 1500}),
			in(3, "extended", object{"by": "1h"}), // an event of a newer server
			in(4, "bid_placed", object{"amount": "much"}),
		)
		next := func() Item[auction, any] {
			t.Helper()
			item, err := sub.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return item
		}
		if state := next(); state.Kind != KindState || state.State.Data.Item != "a lamp" || state.State.Stream != "auction/42" {
			t.Errorf("%+v", state)
		}
		if live := next(); live.Kind != KindLive {
			t.Errorf("%+v", live)
		}
		if e := next().Event; e.Data != any(bidPlaced{"ada", 1500}) || e.Name != "bid_placed" || e.By != "ada" || e.Cursor() != "2" || e.Time.IsZero() {
			t.Errorf("%+v", e)
		}
		if e := next().Event; e.Data != nil || string(e.Raw) != `{"by":"1h"}` {
			t.Errorf("%+v", e)
		}
		if _, err := sub.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "event bid_placed of auction/42, version 4: json") {
			t.Errorf("%v", err)
		}
		if sub.Cursor() != "3" {
			t.Errorf("the cursor is %s, so the event that failed to decode is lost", sub.Cursor())
		}
		if _, err := sub.Next(t.Context()); err == nil {
			t.Error("Next returns more after an event that failed to decode")
		}
	})
}

func TestSingleEventTypeNeedsNoNames(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		type added struct{ By int }
		g := welcomed(t, Options{})
		sums := make(chan int)
		go func() {
			sum := 0
			for e, err := range (Type[struct{}, added]{Name: "counter"}).Category(g.client).Subscribe(t.Context(), FromStart()) {
				if err != nil {
					break
				}
				sum += e.Data.By
			}
			sums <- sum
		}()
		id := g.last()["id"]
		g.send(event(id, 1), event(id, 2), event(id, 3))
		g.client.Close()
		if sum := <-sums; sum != 6 {
			t.Errorf("the sum is %d, want 6", sum)
		}
	})
}

func TestStateDecodesIntoGoType(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := welcomed(t, Options{})
		states := make(chan State[auction], 1)
		go func() {
			s, err := auctions.Aggregate(g.client, "42").Get(t.Context(), Strong())
			if err != nil {
				t.Error(err)
			}
			states <- s
		}()
		g.send(object{"op": "result", "id": g.last()["id"], "version": 4, "position": 9, "data": object{"item": "a lamp"}})
		if s := <-states; s != (State[auction]{Data: auction{"a lamp"}, Stream: "auction/42", Version: 4, Position: 9}) {
			t.Errorf("%+v", s)
		}
	})
}
