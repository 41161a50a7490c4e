package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// ending follows the log, and checks each auction's end: once, decided by the system,
// and dated and visible not before its closing time. The clock of this process is that
// of the database's machine.
type ending struct {
	t      *testing.T
	store  node.Store
	at     eventstore.Position
	closes map[string]time.Time // by aggregate
	ended  map[string]bool
	last   time.Time                // of the ends
	each   func(*eventstore.Commit) // if not nil, is called with each commit
}

func newEnding(t *testing.T, url string) *ending {
	t.Helper()
	store, err := node.OpenStore(t.Context(), node.StoreConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return &ending{t: t, store: store, closes: map[string]time.Time{}, ended: map[string]bool{}}
}

// read reads the log to its end.
func (e *ending) read() {
	e.t.Helper()
	for {
		commits, err := e.store.Read(e.t.Context(), e.at, 1000)
		if err != nil {
			e.t.Fatal(err)
		}
		now := time.Now()
		for i := range commits {
			e.commit(&commits[i], now)
		}
		if len(commits) == 0 {
			return
		}
	}
}

func (e *ending) commit(c *eventstore.Commit, now time.Time) {
	e.t.Helper()
	e.at = c.Position
	if e.each != nil {
		e.each(c)
	}
	name := c.Stream.String()
	switch c.Events[0].Type {
	case "opened":
		var opened struct {
			ClosesAt time.Time `json:"closes_at"`
		}
		if err := json.Unmarshal(c.Events[0].Data, &opened); err != nil {
			e.t.Fatal(err)
		}
		e.closes[name] = opened.ClosesAt
	case "closed":
		closes := e.closes[name]
		if e.ended[name] || c.At.Before(closes) || now.Before(closes) || c.Meta.Client != "~wake" || !strings.HasPrefix(c.Key, "~wake:") {
			e.t.Errorf("%s, which closes at %s, ended by %q under %q, dated %s, seen at %s; again: %t",
				name, closes, c.Meta.Client, c.Key, c.At, now.UTC(), e.ended[name])
		}
		e.ended[name], e.last = true, now
	}
}

// all waits until n auctions have ended, as long as some end.
func (e *ending) all(n int) {
	e.t.Helper()
	for len(e.ended) < n {
		before := len(e.ended)
		harness.Eventually(e.t, fmt.Sprintf("%d auctions end", n), func() error {
			if e.read(); len(e.ended) == before {
				return fmt.Errorf("%d have", before)
			}
			return nil
		})
	}
}

// openUntil opens auctions that close at a time, by 8 sellers.
func openUntil(t *testing.T, urls []string, name string, n int, closes time.Time) {
	t.Helper()
	const sellers = 8
	var running sync.WaitGroup
	for s := range sellers {
		running.Go(func() {
			seller := harness.Client{ID: fmt.Sprint("seller", s), URLs: rotated(urls, s)}
			defer seller.Leave()
			for i := s; i < n; i += sellers {
				if _, err := seller.Do(t.Context(), fmt.Sprintf("auction/%s-%d", name, i), "open", fmt.Sprint("open ", i),
					map[string]any{"item": "lamp", "reserve": 1, "closes_at": closes}); err != nil {
					t.Errorf("open %s-%d: %v", name, i, err)
					return
				}
			}
		})
	}
	running.Wait()
}

// skewed starts three nodes, of which one's clock is 30 s behind and one's 30 s ahead.
func skewed(t *testing.T, url string) *cluster {
	t.Helper()
	dir := t.TempDir()
	for name, offset := range map[string]string{"n1": "0s", "n2": "-30s", "n3": "30s"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(offset), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return startTrio(t, url, "--clock-offset-file", filepath.Join(dir, "{node}"))
}

// TestAuctionsEndOnceAfterAllNodesWereStopped kills all nodes before the auctions close,
// and starts them after. Others close while the nodes run.
func TestAuctionsEndOnceAfterAllNodesWereStopped(t *testing.T) {
	t.Parallel()
	url := database(t)
	c := skewed(t, url)
	e := newEnding(t, url)
	closes := time.Now().Add(3 * time.Second)
	openUntil(t, c.wsURLs(), "stopped", 30, closes)
	for _, m := range c.members {
		m.Kill()
	}
	e.read()
	for time.Now().Before(closes) {
		time.Sleep(time.Until(closes)) // the time must pass while no node runs
	}
	c.start(0)
	ready := time.Now()
	c.spawn(1)
	c.spawn(2)
	e.all(30)
	t.Logf("the last auction was seen to end %v after the first node was ready", e.last.Sub(ready).Round(time.Millisecond))
	c.awaitReady(1)
	c.awaitReady(2)

	openUntil(t, c.wsURLs(), "running", 30, time.Now().Add(3*time.Second))
	e.all(60)
	c.settled()
	e.read() // none ends twice
	_, errs, code := call(t, "verify", "--store", url)
	if code != 0 {
		t.Error(errs)
	}
}

// open writes auctions that close at a time into a log, without a node.
func (e *ending) open(name string, n int, closes time.Time) {
	e.t.Helper()
	const writers = 64 // whose commits are stored together
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := w; i < n; i += writers {
				data, err := json.Marshal(map[string]any{"item": "lamp", "seller": "ada", "reserve": 1, "closes_at": closes.UTC()})
				if err == nil {
					_, err = e.store.Append(e.t.Context(), eventstore.Unit{
						Stream: eventstore.StreamID{Type: "auction", ID: fmt.Sprint(name, "-", i)},
						Commands: []eventstore.Command{{
							Key: "open", At: time.Now(), Meta: eventstore.Meta{Client: "ada"}, Events: []eventstore.Event{{Type: "opened", Data: data}},
						}},
					})
				}
				if err != nil {
					e.t.Errorf("open %s-%d: %v", name, i, err)
					return
				}
			}
		})
	}
	running.Wait()
}

// TestBurstOfWakeUps lets many auctions end in the same moment, and kills a node in
// the middle. GANGLION_FAULTS=long has 100,000.
func TestBurstOfWakeUps(t *testing.T) {
	t.Parallel()
	n := 300
	if long {
		n = 100_000
	}
	url := database(t)
	e := newEnding(t, url)
	closes := time.Now().Add(time.Duration(n)*2*time.Millisecond + 5*time.Second)
	e.open("burst", n, closes)
	c := skewed(t, url)
	for time.Now().Before(closes) {
		time.Sleep(time.Until(closes)) // they end together
	}
	harness.Eventually(t, "a tenth has ended", func() error {
		if e.read(); len(e.ended) < n/10 {
			return fmt.Errorf("%d have", len(e.ended))
		}
		return nil
	})
	c.members[1].Kill()
	e.all(n)
	t.Logf("the last of %d auctions was seen to end %v after its time", n, e.last.Sub(closes).Round(time.Millisecond))
	c.start(1)
	c.settled()
	e.read()
	harness.Eventually(t, "no wake-up is left", func() error {
		if out, errs, code := call(t, "wakes", "--store", url); code != 0 || !strings.Contains(out, "no aggregate is to be woken") {
			return fmt.Errorf("status %d: %.500s%s", code, out, errs)
		}
		return nil
	})
}

// TestImportedCopyWakesNobodyBeforeTheResume copies a log with auctions that are due.
func TestImportedCopyWakesNobodyBeforeTheResume(t *testing.T) {
	t.Parallel()
	url, file := database(t), filepath.Join(t.TempDir(), "log.jsonl")
	c := startCluster(t, url, []string{""})
	closes := time.Now().Add(12 * time.Second) // a busy machine needs some of them until the node has left
	openUntil(t, c.wsURLs(), "copied", 10, closes)
	c.leave(0)
	copied := database(t)
	for _, args := range [][]string{{"export", "--store", url, file}, {"import", "--store", copied, file}} {
		if _, errs, code := call(t, args...); code != 0 {
			t.Fatalf("%s: %s", args[0], errs)
		}
	}
	for time.Now().Before(closes) {
		time.Sleep(time.Until(closes)) // they must be due
	}
	startCluster(t, copied, []string{""})
	harness.Eventually(t, "the copy lists what is due, and that it is paused", func() error {
		out, _, _ := call(t, "wakes", "--store", copied)
		if !strings.Contains(out, "paused") || strings.Count(out, "auction/copied-") != 10 {
			return fmt.Errorf("it prints %s", out)
		}
		return nil
	})
	e := newEnding(t, copied)
	if e.read(); len(e.ended) > 0 {
		t.Errorf("%d auctions of the copy have ended", len(e.ended))
	}
	if _, errs, code := call(t, "wake", "resume", "--store", copied); code != 0 {
		t.Fatal(errs)
	}
	e.all(10)
}
