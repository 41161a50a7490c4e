package domain

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/inbox"
)

// A history is one aggregate that a test sends commands to. It encodes and decodes
// every event, as the engine does.
type history struct {
	t     *testing.T
	typ   *aggregate.Definition
	state any
	call  aggregate.Call
}

func newHistory(t *testing.T, typ string) *history {
	t.Helper()
	d, ok := Catalog.Type(typ)
	if !ok {
		t.Fatalf("the catalog has no type %s", typ)
	}
	return &history{t: t, typ: d, state: d.NewState(), call: aggregate.Call{ID: "1", Time: noon.Add(-time.Hour)}}
}

// send decides a command and applies its events. It returns the events, or the code
// of the rejection. One command in ten also takes the state through a snapshot.
func (h *history) send(r *rand.Rand, client string, cmd any) (events []any, code string) {
	h.t.Helper()
	h.call.Client = client
	events, err := h.typ.Decide(h.call, h.state, cmd)
	if err != nil {
		rejection, ok := errors.AsType[*aggregate.Rejection](err)
		if !ok {
			h.t.Fatalf("%+v failed: %v", cmd, err)
		}
		return nil, rejection.Code
	}
	for _, e := range events {
		name, form, data, err := h.typ.EncodeEvent(e)
		if err != nil {
			h.t.Fatal(err)
		}
		back, err := h.typ.DecodeEvent(name, form, data)
		if err != nil {
			h.t.Fatal(err)
		}
		h.typ.Apply(h.state, back)
	}
	if r.IntN(10) == 0 {
		raw, err := h.typ.EncodeState(h.state)
		if err != nil {
			h.t.Fatal(err)
		}
		restored, err := h.typ.DecodeState(raw)
		if err != nil {
			h.t.Fatal(err)
		}
		h.state = restored
	}
	return events, ""
}

// random runs a test with 50 seeds. The subtest's name is the seed.
func random(t *testing.T, test func(t *testing.T, r *rand.Rand)) {
	t.Parallel()
	for seed := range uint64(50) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			test(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func TestRandomAddsKeepTheCounterExact(t *testing.T) {
	random(t, func(t *testing.T, r *rand.Rand) {
		h := newHistory(t, "counter")
		sum, limit := new(big.Int), big.NewInt(1<<53)
		for range 200 {
			by := []int64{
				0, 1, -1, 1 << 53, -1 << 53, math.MaxInt64, math.MinInt64,
				r.Int64N(1 << 53), -r.Int64N(1 << 53), r.Int64N(100) - 50,
			}[r.IntN(10)]
			next := new(big.Int).Add(sum, big.NewInt(by))
			want := ""
			switch {
			case by == 0:
				want = "zero"
			case next.CmpAbs(limit) > 0:
				want = "overflow"
			}
			events, code := h.send(r, "ada", Add{By: by})
			if code != want {
				t.Fatalf("%v + %d: got rejection %q, want %q", sum, by, code, want)
			}
			if want == "" {
				if !reflect.DeepEqual(events, []any{Added{By: by}}) {
					t.Fatalf("adding %d caused %+v", by, events)
				}
				sum = next
			}
			if got := h.state.(*Counter).Value; got != sum.Int64() {
				t.Fatalf("the counter is at %d, want %v", got, sum)
			}
		}
	})
}

func TestRandomBidsKeepTheAuctionFair(t *testing.T) {
	random(t, func(t *testing.T, r *rand.Rand) {
		h := newHistory(t, "auction")
		clients := []string{"ada", "bob", "eve"}
		var past []any
		for range 200 {
			h.call.Time = h.call.Time.Add(time.Duration(r.IntN(40)) * time.Second)
			before := *h.state.(*Auction)
			client := clients[r.IntN(len(clients))]
			var cmd any = PlaceBid{Amount: r.Int64N(2000) - 100}
			switch r.IntN(20) {
			case 0:
				cmd = OpenAuction{Item: "lamp", Reserve: r.Int64N(500) - 50, ClosesAt: noon.Add(time.Duration(r.IntN(60)-30) * time.Minute)}
			case 1:
				if r.IntN(5) == 0 {
					cmd = CloseAuction{}
				}
			case 2:
				cmd = PlaceBid{Amount: r.Int64() - r.Int64()}
			}
			events, code := h.send(r, client, cmd)
			after := *h.state.(*Auction)
			if code != "" && !reflect.DeepEqual(before, after) {
				t.Fatalf("rejected with %s, yet %+v became %+v", code, before, after)
			}
			for _, e := range events {
				checkSale(t, e, before, client, h.call.Time)
			}
			past = append(past, events...)
		}
		bids, closed := 0, 0
		for _, e := range past {
			switch e.(type) {
			case BidPlaced:
				bids++
			case AuctionClosed:
				closed++
			}
		}
		if s := h.state.(*Auction); s.Bids != bids || s.Closed != (closed == 1) || closed > 1 {
			t.Fatalf("%d bids and %d closings made %+v", bids, closed, s)
		}
	})
}

// checkSale checks the rules that an observer of an auction may rely on.
func checkSale(t *testing.T, event any, before Auction, client string, now time.Time) {
	t.Helper()
	if before.Closed {
		t.Fatalf("%+v after the auction closed", event)
	}
	switch e := event.(type) {
	case AuctionOpened:
		if before.Seller != "" || e.Seller != client || e.Reserve < 1 {
			t.Fatalf("%+v on %+v", e, before)
		}
	case BidPlaced:
		if e.Bidder != client || client == before.Seller || before.Seller == "" || !now.Before(before.ClosesAt) ||
			e.Amount < before.Reserve || e.Amount > 1<<53 || before.Top != nil && e.Amount <= before.Top.Amount {
			t.Fatalf("%+v on %+v at %v", e, before, now)
		}
	case AuctionClosed:
		var want AuctionClosed
		if before.Top != nil {
			want = AuctionClosed{Winner: before.Top.Bidder, Amount: before.Top.Amount}
		}
		if e != want || client != before.Seller {
			t.Fatalf("%+v by %s on %+v", e, client, before)
		}
	}
}

func TestRandomAcknowledgementsKeepTheUnreadCount(t *testing.T) {
	random(t, func(t *testing.T, r *rand.Rand) {
		h := newHistory(t, "client")
		var version, last uint64
		var unread []uint64 // versions
		for range 200 {
			var cmd any = inbox.Notify{Text: strings.Repeat("x", r.IntN(2)+r.IntN(2)*4096)}
			if r.IntN(3) == 0 {
				cmd = inbox.Acknowledge{Version: r.Uint64N(version + 3)}
			}
			events, code := h.send(r, "ada", cmd)
			for _, e := range events {
				version++
				switch e := e.(type) {
				case inbox.Notified:
					if len(e.Text) < 1 || len(e.Text) > 4096 || e.From != "ada" {
						t.Fatalf("notified with %d bytes from %q", len(e.Text), e.From)
					}
					last = version
					unread = append(unread, version)
				case inbox.Acknowledged:
					n := len(unread)
					unread = slices.DeleteFunc(unread, func(v uint64) bool { return v <= e.Version })
					if len(unread) == n {
						t.Fatalf("%+v acknowledged no notification", e)
					}
				}
			}
			if ack, ok := cmd.(inbox.Acknowledge); ok && (code == "not_notified") != (ack.Version > last) {
				t.Fatalf("%+v with the newest at %d: %q", ack, last, code)
			}
			view, err := h.typ.View(h.state)
			if err != nil {
				t.Fatal(err)
			}
			want, err := json.Marshal(inbox.Inbox{Unread: uint64(len(unread)), Last: last})
			if err != nil {
				t.Fatal(err)
			}
			if string(view) != string(want) {
				t.Fatalf("shows %s, want %s", view, want)
			}
		}
	})
}
