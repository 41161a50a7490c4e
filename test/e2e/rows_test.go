package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// auctionsEach is the number of auctions that each sender opens and bids on.
const auctionsEach = 10

// auction returns the stream of the nth auction of a sender.
func auction(sender, n int) string { return fmt.Sprintf("auction/a%d-%d", sender, n) }

func opening(n int) map[string]any {
	return map[string]any{"item": fmt.Sprint("item ", n), "reserve": 1000 + n, "closes_at": "2099-01-01T00:00:00Z"}
}

// shown is a row of a projection.
type shown struct {
	position uint64
	data     string // JSON with sorted members
}

// folded folds a log into the rows of listings and bids, without the code of the
// projections. It also returns the log's head.
func folded(t *testing.T, url string) (listings, bids map[string]shown, head uint64) {
	t.Helper()
	store, err := node.OpenStore(t.Context(), node.StoreConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	listings, bids = map[string]shown{}, map[string]shown{}
	auctions := map[string]map[string]any{}
	for {
		commits, err := store.Read(t.Context(), eventstore.Position(head), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(commits) == 0 {
			return listings, bids, head
		}
		for _, c := range commits {
			head = uint64(c.Position)
			if c.Stream.Type != "auction" {
				continue
			}
			for n, e := range c.Events {
				position := uint64(c.First()) + uint64(n)
				var event map[string]any
				if err := json.Unmarshal(e.Data, &event); err != nil {
					t.Fatal(err)
				}
				switch e.Type {
				case "opened":
					auctions[c.Stream.ID] = map[string]any{"item": event["item"], "price": event["reserve"], "closes_at": event["closes_at"], "open": true}
				case "bid_placed":
					auctions[c.Stream.ID]["price"] = event["amount"]
					bids[fmt.Sprint(c.Stream.ID, "/", event["bidder"])] = shown{position, text(t, map[string]any{
						"auction": c.Stream.ID, "bidder": event["bidder"], "amount": event["amount"], "at": c.At.UTC().Format(time.RFC3339Nano),
					})}
				case "closed":
					auctions[c.Stream.ID]["open"] = false
				default:
					t.Fatalf("the fold does not know the event %s", e.Type)
				}
				listings[c.Stream.ID] = shown{position, text(t, auctions[c.Stream.ID])}
			}
		}
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// stored reads the rows of the newest active build of a projection, of the present
// log, and the position of its only checkpoint.
func stored(t *testing.T, db *pgx.Conn, projection string) (list map[string]shown, position uint64, blocked int, err error) {
	t.Helper()
	var build int64
	err = db.QueryRow(t.Context(), `select id, pos, (select count(*) from processor_blocked k where k.build = b.id)
		from processor_build b join processor_checkpoint c on c.build = b.id
		where name = $1 and state = 'active' and log_id = (select id::text from log) order by id desc limit 1`, projection).Scan(&build, &position, &blocked)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("no active build of %s: %w", projection, err)
	}
	found, err := db.Query(t.Context(), fmt.Sprintf(`select key, pos, data from r_%s_%d where not gone`, projection, build))
	if err != nil {
		return nil, 0, 0, err
	}
	list = map[string]shown{}
	var key string
	var r shown
	var data map[string]any
	_, err = pgx.ForEachRow(found, []any{&key, &r.position, &data}, func() error {
		r.data = text(t, data)
		list[key], data = r, nil
		return nil
	})
	return list, position, blocked, err
}

// rowsEqualLog waits until the rows of all projections show the head of the log,
// and checks that they equal an independent fold of it.
func (c *cluster) rowsEqualLog() {
	t := c.t
	t.Helper()
	listings, bids, head := folded(t, c.store)
	db := c.connect()
	for projection, want := range map[string]map[string]shown{"listings": listings, "bids": bids} {
		var got map[string]shown
		harness.Eventually(t, "the rows of "+projection+" show the whole log", func() error {
			list, position, blocked, err := stored(t, db, projection)
			if err == nil && (position != head || blocked > 0) {
				err = fmt.Errorf("they show it up to %d of %d, and %d rows are blocked", position, head, blocked)
			}
			got = list
			return err
		})
		if !maps.Equal(got, want) {
			t.Errorf("%d rows of %s, want %d; or rows differ", len(got), projection, len(want))
			for key, row := range want {
				if got[key] != row {
					t.Fatalf("the row %s of %s is %+v, want %+v", key, projection, got[key], row)
				}
			}
		}
	}
}

// bidding is a load of bids, which lasts until the steps are done.
func bidding(steps ...func()) workload {
	w := workload{commands: 800, bids: true, counters: 1, sessions: 16, steps: steps}
	if long {
		w.commands = 10_000
	}
	return w
}
