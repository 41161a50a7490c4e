package transfer_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/transfer"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	open := func(name string) *sqlite.Store {
		store, err := sqlite.Open(ctx, sqlite.Config{Dir: filepath.Join(dir, name)})
		if err != nil {
			log.Fatal(err)
		}
		return store
	}
	from, to := open("from"), open("to")
	defer from.Close()
	defer to.Close()
	if _, err := from.Append(ctx, eventstore.Unit{
		Stream: eventstore.StreamID{Type: "counter", ID: "a"},
		Commands: []eventstore.Command{{
			Key: "k1", At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
			Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}},
		}},
	}); err != nil {
		log.Fatal(err)
	}

	var file strings.Builder
	if _, err := (transfer.Export{}).Run(ctx, from, &file); err != nil {
		log.Fatal(err)
	}
	_, commits, _ := strings.Cut(file.String(), "\n")
	fmt.Print(commits)

	res, err := transfer.Import{}.Run(ctx, to, strings.NewReader(file.String()))
	fmt.Println(res.Commits, res.Events, res.Head, err)
	// Output:
	// {"pos":1,"n":1,"stream":"counter/a","version":1,"key":"k1","hash":"00000000000000000000000000000000","at":"2026-03-01T12:00:00.000000Z","meta":{},"events":[{"t":"added","d":{"by":1}}]}
	// {"end":1,"commits":1}
	// 1 1 1 <nil>
}
