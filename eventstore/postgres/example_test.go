package postgres_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func ExampleOpen() {
	ctx := context.Background()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	store, err := postgres.Open(ctx, postgres.Config{
		URL:    server.URL("postgres"),
		Schema: "ganglion",
		Committed: func(_ string, batch []eventstore.Commit) {
			for _, c := range batch {
				fmt.Println("committed:", c.Position, c.Stream, c.Events[0].Type)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	_, err = store.Append(ctx, eventstore.Unit{
		Stream: eventstore.StreamID{Type: "counter", ID: "visits"},
		Commands: []eventstore.Command{{
			Key:    "first",
			Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}},
		}},
	})
	fmt.Println(err)
	// Output:
	// committed: 1 counter/visits added
	// <nil>
}
