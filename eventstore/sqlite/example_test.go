package sqlite_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()

	// Three nodes of one process share a log.
	for range 3 {
		store, err := sqlite.Open(ctx, sqlite.Config{Dir: dir})
		if err != nil {
			log.Fatal(err)
		}
		defer store.Close()
		head, err := store.Head(ctx)
		fmt.Println(head, err)
	}
	// Output:
	// 0 <nil>
	// 0 <nil>
	// 0 <nil>
}
