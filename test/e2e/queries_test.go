package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// answer is the body of an answer to a query, or of an error.
type answer struct {
	Code, Message string
	Position      uint64
	Data          struct {
		Rows []struct {
			Key      string
			Position uint64
			Data     struct{ Price int64 }
		}
	}
}

// ask asks a gateway for the open auctions.
func ask(ctx context.Context, client *http.Client, url, parameters string) (a answer, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/queries/open_auctions?"+parameters, strings.NewReader("{}"))
	if err != nil {
		return a, err
	}
	req.Header.Set("Authorization", "Bearer dev:bob")
	resp, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err == nil && (resp.StatusCode == http.StatusOK) != (a.Code == "") {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return a, err
}

// TestAnswersShowOwnWritesOnOtherGateways bids at one gateway, and asks another one
// at the position of the bid.
func TestAnswersShowOwnWritesOnOtherGateways(t *testing.T) {
	t.Parallel()
	c := startTrio(t, database(t))
	writers, bids := 4, 100
	if long {
		bids = 2_500
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			if err := c.readOwnWrites(t.Context(), w, bids); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// readOwnWrites opens an auction, and sees each of its bids in an answer.
func (c *cluster) readOwnWrites(ctx context.Context, writer, bids int) error {
	var connections http.Transport
	defer connections.CloseIdleConnections()
	reader := &http.Client{Transport: &connections}
	seller := &harness.Client{ID: "seller", URLs: rotated(c.wsURLs(), writer)}
	defer seller.Leave()
	bidder := &harness.Client{ID: "bidder" + strconv.Itoa(writer), URLs: rotated(c.wsURLs(), writer)}
	defer bidder.Leave()
	stream := auction(writer, 0)
	if _, err := seller.Do(ctx, stream, "open", "open", opening(0)); err != nil {
		return err
	}
	for n := range bids {
		amount := int64(2000 + n)
		bid, err := bidder.Do(ctx, stream, "bid", "bid"+strconv.Itoa(n), map[string]any{"amount": amount})
		if err != nil {
			return err
		}
		url := c.members[(writer+1+n%2)%len(c.members)].URLs[0]
		a, err := ask(ctx, reader, url, fmt.Sprint("timeout_ms=30000&at_least=", bid.Position))
		if err != nil || a.Code != "" {
			return fmt.Errorf("asked at position %d: %s %s %w", bid.Position, a.Code, a.Message, err)
		}
		shown := false
		for _, r := range a.Data.Rows {
			shown = shown || "auction/"+r.Key == stream && r.Data.Price == amount && r.Position == bid.Position
		}
		if !shown || a.Position < bid.Position {
			return fmt.Errorf("the answer shows position %d, and not the bid of %d at position %d: %+v", a.Position, amount, bid.Position, a.Data.Rows)
		}
	}
	return nil
}

// TestQuestionBeyondPausedRowsIsUnavailable asks for a position that a paused
// projection does not reach.
func TestQuestionBeyondPausedRowsIsUnavailable(t *testing.T) {
	t.Parallel()
	store := database(t)
	c := startCluster(t, store, []string{""})
	seller := &harness.Client{ID: "seller", URLs: c.wsURLs()}
	defer seller.Leave()
	url := c.members[0].URLs[0]
	first, err := seller.Do(t.Context(), auction(0, 0), "open", "open", opening(0))
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the rows show the first auction", func() error {
		a, err := ask(t.Context(), harness.HTTP, url, fmt.Sprint("at_least=", first.Position))
		if err == nil && a.Code != "" {
			err = fmt.Errorf("%s %s", a.Code, a.Message)
		}
		return err
	})
	if out, errs, code := call(t, "processor", "pause", "listings", "--store", store); code != 0 {
		t.Fatalf("pause: exit %d, %s%s", code, out, errs)
	}
	second, err := seller.Do(t.Context(), auction(0, 1), "open", "open", opening(1))
	if err != nil {
		t.Fatal(err)
	}
	position := fmt.Sprint(second.Position)
	a, err := ask(t.Context(), harness.HTTP, url, "timeout_ms=300&at_least="+position)
	if err != nil || a.Code != "unavailable" || !strings.Contains(a.Message, "not yet "+position) {
		t.Errorf("asked beyond paused rows: %q %q, %v", a.Code, a.Message, err)
	}
	if a, err := ask(t.Context(), harness.HTTP, url, ""); err != nil || len(a.Data.Rows) != 1 {
		t.Errorf("asked without a position: %+v, %v", a, err)
	}
	if out, errs, code := call(t, "processor", "resume", "listings", "--store", store); code != 0 {
		t.Fatalf("resume: exit %d, %s%s", code, out, errs)
	}
	if a, err := ask(t.Context(), harness.HTTP, url, "timeout_ms=30000&at_least="+position); err != nil || len(a.Data.Rows) != 2 {
		t.Errorf("asked after resume: %+v, %v", a, err)
	}
}

// TestRowsOfReplacedLogStopUntilTheyAreRebuilt restores an older copy of the log and
// accepts the loss.
func TestRowsOfReplacedLogStopUntilTheyAreRebuilt(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	c := startTrio(t, server.URL("postgres"))
	seller := &harness.Client{ID: "seller", URLs: c.wsURLs()}
	defer seller.Leave()
	bidder := &harness.Client{ID: "bob", URLs: c.wsURLs()}
	defer bidder.Leave()
	do := func(steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	bid := func(from, to int) func() error {
		return func() (err error) {
			for n := from; n < to && err == nil; n++ {
				_, err = bidder.Do(t.Context(), auction(0, 0), "bid", fmt.Sprint(from, n), map[string]any{"amount": 2000 + n})
			}
			return err
		}
	}
	backup := filepath.Join(t.TempDir(), "backup")
	do(func() (err error) {
		_, err = seller.Do(t.Context(), auction(0, 0), "open", "open", opening(0))
		return err
	}, bid(0, 10))
	c.rowsEqualLog()
	do(server.Stop, func() error { return server.Copy(backup) }, func() error { return server.Start(t.Context()) }, bid(10, 20))
	c.rowsEqualLog()
	do(server.Stop, func() error { return server.Replace(backup) }, func() error { return server.Start(t.Context()) })
	harness.Eventually(t, "the loss is accepted", func() error {
		if out, errs, code := call(t, "log", "accept-loss", "--yes", "--store", c.store); code != 0 {
			return fmt.Errorf("exit %d, %s%s", code, out, errs)
		}
		return nil
	})
	do(bid(20, 40))
	harness.Eventually(t, "the nodes report that listings has stopped", func() error {
		for _, url := range c.urls() {
			if regexp.MustCompile(`(?m)^ganglion_projection_stopped_segments{projection="listings",reason="other_log"} 1$`).MatchString(scrape(t, url)) {
				return nil
			}
		}
		return fmt.Errorf("no node does")
	})
	if a, err := ask(t.Context(), harness.HTTP, c.urls()[0], "timeout_ms=300"); err != nil || a.Code != "unavailable" {
		t.Errorf("asked about rows of a replaced log: %+v, %v", a, err)
	}
	for _, projection := range []string{"listings", "bids"} {
		if out, errs, code := call(t, "processor", "rebuild", projection, "--store", c.store); code != 0 {
			t.Fatalf("rebuild: exit %d, %s%s", code, out, errs)
		}
	}
	c.rowsEqualLog()
}
