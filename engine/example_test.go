package engine_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"sync"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

// A command that is sent twice with the same key is executed once.
func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := sqlite.Open(context.Background(), sqlite.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	h, err := engine.New(engine.Config{Catalog: &domain.Catalog, Store: store})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.Run(ctx); err != nil {
			log.Print(err)
		}
	})
	defer running.Wait()
	defer cancel()

	counter := eventstore.StreamID{Type: "counter", ID: "visits"}
	for range 2 {
		answer := make(chan command.Outcome, 1)
		h.Submit(command.Command{
			Stream: counter, Name: "add", Data: []byte(`{"by":3}`), Key: "first", ClientKey: true, Client: "ada",
		}, func(o command.Outcome) { answer <- o })
		o := <-answer
		fmt.Println("version", o.Result.Version, "replayed", o.Result.Replayed)
	}
	state, err := h.Get(ctx, command.Get{Stream: counter, Strong: true})
	fmt.Println(string(state.Data), err)
	// Output:
	// version 1 replayed false
	// version 1 replayed true
	// {"value":3} <nil>
}
