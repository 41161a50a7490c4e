package browser

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/proto/frame"
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

// offline is the queue of a broker that cannot be reached.
type offline struct{ relay.Source }

func (offline) Open(context.Context, int) error {
	return errors.New(`queue "commands" of RabbitMQ at mq.example.com:5671: dial tcp 203.0.113.7:5671: connection refused`)
}
func (offline) Err() error { return nil }
func (offline) Close()     {}

// calm is a queue in which a bad message and then good ones have arrived.
type calm struct {
	relay.Source
	requests chan *relay.Request
}

func newCalm() relay.Source {
	c := calm{requests: make(chan *relay.Request, 8)}
	c.requests <- &relay.Request{Wrong: &frame.Fault{Code: "bad_request", Message: "the message has no key"}}
	for i := range 3 {
		command, wrong := relay.Text{Key: fmt.Sprint("q", i), Aggregate: "task/t2", Command: "note", Data: []byte(`{"text":"good"}`)}.Parse()
		c.requests <- &relay.Request{Command: command, Client: "amqp:bob", Wrong: wrong}
	}
	return c
}

func (calm) Open(context.Context, int) error                      { return nil }
func (c calm) Requests() <-chan *relay.Request                    { return c.requests }
func (calm) Finish(context.Context, *relay.Request, []byte) error { return nil }
func (calm) Refuse(context.Context, *relay.Request, []byte) error { return nil }
func (calm) Err() error                                           { return nil }
func (calm) Close()                                               {}

func TestConsoleShowsRelays(t *testing.T) {
	catalog, _ := notes(new(atomic.Bool))
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: t.TempDir(), Ready: ready, Relays: []node.Relay{away()}, Intakes: []node.Intake{
			{Name: "shop", Where: `queue "commands" of RabbitMQ at mq.example.com:5671`, New: func() relay.Source { return offline{} }},
			{Name: "till", Where: `queue "till" of RabbitMQ at mq.example.com:5671`, New: newCalm},
		}}, 1)
	})
	client := harness.Client{ID: "ada", URLs: []string{harness.WS(urls[0])}}
	defer client.Leave()
	if _, err := client.Do(t.Context(), "task/t1", "note", "k1", map[string]any{"text": "good"}); err != nil {
		t.Fatal(err)
	}
	const relays = "Relays to brokers"
	p := open(t, urls[0]+console+"#/relays")
	for column, want := range map[int]string{1: "waiting", 2: "dev1", 3: "0", 4: "4"} {
		p.until(cell(relays, "orders", column) + ` === "` + want + `"`)
	}
	p.until(cell(relays, "orders", 7) + `.includes("connection refused")`)
	const intakes = "Intakes from queues"
	for column, want := range map[int]string{1: "away", 2: "dev1", 5: "0", 8: "0"} {
		p.until(cell(intakes, "shop", column) + ` === "` + want + `"`)
	}
	p.until(cell(intakes, "shop", 10) + `.includes("connection refused")`)
	for column, want := range map[int]string{1: "working", 4: "0", 5: "3", 6: "0", 8: "1", 10: "–"} {
		p.until(cell(intakes, "till", column) + ` === "` + want + `"`)
	}
	if value[bool](p, `document.body.innerText.includes("Loading the console")`) {
		t.Error("the text for the time of loading is still there")
	}
	screenshotAll(p, "console-relays")
	wantAccessible(p)
	p.setAppearance(390, 844, "light")
	if value[bool](p, `document.documentElement.scrollWidth > innerWidth`) {
		t.Error("the page is wider than a screen of 390 pixels")
	}
	value[bool](p, `location.hash = "#/", true`) // the overview
	p.until(`[...document.querySelectorAll("#problems li")].some((li) => li.textContent.includes("No member takes commands from the queue of the intake shop") && li.querySelector("a").getAttribute("href") === "#/relays")`)
	screenshotAll(p, "console-broker-problems")
	wantAccessible(p)
	p.setAppearance(390, 844, "light")
	if value[bool](p, `document.documentElement.scrollWidth > innerWidth`) {
		t.Error("the overview is wider than a screen of 390 pixels")
	}
	click(p, `#problems a[href="#/relays"]`)
	p.until(cell(relays, "orders", 1) + ` === "waiting"`)
	press(p, relays, "orders", "Pause", "orders: paused")
	p.until(cell(relays, "orders", 1) + ` === "paused"`)
	press(p, relays, "orders", "Resume", "orders: resumed")
	press(p, relays, "orders", "Rewind", "orders: begins after position 0")
	p.wantConsole()
}
