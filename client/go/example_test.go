package ganglion_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// Added is the event of a counter.
type Added struct {
	By int `json:"by"`
}

// Counter is the state of a counter.
type Counter struct {
	Value int `json:"value"`
}

// Counters gives counters their Go types.
var Counters = ganglion.Type[Counter, Added]{Name: "counter"}

func Example() {
	gateway := newGateway() // stands in for https://example.com
	defer gateway.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	clicks := Counters.Aggregate(client, "clicks")
	for _, by := range []int{2, 3} {
		result, err := clicks.Send(ctx, "add", Added{By: by})
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("now at version", result.Version)
	}
	for event, err := range clicks.Subscribe(ctx, ganglion.FromStart()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Name, event.Data.By)
		if event.Version == 2 {
			break
		}
	}
	// Output:
	// now at version 1
	// now at version 2
	// added 2
	// added 3
}

func ExampleRejection() {
	gateway := newGateway()
	defer gateway.Close()
	client, err := ganglion.Connect(context.Background(), ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	errZero := ganglion.Rejection("zero")
	_, err = client.Aggregate("counter", "clicks").Send(context.Background(), "add", Added{By: 0})
	if errors.Is(err, errZero) {
		fmt.Println("adding nothing is refused")
	}
	// Output: adding nothing is refused
}

// The key of a command is known before its result. It is the Cause of the
// command's events.
func ExampleAggregate_Start() {
	gateway := newGateway()
	defer gateway.Close()
	ctx := context.Background()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	clicks := Counters.Aggregate(client, "clicks")
	sending := clicks.Start(ctx, "add", Added{By: 1})
	pending := map[string]bool{sending.Key: true} // show the expected result
	if _, err := sending.Wait(); err != nil {
		delete(pending, sending.Key) // withdraw it
	}
	for event, err := range clicks.Subscribe(ctx, ganglion.FromStart()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("expected:", pending[event.Cause])
		break
	}
	// Output: expected: true
}

// Follow also delivers the state and the end of history.
func ExampleAggregate_Follow() {
	gateway := newGateway()
	defer gateway.Close()
	ctx := context.Background()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	clicks := Counters.Aggregate(client, "clicks")
	if _, err := clicks.Send(ctx, "add", Added{By: 7}); err != nil {
		log.Fatal(err)
	}
	subscription := clicks.Follow(ganglion.FromState())
	for item, err := range subscription.Items(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		switch item.Kind {
		case ganglion.KindState:
			fmt.Println("the value is", item.State.Data.Value)
		case ganglion.KindLive:
			fmt.Println("that is live")
			subscription.Close()
		case ganglion.KindEvent:
			fmt.Println("plus", item.Event.Data.By)
		}
	}
	fmt.Println("resume from", subscription.Cursor())
	// Output:
	// the value is 7
	// that is live
	// resume from 1
}

// BigCounters are the parameters of the query "counters".
type BigCounters struct {
	Least int `json:"least,omitzero"`
}

// CountersQuery gives the query its Go types.
var CountersQuery = ganglion.Query[BigCounters, Counter]{Name: "counters"}

// With the position of a result, a client reads its own writes.
func ExampleQuery_Run() {
	gateway := newGateway()
	defer gateway.Close()
	ctx := context.Background()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	result, err := Counters.Aggregate(client, "clicks").Send(ctx, "add", Added{By: 7})
	if err != nil {
		log.Fatal(err)
	}
	page, err := CountersQuery.Run(ctx, client, BigCounters{Least: 5}, ganglion.AtLeast(result.Position))
	if err != nil {
		log.Fatal(err)
	}
	for _, row := range page.Rows {
		fmt.Println(row.Key, row.Data.Value)
	}
	// Output: clicks 7
}

// Live yields all rows, and again after each change.
func ExampleQuery_Live() {
	gateway := newGateway()
	defer gateway.Close()
	ctx := context.Background()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	clicks := Counters.Aggregate(client, "clicks")
	for now, err := range CountersQuery.Live(ctx, client, BigCounters{}) {
		if err != nil {
			log.Fatal(err)
		}
		for _, row := range now.Rows {
			fmt.Println(row.Key, row.Data.Value)
		}
		if now.Position == 2 {
			break
		}
		clicks.Start(ctx, "add", Added{By: 5})
	}
	// Output:
	// clicks 0
	// clicks 5
	// clicks 10
}

// States yields the newest state after each change.
func ExampleAggregate_States() {
	gateway := newGateway()
	defer gateway.Close()
	ctx := context.Background()
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{gateway.URL}, ClientID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	clicks := Counters.Aggregate(client, "clicks")
	for state, err := range clicks.States(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("version", state.Version, "has the value", state.Data.Value)
		if state.Version == 2 {
			break
		}
		clicks.Start(ctx, "add", Added{By: 5})
	}
	// Output:
	// version 0 has the value 0
	// version 1 has the value 5
	// version 2 has the value 10
}

// A handler mails each event. A retry of a mail for the same event has the same key.
func ExampleClient_Handle() {
	gateway := newGateway()
	defer gateway.Close()
	ctx, cancel := context.WithCancel(context.Background())
	client, err := ganglion.Connect(context.Background(), ganglion.Options{URLs: []string{gateway.URL}, ClientID: "mailer"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	clicks := Counters.Aggregate(client, "clicks")
	for _, by := range []int{2, 3} {
		if _, err := clicks.Send(ctx, "add", Added{By: by}); err != nil {
			log.Fatal(err)
		}
	}

	err = client.Handle(ctx, "mailer", func(_ context.Context, e ganglion.GroupEvent) error {
		fmt.Println("mail", e.Name, string(e.Data), e.CommandKey(0))
		if e.Version == 2 {
			cancel() // the example ends
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// mail added {"By":2} mailer:1:0
	// mail added {"By":3} mailer:2:0
	// context canceled
}
