package browser

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/harness"
)

// away returns a relay whose broker cannot be reached.
func away() node.Relay {
	return node.Relay{Name: "orders", New: func() relay.Target { return unreachable{ended} }}
}

// ended is a channel of no confirmations.
var ended = func() chan eventstore.Position {
	c := make(chan eventstore.Position)
	close(c)
	return c
}()

type unreachable struct{ confirmed <-chan eventstore.Position }

func (unreachable) Open(context.Context, string) (eventstore.Position, bool, error) {
	return 0, false, errors.New("the broker: connection refused")
}
func (unreachable) Publish(context.Context, relay.Message) error { return nil }
func (u unreachable) Confirmed() <-chan eventstore.Position      { return u.confirmed }
func (unreachable) Err() error                                   { return nil }
func (unreachable) Stalled() string                              { return "" }
func (unreachable) Close()                                       {}

func TestConsoleShowsRelays(t *testing.T) {
	catalog, _ := notes(new(atomic.Bool))
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready, Relays: []node.Relay{away()}}, 1)
	})
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(urls[0])}}
	defer client.Leave()
	if _, err := client.Do(t.Context(), "task/t1", "note", "k1", map[string]any{"text": "good"}); err != nil {
		t.Fatal(err)
	}
	const relays = "Relays to brokers"
	p := open(t, urls[0]+console+"#/relays")
	for column, want := range map[int]string{1: "waiting", 2: "dev1", 3: "0", 4: "1"} {
		p.until(cell(relays, "orders", column) + ` === "` + want + `"`)
	}
	p.until(cell(relays, "orders", 7) + `.includes("connection refused")`)
	if value[bool](p, `document.body.innerText.includes("Loading the console")`) {
		t.Error("the text for the time of loading is still there")
	}
	screenshotAll(p, "console-relays")
	wantAccessible(p)
	p.setAppearance(390, 844, "light")
	if value[bool](p, `document.documentElement.scrollWidth > innerWidth`) {
		t.Error("the page is wider than a screen of 390 pixels")
	}
	press(p, relays, "orders", "Pause", "orders: paused")
	p.until(cell(relays, "orders", 1) + ` === "paused"`)
	press(p, relays, "orders", "Resume", "orders: resumed")
	press(p, relays, "orders", "Rewind", "orders: begins after position 0")
	p.wantConsole()
}
