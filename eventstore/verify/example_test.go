package verify_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/verify"
)

func ExampleLog() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	store, err := sqlite.Open(ctx, sqlite.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	for i := range 3 {
		if _, err := store.Append(ctx, eventstore.Unit{
			Stream: eventstore.StreamID{Type: "counter", ID: fmt.Sprint(i)},
			Commands: []eventstore.Command{{
				Key:    "k",
				Events: []eventstore.Event{{Type: "added", Data: []byte(`1`)}, {Type: "added", Data: []byte(`2`)}},
			}},
		}); err != nil {
			log.Fatal(err)
		}
	}
	report, err := verify.Log(ctx, store)
	fmt.Println(report.Commits, report.Events, report.Streams, report.Head, report.Faults, err)
	// Output: 3 6 3 6 [] <nil>
}
