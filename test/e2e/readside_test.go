package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// notices follows the log of auctions, and checks that bidders are told what happened:
// each one that was outbid once, in the order of the bids of each auction.
type notices struct {
	*ending
	top     map[string]string   // bidder, by auction
	pending map[string][]string // by bidder and auction: the keys of the commands that must still tell, in order
	events  int                 // of auctions and clients
	told    int
}

func newNotices(t *testing.T, url string) *notices {
	t.Helper()
	n := &notices{ending: newEnding(t, url), top: map[string]string{}, pending: map[string][]string{}}
	n.each = n.note
	return n
}

func (n *notices) note(c *eventstore.Commit) {
	n.t.Helper()
	var data struct{ Bidder, From, Text string }
	if err := json.Unmarshal(c.Events[0].Data, &data); err != nil {
		n.t.Fatal(err)
	}
	switch c.Stream.Type {
	case "auction", "client":
		n.events += len(c.Events)
	}
	switch c.Events[0].Type {
	case "bid_placed":
		if top := n.top[c.Stream.ID]; top != "" && top != data.Bidder {
			place := top + " " + c.Stream.ID
			n.pending[place] = append(n.pending[place], fmt.Sprintf("~outbid:%d.0:0", c.Position))
		}
		n.top[c.Stream.ID] = data.Bidder
	case "notified":
		auction, isOutbid := strings.CutPrefix(data.Text, "you were outbid in auction ")
		place := c.Stream.ID + " " + auction
		if want := n.pending[place]; len(want) == 0 || want[0] != c.Key || !isOutbid || data.From != "~outbid" {
			n.t.Errorf("%s is told %q by %s under %s at position %d; these must come: %v", c.Stream, data.Text, data.From, c.Key, c.Position, want)
			return
		}
		n.told++
		if n.pending[place] = n.pending[place][1:]; len(n.pending[place]) == 0 {
			delete(n.pending, place)
		}
	}
}

// allTold waits until each bidder who was outbid is told.
func (n *notices) allTold(what string) {
	n.t.Helper()
	harness.Eventually(n.t, "bidders are told "+what, func() error {
		if n.read(); len(n.pending) > 0 {
			return fmt.Errorf("%d were told, and these not: %v", n.told, n.pending)
		}
		return nil
	})
}

// readSide is a cluster with everything that reacts to events: rows of auctions, a
// process manager that tells bidders that they were outbid, auctions that end, and a
// group whose three members handle each event of auctions and clients.
type readSide struct {
	*cluster
	program string
	notices *notices
	ledger  *ledger
	bids    atomic.Int64
	opened  int // auctions that end by themselves
}

func startReadSide(t *testing.T, store string) *readSide {
	t.Helper()
	r := &readSide{program: programAt(t, "market"), ledger: newLedger()}
	r.cluster = startTrioOf(t, store, r.program)
	r.notices = newNotices(t, store)
	r.begun("outbid")
	harness.Eventually(t, "the group exists", func() error {
		var n int
		if err := r.connect().QueryRow(t.Context(), `select count(*) from consumer`).Scan(&n); err != nil || n == 0 {
			return fmt.Errorf("%d groups, %w", n, err)
		}
		return nil
	})
	reader, urls := programAt(t, consumerProgram), r.wsURLs()
	for i := range urls {
		r.ledger.startMember(t, reader, fmt.Sprint("m", i+1), rotated(urls, i)...)
	}
	return r
}

// auctions is the number of auctions in which bidders outbid each other.
const auctions = 5

// bid places n bids by four bidders in five auctions. Meanwhile it executes steps, one
// after another, at equal distances.
func (r *readSide) bid(urls []string, n int64, steps ...func()) {
	t := r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	from := r.bids.Load()
	left := atomic.Int64{}
	left.Store(n)
	var bidding sync.WaitGroup
	for a := range auctions {
		bidding.Go(func() {
			if err := r.outbid(ctx, a, rotated(urls, a), &left); err != nil {
				t.Error(err)
				cancel()
			}
		})
	}
	for i, step := range steps {
		want := n * int64(i+1) / int64(len(steps)+1)
		harness.Eventually(t, fmt.Sprint(want, " bids"), func() error {
			if got := r.bids.Load() - from; got < want && ctx.Err() == nil {
				return fmt.Errorf("there are %d", got)
			}
			return nil
		})
		step()
	}
	bidding.Wait()
}

// outbid opens an auction and bids in it until no bid is left.
func (r *readSide) outbid(ctx context.Context, a int, urls []string, left *atomic.Int64) error {
	stream := fmt.Sprint("auction/lot", a)
	seller := harness.Client{ID: "seller", URLs: urls}
	defer seller.Leave()
	if _, err := seller.Do(ctx, stream, "open", "open", opening(0)); err != nil {
		var refused *harness.ErrRefused
		if !errors.As(err, &refused) || refused.Frame.Reason != "already_open" {
			return err
		}
	}
	bidders := make([]harness.Client, 4)
	for i := range bidders {
		bidders[i].ID, bidders[i].URLs = fmt.Sprint("bidder", i), urls
		defer bidders[i].Leave()
	}
	for left.Add(-1) >= 0 {
		amount := 10_000 + r.bids.Add(1)
		_, err := bidders[rand.IntN(len(bidders))].Do(ctx, stream, "bid", fmt.Sprint("bid ", amount), map[string]any{"amount": amount})
		if err != nil {
			return fmt.Errorf("bid of %d in %s: %w", amount, stream, err)
		}
	}
	return nil
}

// end opens auctions that end after a time.
func (r *readSide) end(urls []string, n int, after time.Duration) {
	r.t.Helper()
	openUntil(r.t, urls, fmt.Sprint("ends", r.opened), n, time.Now().Add(after))
	r.opened += n
}

// settle waits until everything has reacted to all events.
func (r *readSide) settle(what string) {
	r.t.Helper()
	r.notices.all(r.opened)
	r.notices.allTold(what)
	r.ledger.wantHandled(r.t, r.notices.events, what)
	r.rowsEqualLog()
}

// check checks what the members have noticed, and the log.
func (r *readSide) check() {
	r.t.Helper()
	r.ledger.mu.Lock()
	for _, p := range r.ledger.problems {
		r.t.Error(p)
	}
	r.t.Logf("%d bids, of which bidders were told %d; %d auctions ended; %d events were handled, and repeated: %v",
		r.bids.Load(), r.notices.told, r.opened, r.ledger.total, r.ledger.refused)
	r.ledger.mu.Unlock()
	if out := r.operate(r.program, 0, "groups"); strings.Contains(out, "parked") {
		r.t.Errorf("a stream is parked: %s", out)
	}
	r.operate(r.program, 0, "verify")
}

// TestBiddersAreToldOnceWhileNodesFail has bidders who outbid each other while nodes
// are killed, and then while a node is frozen, which may own segments of every kind.
// All that the bids cause happens while it is frozen, so it holds no lock that others
// wait for. GANGLION_FAULTS=long places 1,000 bids, kills 8 nodes and freezes each.
func TestBiddersAreToldOnceWhileNodesFail(t *testing.T) {
	t.Parallel()
	r := startReadSide(t, database(t))
	bids, kills, freezes := int64(100), 1, 1
	if long {
		bids, kills, freezes = 1000, 8, 3
	}
	var steps []func()
	first := r.folder("outbid") // the owner of the first segment, and others
	for k := range kills {
		victim := (first + rand.IntN(1+k)) % 3
		steps = append(steps, func() { r.members[victim].Kill() }, func() { r.start(victim) })
	}
	r.bid(r.wsURLs(), bids, steps...)
	r.settled()
	r.settle("after nodes were killed")

	for i := range freezes {
		victim := (first + i) % 3
		urls := slices.Delete(r.wsURLs(), victim, victim+1)
		r.members[victim].Signal(syscall.SIGSTOP)
		r.bid(urls, 40)
		r.end(urls, 12, 0)
		r.settle(fmt.Sprintf("while n%d is frozen", victim+1))
		r.members[victim].Signal(syscall.SIGCONT)
		r.settled()
	}
	r.bid(r.wsURLs(), 20)
	r.settle("at the end")
	r.check()
}

// TestReadSideWaitsForItsDatabase stops PostgreSQL under load for longer than the time
// in which members must acknowledge. Auctions close meanwhile. Nothing is lost,
// repeated or parked. GANGLION_FAULTS=long stops it for 20 s.
func TestReadSideWaitsForItsDatabase(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	away := 5 * time.Second
	if long {
		away = 20 * time.Second
	}
	r := startReadSide(t, server.URL("postgres"))
	urls := r.wsURLs()
	r.bid(urls, 60)
	r.end(urls, 24, 4*time.Second)
	r.bid(urls, 100, func() {
		if err := server.Stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(away)
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	r.settle("after the database came back")
	r.check()
}

// TestRestoredLogGetsNoCommandOfALostCause restores an older copy of the log while
// commands of a process manager are on their way, whose causes the copy does not have.
// Once the loss is accepted and an operator has decided, bidders are told what the new
// history has, and nothing else.
func TestRestoredLogGetsNoCommandOfALostCause(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	r := startReadSide(t, server.URL("postgres"))
	urls := r.wsURLs()
	r.bid(urls, 40)
	r.settle("before the backup")
	r.ledger.mu.Lock()
	last, total := maps.Clone(r.ledger.last), r.ledger.total
	r.ledger.mu.Unlock()
	backup := filepath.Join(t.TempDir(), "backup")
	do := func(steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(server.Stop, func() error { return server.Copy(backup) }, func() error { return server.Start(ctx) })

	// Commands to clients wait, so that there are some on their way.
	holder, err := pgx.Connect(ctx, r.store)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(context.Background())
	for _, sql := range []string{
		`select pg_advisory_lock(4711)`,
		`create function wait_for_test() returns trigger language plpgsql as 'begin perform pg_advisory_xact_lock_shared(4711); return new; end'`,
		`create trigger wait_for_test before insert on commit for each row when (new.agg_type = 'client') execute function wait_for_test()`,
	} {
		if _, err := holder.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	var bidding sync.WaitGroup
	bidding.Go(func() { r.bid(urls, 60) }) // until after the restore
	harness.Eventually(t, "commands are on their way", func() error {
		var pending, waiting int
		err := holder.QueryRow(ctx, `select (select count(*) from process_command), (select count(*) from pg_locks where locktype = 'advisory' and not granted)`).Scan(&pending, &waiting)
		if err == nil && (pending == 0 || waiting == 0) {
			err = fmt.Errorf("%d are pending, %d wait", pending, waiting)
		}
		return err
	})
	do(server.Stop, func() error { return server.Replace(backup) }, func() error { return server.Start(ctx) })
	for _, url := range r.urls() {
		harness.Eventually(t, url+" notices that the log went back", func() error {
			resp, err := harness.HTTP.Get(url + "/readyz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != 503 {
				return fmt.Errorf("readyz returns %s", resp.Status)
			}
			return nil
		})
	}
	r.operate(r.program, 0, "log", "accept-loss", "--yes")
	bidding.Wait()
	harness.Eventually(t, "the group and the process manager wait for an operator", func() error {
		groups, processors := r.operate(r.program, 0, "groups"), r.operate(r.program, 0, "processors")
		if !strings.Contains(groups, "stopped: log") || !regexp.MustCompile(`(?m)^outbid .*stopped: other log$`).MatchString(processors) {
			return errors.New(groups + processors)
		}
		return nil
	})

	r.notices = newNotices(t, r.store)
	r.ledger.mu.Lock() // what the members have handled of the lost history is lost
	r.ledger.last, r.ledger.total = last, total
	r.ledger.holders, r.ledger.sent = map[string]string{}, map[string]bool{}
	r.ledger.mu.Unlock()
	for _, processor := range []string{"listings", "bids", "outbid"} {
		r.operate(r.program, 0, "processor", "rebuild", processor)
	}
	r.operate(r.program, 0, "group", "reset", "readers", "--to", "keep")
	r.bid(urls, 20)
	r.end(urls, 12, 0)
	r.settle("in the new history")
	r.check()
}
