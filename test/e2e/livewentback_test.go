package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestLiveQueriesOfReplacedLogBeginAgain restores an older copy of the log under
// live queries. Once the loss is accepted and the rows are rebuilt, they are reset,
// and then equal the query.
func TestLiveQueriesOfReplacedLogBeginAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	c := startTrio(t, server.URL("postgres"))
	do := func(steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	open := func(from, to int) func() error {
		return func() (err error) {
			seller := &harness.Client{ID: "ada", URLs: c.wsURLs()}
			defer seller.Leave()
			for n := from; n < to && err == nil; n++ {
				_, err = seller.Do(ctx, auction(0, n), "open", fmt.Sprint("open", n), opening(n))
			}
			return err
		}
	}
	backup := filepath.Join(t.TempDir(), "backup")
	do(open(0, 5))
	c.rowsEqualLog()
	do(server.Stop, func() error { return server.Copy(backup) }, func() error { return server.Start(ctx) }, open(5, 10))

	urls := c.wsURLs()
	var viewers []*viewer
	var viewing sync.WaitGroup
	var seen sync.WaitGroup
	for i := range urls {
		v := newViewer(fmt.Sprint("viewer", i), "open_auctions", struct{}{})
		viewers = append(viewers, v)
		seen.Add(1)
		all := sync.OnceFunc(seen.Done)
		viewing.Go(func() {
			for !v.has("a0-20") && ctx.Err() == nil {
				err := v.view(ctx, urls[i], func() bool {
					if v.has("a0-9") {
						all()
					}
					return v.has("a0-20")
				})
				var refused *harness.ErrRefused
				if errors.As(err, &refused) && refused.Frame.Retry == "no" {
					t.Errorf("%s: %v", v.client, err)
					return
				}
			}
		})
	}
	seen.Wait()
	do(server.Stop, func() error { return server.Replace(backup) }, func() error { return server.Start(ctx) })
	for _, url := range c.urls() {
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
	c.operate(binary, 0, "log", "accept-loss", "--yes")
	do(open(11, 14))
	harness.Eventually(t, "the nodes report that listings has stopped", func() error {
		stopped := regexp.MustCompile(`(?m)^ganglion_projection_stopped_segments{projection="listings",reason="other_log"} 1$`)
		if !slices.ContainsFunc(c.urls(), func(url string) bool { return stopped.MatchString(scrape(t, url)) }) {
			return errors.New("no node does")
		}
		return nil
	})
	for _, projection := range []string{"listings", "bids"} {
		c.operate(binary, 0, "processor", "rebuild", projection)
	}
	c.rowsEqualLog()
	do(open(20, 21))
	viewing.Wait()
	_, _, head := folded(t, c.store)
	for i, v := range viewers {
		if !slices.Equal(v.resets, []string{"log"}) {
			t.Errorf("%s was reset: %v, want once: log", v.client, v.resets)
		}
		if err := v.err(); err != nil {
			t.Error(err)
		}
		c.answers(ctx, (i+1)%3, v, head)
	}
}
