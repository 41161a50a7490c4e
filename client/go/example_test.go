package ganglion_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
)

// Added is the event of a counter, and Counter its state.
type Added struct {
	By int `json:"by"`
}

type Counter struct {
	Value int `json:"value"`
}

// Counters says what counters show and emit.
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

// The key of a command is known before its result, and the event that it
// causes says it as its Cause.
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
	pending := map[string]bool{sending.Key: true} // show it now
	if _, err := sending.Wait(); err != nil {
		delete(pending, sending.Key) // take it back
	}
	for event, err := range clicks.Subscribe(ctx, ganglion.FromStart()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("hoped for:", pending[event.Cause])
		break
	}
	// Output: hoped for: true
}

// Follow hands over more than events: the state first, and where history ends.
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
			fmt.Println("and is so now")
			subscription.Close()
		case ganglion.KindEvent:
			fmt.Println("plus", item.Event.Data.By)
		}
	}
	fmt.Println("go on from", subscription.Cursor())
	// Output:
	// the value is 7
	// and is so now
	// go on from 1
}
