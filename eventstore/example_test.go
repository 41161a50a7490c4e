package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

// A unit names the version of its decision. A known key gives its first outcome, and
// a stream that has moved is a conflict.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	var store eventstore.Store
	store, err = sqlite.Open(ctx, sqlite.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	bid := eventstore.Unit{
		Stream:   eventstore.StreamID{Type: "auction", ID: "42"},
		Expected: 0,
		Commands: []eventstore.Command{{
			Key:    "0190b5c0-0000-7000-8000-000000000001",
			At:     time.Now(),
			Meta:   eventstore.Meta{Client: "ada"},
			Events: []eventstore.Event{{Type: "bid_placed", Data: []byte(`{"amount":1250}`)}},
		}},
	}
	done, err := store.Append(ctx, bid)
	fmt.Println("appended:", done.Commands, err)

	_, err = store.Append(ctx, bid)
	var known *eventstore.KnownKeysError
	if errors.As(err, &known) {
		fmt.Println("known:", known.Known[0].Place)
	}

	bid.Commands[0].Key = "0190b5c0-0000-7000-8000-000000000002"
	_, err = store.Append(ctx, bid)
	fmt.Println(err)

	commits, err := store.Read(ctx, 0, 100)
	for _, c := range commits {
		fmt.Println(c.Position, c.Stream, c.Version, c.Events[0].Type, string(c.Events[0].Data), c.Meta.Client)
	}
	fmt.Println(err)
	// Output:
	// appended: [{1 1}] <nil>
	// known: {1 1}
	// eventstore: append to auction/42: expected version 0, stream is at 1
	// 1 auction/42 1 bid_placed {"amount":1250} ada
	// <nil>
}

func ExampleParseStreamID() {
	s, err := eventstore.ParseStreamID("auction/42")
	fmt.Println(s.Type, s.ID, err)
	_, err = eventstore.ParseStreamID("Auction/42")
	fmt.Println(err)
	// Output:
	// auction 42 <nil>
	// the aggregate's type "Auction" has the character 'A': use lower-case letters, digits, - and _
}
